"""Jitted steps of the search: pure functions of the state.

Only the state, a batch, a path, the latency table's arrays and scalars cross into jit. Every random
draw of a step derives from `fold_in(key, step)`, so it is the same on all devices of a run.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnas import (
    estimators,
    loss,
    parallel,
    sampling,
    search_state,
    supernet,
    supernet_initialization,
)
from jaxnas.batch_norm import BN_MOMENTUM
from jaxnas.finite import counted, if_finite, is_finite
from jaxnas.latency import LatencyModel
from jaxnas.pixels import PRECISIONS, check_batch, from_pixels
from jaxnas.search_state import Hyperparameters, SearchState
from jaxnas.space import Space

Array = jax.Array
Metrics = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Steps:
    """Jitted functions of one search.

    Attributes:
      sample: (state) → path int32 [blocks], drawn from softmax(α) for the state's step.
      sample_smallest: (state) → path, drawn evenly from `supernet_initialization.smallest`.
      weight: (state, batch, path, learning_rate) → (state, metrics). Consumes the state.
      arch: α step, (state, batch, latency, target_ms, latency_weight, draw=0) → (changed fields of
        the state by name, metrics). latency_weight is λ of `fixed`, the initial λ of `dual`, β of
        `mul_log`; with `reinforce` it is the exponent of latency in the reward. draw numbers the
        α steps between two weight steps, so that each draws other candidates.
      recalibrate: (params, stats, path, batch, statistics_momentum) → stats. With momentum
        i / (i + 1) for i = 0, 1, ... the path's statistics become the batches' mean. With a
        batch_norm_group of None they stay.
      evaluate: (params, stats, path, batch) → `loss.right_answers`, with running statistics.
    """

    sample: Callable[[SearchState], Array]
    sample_smallest: Callable[[SearchState], Array]
    weight: Callable[..., tuple[SearchState, Metrics]]
    arch: Callable[..., tuple[dict[str, Any], Metrics]]
    recalibrate: Callable[..., Any]
    evaluate: Callable[..., Array]


def _moved(running: Any, new: Any, momentum: Array | float) -> Any:
    """Returns running statistics moved towards those of a batch."""
    return jax.tree.map(lambda old, batch: momentum * old + (1 - momentum) * batch, running, new)


def _map_trace(function, *states):
    """Applies `function` to the traces inside optax states, which are shaped like the weights."""
    return jax.tree.map(
        lambda *s: (
            s[0]._replace(trace=function(*(x.trace for x in s)))
            if isinstance(s[0], optax.TraceState)
            else s[0]
        ),
        *states,
        is_leaf=lambda s: isinstance(s, optax.TraceState),
    )


def _key(state: SearchState, use: Array | int) -> Array:
    return jax.random.fold_in(
        jax.random.fold_in(jax.random.wrap_key_data(state.key), use), state.step
    )


def make_steps(
    space: Space, hyper: Hyperparameters, replicated: jax.sharding.NamedSharding | None = None
) -> Steps:
    """Returns the steps of a search of `space`; each compiles once per batch shape.

    Args:
      replicated: sharding of all outputs, on the devices between which a batch is divided; None
        for one device.

    Raises:
      ValueError: the estimator or latency control is unknown, or they do not fit each other.
    """
    loss.check_control(hyper.latency_control, hyper.estimator)
    optimizer = search_state.weight_optimizer(hyper)
    alpha_optimizer = search_state.alpha_optimizer(hyper)
    allowed = jnp.asarray(space.allowed)
    dtype, group = PRECISIONS[hyper.precision], hyper.batch_norm_group
    estimate_gradient = estimators.make_estimator(
        hyper.estimator, space.allowed, hyper.gumbel_temperature
    )
    gather = functools.partial(supernet.gather, space)
    scatter = functools.partial(supernet.scatter, space)
    pixels = functools.partial(from_pixels, normalization=space.normalization)
    over_parts = functools.partial(parallel.mean_over_parts, replicated=replicated, group=group)

    def sample(state: SearchState) -> Array:
        return sampling.sample_path(_key(state, 0), state.alpha, allowed)

    def sample_smallest(state: SearchState) -> Array:
        smallest = supernet_initialization.smallest(space)
        return sampling.sample_path(_key(state, 0), jnp.zeros_like(state.alpha), smallest)

    def weight(
        state: SearchState,
        batch: dict[str, Array],
        path: Array,
        learning_rate: Array,
    ) -> tuple[SearchState, Metrics]:
        check_batch(batch)
        params, stats = gather(state.params, path), gather(state.stats, path)
        momentum = _map_trace(lambda trace: gather(trace, path), state.momentum)

        def objective(params, stats, path, batch):
            logits, batch_stats = supernet.apply(
                space, params, stats, path, pixels(batch["image"], dtype), group=group
            )
            ce = loss.cross_entropy(logits, batch["label"], hyper.label_smoothing)
            return ce, (loss.top1(logits, batch["label"]), batch_stats)

        (ce, (top1, batch_stats)), gradient = over_parts(
            jax.value_and_grad(objective, has_aux=True)
        )(params, stats, path, batch)
        updates, new_momentum = optimizer.update(gradient, momentum, params)
        new = (
            jax.tree.map(lambda p, u: p - learning_rate * u, params, updates),
            stats if group is None else _moved(stats, batch_stats, BN_MOMENTUM),
            new_momentum,
        )
        finite = is_finite(ce, gradient, batch_stats)
        params, stats, momentum = if_finite(finite, new, (params, stats, momentum))
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=scatter(state.params, params, path),
            stats=scatter(state.stats, stats, path),
            momentum=_map_trace(lambda old, new: scatter(old, new, path), state.momentum, momentum),
            skipped=counted(state.skipped, finite),
        )
        return state, {"ce": ce, "top1": top1, **state.skipped._asdict()}

    def arch(
        state: SearchState,
        batch: dict[str, Array],
        latency: LatencyModel,
        target_ms: Array,
        latency_weight: Array,
        draw: Array | int = 0,
    ) -> tuple[dict[str, Any], Metrics]:
        check_batch(batch)
        before_ms = latency.expected_ms(sampling.probabilities(state.alpha, allowed))
        weight = latency_weight
        if hyper.latency_control == "dual":
            weight = loss.dual_weight(state.multiplier, before_ms, target_ms, latency_weight)
        term = functools.partial(loss.latency_term, hyper.latency_control)

        def gates(choices: Array) -> tuple[Array, Array]:
            def objective(gates, params, stats, choices, batch):
                images = pixels(batch["image"], dtype)
                logits = supernet.apply_gated(
                    space, params, stats, choices, gates, images, group=group
                )
                return loss.cross_entropy(logits, batch["label"])

            ce, ce_gradients = over_parts(jax.value_and_grad(objective))(
                jnp.zeros(choices.shape),
                gather(state.params, choices),
                gather(state.stats, choices),
                choices,
                batch,
            )
            by_ce, by_ms = jax.grad(term, (0, 1))(ce, before_ms, target_ms, weight)
            choices_ms = latency.candidate_ms[jnp.arange(choices.shape[1]), choices]
            return ce, (1 + by_ce) * ce_gradients + by_ms * choices_ms

        def reward(path: Array) -> tuple[Array, Array]:
            def results(params, stats, path, batch):
                images = pixels(batch["image"], dtype)
                logits, _ = supernet.apply(space, params, stats, path, images, group=group)
                return loss.cross_entropy(logits, batch["label"]), loss.top1(logits, batch["label"])

            ce, top1 = over_parts(results)(
                gather(state.params, path), gather(state.stats, path), path, batch
            )
            return ce, loss.reward(top1, latency.path_ms(path), target_ms, weight)

        estimate = estimate_gradient(
            _key(state, 1 + draw), state.alpha, state.baseline, estimators.Problem(gates, reward)
        )
        updates, alpha_adam = alpha_optimizer.update(
            estimate.gradient, state.alpha_adam, state.alpha
        )
        alpha_adam = jax.tree.map(
            lambda new, old: jnp.where(estimate.moves[:, None], new, old),
            alpha_adam,
            state.alpha_adam,
        )
        alpha = state.alpha + updates
        if estimate.pair is not None:
            alpha = estimators.rescale_pair(state.alpha, alpha, estimate.pair)
        expected_ms = latency.expected_ms(sampling.probabilities(alpha, allowed))
        multiplier = state.multiplier
        if hyper.latency_control == "dual":
            multiplier = loss.dual_ascent(
                multiplier, before_ms, expected_ms, target_ms, hyper.alpha_learning_rate
            )
        changes = {
            "alpha": alpha,
            "alpha_adam": alpha_adam,
            "multiplier": multiplier,
            "baseline": estimate.baseline,
        }
        finite = is_finite(estimate.ce, estimate.gradient)
        changes = if_finite(finite, changes, {name: getattr(state, name) for name in changes})
        # Those in a row are the weights' alone, between whose steps α's stand.
        changes["skipped"] = state.skipped._replace(skipped=state.skipped.skipped + ~finite)
        metrics = {
            **changes["skipped"]._asdict(),
            "arch_ce": estimate.ce,
            "expected_ms": expected_ms,
            "latency_weight": weight,
            "entropy": sampling.entropy(alpha, allowed),
            **estimate.metrics,
        }
        if hyper.estimator != "reinforce":  # its reward includes latency
            metrics["latency_term"] = term(estimate.ce, expected_ms, target_ms, weight)
        return changes, metrics

    def recalibrate(
        params: Any, stats: Any, path: Array, batch: dict[str, Array], statistics_momentum: Array
    ) -> Any:
        check_batch(batch)

        def batch_stats(params, stats, path, batch):
            images = pixels(batch["image"], dtype)
            return supernet.apply(space, params, stats, path, images, group=group)[1]

        active = gather(stats, path)
        new = over_parts(batch_stats)(gather(params, path), active, path, batch)
        return scatter(stats, _moved(active, new, statistics_momentum), path)

    def evaluate(params: Any, stats: Any, path: Array, batch: dict[str, Array]) -> Array:
        check_batch(batch)
        with jax.default_matmul_precision("float32"):
            logits, _ = supernet.apply(
                space,
                gather(params, path),
                gather(stats, path),
                path,
                pixels(batch["image"]),
                group=None,
            )
        return loss.right_answers(logits, batch["label"], batch["mask"])

    jit = functools.partial(jax.jit, out_shardings=replicated)
    return Steps(
        jit(sample),
        jit(sample_smallest),
        jit(weight, donate_argnums=0),
        jit(arch),
        jit(recalibrate),
        jit(evaluate),
    )
