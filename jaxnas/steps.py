"""The jitted steps of the search: pure functions of the state, which they are given to keep.

Only the state, a batch, a path and scalars cross into jit. Every random draw of a step comes from
`fold_in(key, step)`, the same on all devices of a run.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import optax

from jaxnas import estimators, loss, paths, supernet
from jaxnas.latency import LatencyModel
from jaxnas.space import Space

Array = jax.Array
Metrics = dict[str, Array]

STATISTICS_MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """What the steps are compiled with. Defaults: the official ProxylessNAS search.

    Attributes:
      momentum: Nesterov, of the weights' SGD.
      weight_decay: added to the gradient of the sampled weights.
      label_smoothing: of weight steps; architecture steps take plain cross-entropy.
      alpha_learning_rate: of α's Adam, β = (0, 0.999).
      initialisation: of the supernet, `independent` as published or `shared`.
    """

    momentum: float = 0.9
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1
    alpha_learning_rate: float = 1e-3
    initialisation: Literal["shared", "independent"] = "independent"


@functools.partial(jax.tree_util.register_dataclass,
                   data_fields=["step", "key", "params", "stats", "momentum", "alpha",
                                "alpha_adam"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class SearchState:
    """All that a search carries from step to step, and all that its checkpoint holds.

    Attributes:
      step: int32 [], weight steps taken.
      key: the run's PRNG key data, uint32; never changed.
      params, stats: the supernet's weights and running batch statistics.
      momentum: optimizer state of the weights, shaped like params.
      alpha: float32 [blocks, candidates].
      alpha_adam: optimizer state of α.
    """

    step: Array
    key: Array
    params: Any
    stats: Any
    momentum: Any
    alpha: Array
    alpha_adam: Any


@dataclasses.dataclass(frozen=True)
class Steps:
    """The compiled programs of one search.

    Attributes:
      sample: (state) → path int32 [blocks] drawn from softmax(α) for the state's step.
      weight: (state, batch, path, learning_rate, statistics_momentum) → (state, metrics). The
        state given is consumed. With learning_rate 0 and statistics_momentum i / (i + 1) for
        i = 0, 1, ... the weights stay and the running statistics become the batches' mean:
        recalibration.
      arch: (state, batch, latency, target_ms, latency_weight) → (alpha, alpha_adam, metrics).
      evaluate: (params, stats, path, batch) → sums over the batch, running statistics.
    """

    sample: Callable[[SearchState], Array]
    weight: Callable[..., tuple[SearchState, Metrics]]
    arch: Callable[..., tuple[Array, Any, Metrics]]
    evaluate: Callable[..., Metrics]


def _optimizer(hyper: Hyperparameters) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(hyper.weight_decay),
                       optax.trace(hyper.momentum, nesterov=True))


def _alpha_optimizer(hyper: Hyperparameters) -> optax.GradientTransformation:
    return optax.adam(hyper.alpha_learning_rate, b1=0.0, b2=0.999)


def init_state(space: Space, num_classes: int, hyper: Hyperparameters, seed: int) -> SearchState:
    """A fresh search."""
    key = jax.random.key(seed)
    params, stats = supernet.init(space, num_classes, seed, hyper.initialisation)
    alpha = paths.init_alpha(key, space.allowed)
    return SearchState(
        step=jnp.int32(0), key=jax.random.key_data(key), params=params, stats=stats,
        momentum=_optimizer(hyper).init(params), alpha=alpha,
        alpha_adam=_alpha_optimizer(hyper).init(alpha))


def _map_trace(function, *states):
    """`function` on the trace inside optax states, which is shaped like the weights."""
    return jax.tree.map(
        lambda *s: s[0]._replace(trace=function(*(x.trace for x in s)))
        if isinstance(s[0], optax.TraceState) else s[0],
        *states, is_leaf=lambda s: isinstance(s, optax.TraceState))


def _check_batch(batch: dict[str, Array]) -> None:
    chex.assert_rank(batch["image"], 4)
    chex.assert_axis_dimension(batch["image"], 3, 3)
    chex.assert_shape(batch["label"], batch["image"].shape[:1])
    chex.assert_type([batch["image"], batch["label"]], [jnp.floating, jnp.int32])


def _key(state: SearchState, use: int) -> Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(state.key), use),
                              state.step)


def make_steps(space: Space, hyper: Hyperparameters) -> Steps:
    """The steps of a search of `space`, each of which compiles once for one batch shape."""
    optimizer, alpha_optimizer = _optimizer(hyper), _alpha_optimizer(hyper)
    allowed = jnp.asarray(space.allowed)
    skip = len(space.convolutions)
    gather = functools.partial(supernet.gather, space)
    scatter = functools.partial(supernet.scatter, space)

    def sample(state: SearchState) -> Array:
        return paths.sample_path(_key(state, 0), state.alpha, allowed)

    def weight(state: SearchState, batch: dict[str, Array], path: Array, learning_rate: Array,
               statistics_momentum: Array) -> tuple[SearchState, Metrics]:
        _check_batch(batch)
        params, stats = gather(state.params, path), gather(state.stats, path)
        momentum = _map_trace(lambda trace: gather(trace, path), state.momentum)

        def objective(params):
            logits, batch_stats = supernet.apply(space, params, stats, path, batch["image"],
                                                 train=True)
            ce = loss.cross_entropy(logits, batch["label"], hyper.label_smoothing)
            return ce, (logits, batch_stats)

        (ce, (logits, batch_stats)), gradient = jax.value_and_grad(
            objective, has_aux=True)(params)
        updates, momentum = optimizer.update(gradient, momentum, params)
        params = jax.tree.map(lambda p, u: p - learning_rate * u, params, updates)
        stats = jax.tree.map(
            lambda running, new: statistics_momentum * running + (1 - statistics_momentum) * new,
            stats, batch_stats)
        state = dataclasses.replace(
            state, step=state.step + 1, params=scatter(state.params, params, path),
            stats=scatter(state.stats, stats, path),
            momentum=_map_trace(lambda old, new: scatter(old, new, path), state.momentum,
                                momentum))
        return state, {"ce": ce, "top1": jnp.mean(logits.argmax(-1) == batch["label"])}

    def arch(state: SearchState, batch: dict[str, Array], latency: LatencyModel,
             target_ms: Array, latency_weight: Array) -> tuple[Array, Any, Metrics]:
        _check_batch(batch)
        pair = paths.sample_pair(_key(state, 1), state.alpha, allowed)
        params = tuple(gather(state.params, path) for path in pair)
        stats = tuple(gather(state.stats, path) for path in pair)

        def objective(gates):
            logits = supernet.apply_two_paths(space, params, stats, pair, gates, batch["image"])
            return loss.cross_entropy(logits, batch["label"])

        ce, gate_gradients = jax.value_and_grad(objective)(jnp.zeros(pair.shape))
        pair_ms = latency.candidate_ms[jnp.arange(pair.shape[1]), pair]
        gate_gradients += jax.grad(loss.latency_term)(
            jnp.float32(0), target_ms, latency_weight) * pair_ms
        gradient = estimators.two_path_gradient(state.alpha, pair, gate_gradients, skip)
        updates, alpha_adam = alpha_optimizer.update(gradient, state.alpha_adam, state.alpha)
        alpha = estimators.rescale_pair(state.alpha, state.alpha + updates, pair)
        expected_ms = latency.expected_ms(paths.probabilities(alpha, allowed))
        return alpha, alpha_adam, {
            "arch_ce": ce, "expected_ms": expected_ms,
            "latency_term": loss.latency_term(expected_ms, target_ms, latency_weight),
            "entropy": paths.entropy(alpha, allowed)}

    def evaluate(params: Any, stats: Any, path: Array, batch: dict[str, Array]) -> Metrics:
        _check_batch(batch)
        logits, _ = supernet.apply(space, gather(params, path), gather(stats, path), path,
                                   batch["image"], train=False)
        hit = (logits.argmax(-1) == batch["label"]) * batch["mask"]
        return {"correct": jnp.sum(hit), "count": jnp.sum(batch["mask"])}

    return Steps(jax.jit(sample), jax.jit(weight, donate_argnums=0), jax.jit(arch),
                 jax.jit(evaluate))
