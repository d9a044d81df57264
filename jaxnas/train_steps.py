"""Jitted steps that train one network: pure functions of the state.

Only the state and a batch cross into jit. The learning rate derives from the state's step count,
and dropout from `fold_in(key, step)`, so a run resumes from its state alone. Weights, statistics,
loss and evaluation are float32; `bf16` is the precision of the layers' inputs and products in the
training step.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxnas import functional, loss, parallel
from jaxnas.batch_norm import BATCH_NORM_GROUP, BN_MOMENTUM
from jaxnas.finite import Skipped, counted, if_finite, is_finite, none_skipped
from jaxnas.network import Network
from jaxnas.pixels import PRECISIONS, Precision, check_batch, from_pixels

Array = jax.Array
Tree = Any  # nested dicts of arrays


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Training recipe. Defaults: ProxylessNAS's retraining of its mobile network.

    Attributes:
      steps: number of steps of the whole schedule; the cosine reaches 0 with the last.
      last_steps: number of final steps for which the cosine restarts at its peak, as training at
        another image size needs; 0 for one cosine over all steps.
      warmup_steps: number of first steps in which the learning rate rises linearly to its peak.
      learning_rate: peak learning rate.
      momentum: Nesterov momentum of SGD.
      weight_decay: weight decay, added to the gradient; not for batch norm, see `decayed`.
      label_smoothing: label smoothing of the training loss.
      dropout: dropout rate of the classifier's features.
      ema_decay: decay of the moving average of weights and statistics that is evaluated and
        exported; 0 uses the weights themselves. The average is bias-corrected, as in Adam.
      precision: precision of the training step.
      batch_norm_group: number of images that batch normalization takes together in training; None
        normalizes by the running statistics, which stay as they are.
    """

    steps: int
    last_steps: int = 0
    warmup_steps: int = 0
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1
    dropout: float = 0.1
    ema_decay: float = 0.0
    precision: Precision = "f32"
    batch_norm_group: int | None = BATCH_NORM_GROUP


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "key", "params", "stats", "optimizer", "average", "skipped"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class NetworkState:
    """State that a training carries from step to step and saves in its checkpoints.

    Attributes:
      step: int32 [], number of steps taken.
      key: PRNG key data of the run, uint32; never changed.
      params, stats: weights and running batch statistics of the network, float32.
      optimizer: optax's state: momentum shaped like params, and the schedule's count.
      average: optax's moving average of params and stats, or None.
      skipped: counts of the steps whose update was not finite and therefore not taken.
    """

    step: Array
    key: Array
    params: Tree
    stats: Tree
    optimizer: Any
    average: optax.EmaState | None
    skipped: Skipped


@dataclasses.dataclass(frozen=True)
class NetworkSteps:
    """Jitted functions of one training; each compiles once per batch shape.

    Attributes:
      train: (state, batch) → (state, metrics). Consumes the state.
      delivered: (state) → (params, stats) to evaluate and export.
      evaluate: (params, stats, batch with mask) → `loss.right_answers`, with running statistics.
    """

    train: Callable[[NetworkState, dict[str, Array]], tuple[NetworkState, dict[str, Array]]]
    delivered: Callable[[NetworkState], tuple[Tree, Tree]]
    evaluate: Callable[[Tree, Tree, dict[str, Array]], Array]


def learning_rate(recipe: Recipe) -> optax.Schedule:
    """Returns cosines to 0 (Loshchilov and Hutter 2017), the first after a warm-up if any."""
    steps, peak = recipe.steps - recipe.last_steps, recipe.learning_rate
    first = optax.cosine_decay_schedule(peak, steps)
    if recipe.warmup_steps:
        # Starts at peak / (warmup_steps + 1), since with 0 the first step would do nothing.
        first = optax.warmup_cosine_decay_schedule(
            peak / (recipe.warmup_steps + 1), peak, recipe.warmup_steps, steps
        )
    if not recipe.last_steps:
        return first
    return optax.join_schedules(
        [first, optax.cosine_decay_schedule(peak, recipe.last_steps)], [steps]
    )


def decayed(params: Tree) -> Tree:
    """Returns a tree of bool like params: True for all weights but batch norm's scale and bias."""
    if not isinstance(params, dict):
        return True
    if "scale" in params:
        return {name: name == "kernel" for name in params}
    return {name: decayed(child) for name, child in params.items()}


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Returns the recipe's SGD: masked weight decay, Nesterov momentum, scheduled learning rate."""
    return optax.chain(
        optax.add_decayed_weights(recipe.weight_decay, mask=decayed),
        optax.sgd(learning_rate(recipe), momentum=recipe.momentum, nesterov=True),
    )


