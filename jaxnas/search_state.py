"""State of a search and the hyperparameters that its steps are compiled with."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import loss, sampling, supernet_initialization, supernet_pretrained
from jaxnas.batch_norm import BATCH_NORM_GROUP
from jaxnas.finite import Skipped, none_skipped
from jaxnas.pixels import Precision
from jaxnas.reconstruction import Examples
from jaxnas.space import Space

Array = jax.Array

GUMBEL_TEMPERATURE = 1.0


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """Hyperparameters that the steps are compiled with.

    Defaults are those of the official ProxylessNAS search, except for `estimator` (there `full`)
    and `latency_control` (there `mul_log`).

    Attributes:
      momentum: Nesterov momentum of the weights' SGD.
      weight_decay: weight decay, added to the gradient of the sampled weights.
      label_smoothing: label smoothing of weight steps; α steps use plain cross-entropy.
      alpha_learning_rate: learning rate of α's Adam, β = (0, 0.999).
      initialisation: initialization of the supernet: `independent` as published, `shared`, or
        `pretrained` (`jaxnas.supernet_pretrained`).
      estimator: estimator of α's gradient; `jaxnas.estimators` describes when to use which.
      gumbel_temperature: temperature of the estimator `gumbel`. At 1 the gradient is that of
        softmax(α + noise) itself; at lower values it is less biased and noisier (Jang et al. 2017,
        §2.2).
      latency_control: latency term of the loss; `jaxnas.loss` describes when to use which.
        `reinforce` supports `fixed` only, as the exponent of its reward.
      precision: precision of the layers' inputs and products in weight and α steps. Weights,
        statistics, loss, gate gradients and evaluation are float32.
      batch_norm_group: number of images that batch normalization takes together in training; None
        normalizes by the running statistics, which stay as they are.
    """

    momentum: float = 0.9
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1
    alpha_learning_rate: float = 1e-3
    initialisation: supernet_initialization.Initialization = "independent"
    estimator: str = "two"
    gumbel_temperature: float = GUMBEL_TEMPERATURE
    latency_control: loss.Control = "fixed"
    precision: Precision = "f32"
    batch_norm_group: int | None = BATCH_NORM_GROUP


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "step",
        "key",
        "params",
        "stats",
        "momentum",
        "alpha",
        "alpha_adam",
        "multiplier",
        "baseline",
        "skipped",
    ],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class SearchState:
    """State that a search carries from step to step and saves in its checkpoints.

    Attributes:
      step: int32 [], number of weight steps taken, or of α steps where α learns alone.
      key: PRNG key data of the run, uint32; never changed.
      params, stats: weights and running batch statistics of the supernet.
      momentum: optimizer state of the weights, whose trace is shaped like params.
      alpha: α, float32 [blocks, candidates].
      alpha_adam: optimizer state of α, with a count of steps for each block, [blocks, 1].
      multiplier: float32 [], amount that `dual` has added to λ; 0 with the other latency controls.
      baseline: float32 [], baseline of the rewards of `reinforce`; NaN before its first step.
      skipped: counts of the steps whose update was not finite and therefore not taken; those in a
        row are steps of the weights.
    """

    step: Array
    key: Array
    params: Any
    stats: Any
    momentum: Any
    alpha: Array
    alpha_adam: Any
    multiplier: Array
    baseline: Array
    skipped: Skipped


def init_state(
    space: Space,
    num_classes: int,
    hyper: Hyperparameters,
    seed: int,
    examples: Examples | None = None,
    tick: Callable[[float], None] = lambda done: None,
) -> SearchState:
    """Returns the state of a new search.

    Args:
      examples, tick: as for `supernet_pretrained.init`; for the initialization `pretrained` only.
    """
    key = jax.random.key(seed)
    alpha = sampling.init_alpha(key, space.allowed)
    if hyper.initialisation == "pretrained":
        params, stats = supernet_pretrained.init(space, num_classes, seed, examples, tick)
        alpha += supernet_pretrained.prior(space)
    else:
        params, stats = supernet_initialization.init(space, num_classes, seed, hyper.initialisation)
    return SearchState(
        step=jnp.int32(0),
        key=jax.random.key_data(key),
        params=params,
        stats=stats,
        # As one program: leaf by leaf, each shape would be compiled, which takes seconds.
        momentum=jax.jit(weight_optimizer(hyper).init)(params),
        alpha=alpha,
        alpha_adam=_with_counts(alpha_optimizer(hyper).init(alpha), len(space.blocks)),
        multiplier=jnp.float32(0),
        baseline=jnp.float32(jnp.nan),
        skipped=none_skipped(),
    )


def _with_counts(adam: Any, blocks: int) -> Any:
    """Returns the state of optax's Adam with a count for each row of α, as PyTorch has one."""
    return jax.tree.map(
        lambda leaf: jnp.zeros((blocks, 1), leaf.dtype) if leaf.ndim == 0 else leaf, adam
    )


def share(space: Space, state: SearchState) -> SearchState:
    """Returns the state with all candidates computing what the smallest do, and without momentum.

    See `supernet_initialization.share`. The arrays are NumPy's.
    """
    params, stats = supernet_initialization.share(space, state.params, state.stats)
    momentum = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state.momentum)
    return dataclasses.replace(state, params=params, stats=stats, momentum=momentum)


def weight_optimizer(hyper: Hyperparameters) -> optax.GradientTransformation:
    """Returns the optimizer of the weights, whose updates the learning rate multiplies."""
    return optax.chain(
        optax.add_decayed_weights(hyper.weight_decay), optax.trace(hyper.momentum, nesterov=True)
    )


def alpha_optimizer(hyper: Hyperparameters) -> optax.GradientTransformation:
    """Returns the optimizer of α."""
    return optax.adam(hyper.alpha_learning_rate, b1=0.0, b2=0.999)
