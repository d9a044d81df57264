"""Layers of all networks of this package, as Flax NNX modules.

In training mode a layer normalizes by the batch statistics and *replaces* its `BatchStat` variables
with them; the caller blends them into the running statistics. This keeps momentum, recalibration
and the supernet's rule (only the statistics of sampled candidates change) in one place each.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from jaxnas.batch_norm import BATCH_NORM_GROUP, batch_norm_known, batch_norm_train, group_count
from jaxnas.dense import dense_conv, dense_xla
from jaxnas.depthwise import depthwise_conv, depthwise_conv_of
from jaxnas.padding import Padding
from jaxnas.space import Activation

BATCH_NORM_EPSILON = 1e-3

ConvKind = Literal["dense", "depthwise", "pointwise"]


def he_fan_out(rng: np.random.Generator, shape: tuple[int, ...], fan_out: int) -> np.ndarray:
    """Draws a kernel from a normal distribution with variance 2 / fan_out (He et al. 2015).

    Uses NumPy, since jax.random would compile a program for each of a network's fifty shapes, which
    takes seconds.
    """
    return rng.standard_normal(shape, np.float32) * np.float32((2 / fan_out) ** 0.5)


def activate(activation: Activation | None, x: jax.Array) -> jax.Array:
    """Applies ReLU6, ReLU or nothing."""
    if activation is None:
        return x
    return jnp.clip(x, 0, 6) if activation == "relu6" else jax.nn.relu(x)


@dataclasses.dataclass(frozen=True, eq=False)
class KernelChoice:
    """Size of a depthwise kernel, chosen among several at run time.

    Attributes:
      sizes: possible sizes.
      index: int32 [], index of the size in `sizes`.
    """

    sizes: tuple[int, ...]
    index: jax.Array


class Tape:
    """Outputs of a module's convolutions, saved so that the backward pass need not recompute them.

    A fresh tape records them. With a tape of known outputs, a module that holds the statistics of
    the recorded pass computes only what lies between its convolutions, with the same gradients.
    """

    def __init__(self, known: Sequence[jax.Array] | None = None):
        self.outputs: list[jax.Array] = []
        self.replays = known is not None
        self._known = iter(known or ())

    def take(
        self, convolve: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, kernel: jax.Array
    ) -> jax.Array:
        """Returns convolve(x, kernel), either computed and recorded or known."""
        if self.replays:
            return _known(convolve, next(self._known), x, kernel)
        self.outputs.append(convolve(x, kernel))
        return self.outputs[-1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _known(convolve, value: jax.Array, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns `value`, which equals convolve(x, kernel), with the gradients of the convolution."""
    return value


def _known_forward(convolve, value, x, kernel):
    return value, (x, kernel)


def _known_backward(convolve, residuals, dy):
    # The value is not needed: a convolution is linear in each of its inputs.
    return None, *jax.vjp(convolve, *residuals)[1](dy)


_known.defvjp(_known_forward, _known_backward)