def init_state(network: Network, recipe: Recipe, seed: int) -> NetworkState:
    """Returns the state of a training that starts from a copy of the network's weights."""
    _, params, stats = functional.split(network)
    params, stats = jax.tree.map(jnp.array, (params, stats))
    average = None
    if recipe.ema_decay:
        average = optax.ema(recipe.ema_decay).init({"params": params, "stats": stats})
    return NetworkState(
        step=jnp.int32(0),
        key=jax.random.key_data(jax.random.key(seed)),
        params=params,
        stats=stats,
        optimizer=jax.jit(optimizer(recipe).init)(params),
        average=average,
        skipped=none_skipped(),
    )


def make_steps(
    network: Network, recipe: Recipe, replicated: jax.sharding.NamedSharding | None = None
) -> NetworkSteps:
    """Returns the steps that train networks of this network's specification.

    Args:
      replicated: sharding of all outputs, on the devices between which a batch is divided; None
        for one device.
    """
    train_graph, eval_graph = (
        functional.split(network, recipe.batch_norm_group)[0],
        functional.split(network, None)[0],
    )
    update_weights, rate = optimizer(recipe).update, learning_rate(recipe)
    dtype, width = PRECISIONS[recipe.precision], network.classifier.kernel[...].shape[0]
    pixels = functools.partial(from_pixels, normalization=network.spec.normalization)

    def over_parts(objective):
        gradient = jax.value_and_grad(objective, has_aux=True)
        return parallel.mean_over_parts(gradient, replicated, recipe.batch_norm_group)

    def train(state: NetworkState, batch: dict[str, Array]):
        check_batch(batch)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

        def objective(params, stats, batch):
            network = nnx.merge(train_graph, nnx.State(params), nnx.State(stats))
            features = network.features(pixels(batch["image"], dtype))
            features = jnp.where(batch["kept"], features / (1 - recipe.dropout), 0)
            logits = network.classifier.logits(features)
            ce = loss.cross_entropy(logits, batch["label"], recipe.label_smoothing)
            top1 = loss.top1(logits, batch["label"])
            return ce, (top1, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat)))

        # Of the whole batch, so that the draw does not depend on the number of devices.
        kept = jax.random.bernoulli(key, 1 - recipe.dropout, (len(batch["label"]), width))
        (ce, (top1, batch_stats)), gradient = over_parts(objective)(
            state.params, state.stats, batch | {"kept": kept}
        )
        updates, optimizer_state = update_weights(gradient, state.optimizer, state.params)
        finite = is_finite(ce, gradient, batch_stats)
        params, stats, optimizer_state = if_finite(
            finite,
            (
                optax.apply_updates(state.params, updates),
                optax.incremental_update(batch_stats, state.stats, 1 - BN_MOMENTUM),
                optimizer_state,
            ),
            # The learning rate goes on with the steps.
            (
                state.params,
                state.stats,
                optax.tree_utils.tree_set(state.optimizer, count=state.step + 1),
            ),
        )
        skipped = counted(state.skipped, finite)
        average = state.average
        if average is not None:
            _, average = optax.ema(recipe.ema_decay).update(
                {"params": params, "stats": stats}, average
            )
        metrics = {
            "ce": ce,
            "top1": top1,
            "learning_rate": rate(state.step),
            **skipped._asdict(),
        }
        return NetworkState(
            state.step + 1, state.key, params, stats, optimizer_state, average, skipped
        ), metrics

    def delivered(state: NetworkState) -> tuple[Tree, Tree]:
        if state.average is None:
            return state.params, state.stats
        # EmaState holds the uncorrected average; optax corrects only what `update` returns.
        average = optax.tree.bias_correction(
            state.average.ema, recipe.ema_decay, state.average.count
        )
        return average["params"], average["stats"]

    def evaluate(params: Tree, stats: Tree, batch: dict[str, Array]) -> Array:
        check_batch(batch)
        with jax.default_matmul_precision("float32"):
            images = pixels(batch["image"])
            logits, _ = functional.run(eval_graph, params, stats, images)
        return loss.right_answers(logits, batch["label"], batch["mask"])

    jit = functools.partial(jax.jit, out_shardings=replicated)
    return NetworkSteps(jit(train, donate_argnums=0), jit(delivered), jit(evaluate))