class ConvBatchNorm(nnx.Module):
    """Convolution without bias, batch normalization and optional activation; NHWC.

    Kernels: `dense` [k, k, in, out], `depthwise` [k, k, channels], `pointwise` [in, out]. They are
    drawn with variance 2 / fan_out, where fan_out is k² for depthwise kernels and k² · out for the
    others. By default the official ProxylessNAS (`he_fout`) uses k² · out for depthwise kernels
    too, so our variance is larger there, by a factor of the number of channels.
    """

    def __init__(
        self,
        kind: ConvKind,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        padding: Padding = "symmetric",
        activation: Activation | None = "relu6",
        rng: np.random.Generator,
    ):
        self.kind = kind
        self.stride = stride
        self.padding = padding
        self.activation = activation
        self.use_running_average = False
        self.batch_norm_group = BATCH_NORM_GROUP
        shape = {
            "dense": (kernel, kernel, in_channels, out_channels),
            "depthwise": (kernel, kernel, in_channels),
            "pointwise": (in_channels, out_channels),
        }[kind]
        fan_out = kernel**2 * (1 if kind == "depthwise" else out_channels)
        self.kernel = nnx.Param(he_fan_out(rng, shape, fan_out))
        self.scale = nnx.Param(np.ones(out_channels, np.float32))
        self.bias = nnx.Param(np.zeros(out_channels, np.float32))
        self.mean: nnx.BatchStat[Any] = nnx.BatchStat(np.zeros(out_channels, np.float32))
        self.variance: nnx.BatchStat[Any] = nnx.BatchStat(np.ones(out_channels, np.float32))

    def __call__(
        self, x: jax.Array, choice: KernelChoice | None = None, tape: Tape | None = None
    ) -> jax.Array:
        """Applies the layer to x [batch, height, width, in]; `choice` is for depthwise kernels."""
        kernel = self.kernel[...].astype(x.dtype)
        convolve = functools.partial(self.convolve, choice)
        x = convolve(x, kernel) if tape is None else tape.take(convolve, x, kernel)
        scale, bias = self.scale[...], self.bias[...]
        if self.use_running_average:
            inverse = lax.rsqrt(self.variance[...] + BATCH_NORM_EPSILON) * scale
            x = ((x.astype(jnp.float32) - self.mean[...]) * inverse + bias).astype(x.dtype)
        elif tape is not None and tape.replays:
            x = batch_norm_known(
                BATCH_NORM_EPSILON, x, scale, bias, self.mean[...], self.variance[...]
            )
        else:
            groups = group_count(len(x), self.batch_norm_group)
            x, mean, variance = batch_norm_train(BATCH_NORM_EPSILON, groups, x, scale, bias)
            if tape is None:  # a replay needs each group's
                mean, variance = mean.mean(0), variance.mean(0)
            self.mean.set_value(mean)
            self.variance.set_value(variance)
        return activate(self.activation, x)

    def convolve(self, choice: KernelChoice | None, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Returns the layer's convolution of x, before its normalization."""
        if self.kind == "dense":
            # Of pixels, or of 1x1, nothing is faster than XLA's.
            plain = kernel.shape[2] == 3 or kernel.shape[0] == 1
            if plain:
                return dense_xla(self.stride, self.padding, x, kernel)
            return dense_conv(x, kernel, self.stride, self.padding)
        if choice is not None:
            return depthwise_conv_of(
                choice.sizes, self.stride, self.padding, x, kernel, choice.index
            )
        if self.kind == "depthwise":
            return depthwise_conv(x, kernel, self.stride, self.padding)
        # A plain matrix product is faster on CPU than a 1x1 convolution, and as fast elsewhere.
        return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def max_pool(x: jax.Array) -> jax.Array:
    """Returns the maximum over 3x3 windows at stride 2 with padding 1, of values of 0 or more."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # jax2onnx knows this function by keywords, and no padding but SAME.
    return nnx.max_pool(padded, window_shape=(3, 3), strides=(2, 2), padding="VALID")


class Classifier(nnx.Module):
    """Optional 1x1 convolution to the head's width, global average pooling, linear layer to logits.

    The linear kernel is drawn from a normal distribution with standard deviation 0.01. The official
    ProxylessNAS draws it uniformly from ±1/√in_features.
    """

    def __init__(
        self,
        in_channels: int,
        head_channels: int | None,
        num_classes: int,
        *,
        activation: Activation = "relu6",
        rng: np.random.Generator,
    ):
        self.head = (
            None
            if head_channels is None
            else ConvBatchNorm(
                "pointwise", in_channels, head_channels, activation=activation, rng=rng
            )
        )
        features = head_channels or in_channels
        self.kernel = nnx.Param(0.01 * rng.standard_normal((features, num_classes), np.float32))
        self.bias = nnx.Param(np.zeros(num_classes, np.float32))

    def features(self, x: jax.Array) -> jax.Array:
        """Returns what the linear layer gets, float32 [batch, features]."""
        x = x if self.head is None else self.head(x)
        return jnp.mean(x.astype(jnp.float32), (1, 2))

    def logits(self, features: jax.Array) -> jax.Array:
        """Returns the linear layer's output, float32 [batch, classes]."""
        return features @ self.kernel[...] + self.bias[...]

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.logits(self.features(x))
