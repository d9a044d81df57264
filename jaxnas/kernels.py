"""Depthwise convolution and batch normalisation, with the gradients written out.

XLA's own depthwise convolution is slow on CPU, by one to two orders of magnitude in the gradient,
so there it is a sum of shifted slices times taps. Elsewhere `lax.conv_general_dilated` stays. The
choice is made when the program is lowered, by platform.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def depthwise_conv(x: Array, kernel: Array, stride: int) -> Array:
    """Depthwise convolution with symmetric padding k // 2.

    Args:
      x: [batch, height, width, channels].
      kernel: [k, k, channels], k odd, of x's dtype.
      stride: of both axes.

    Returns:
      [batch, ceil(height / stride), ceil(width / stride), channels].
    """
    return lax.platform_dependent(
        x, kernel,
        cpu=functools.partial(_depthwise_shifted, stride),
        default=functools.partial(_depthwise_xla, stride))


def _depthwise_xla(stride: int, x: Array, kernel: Array) -> Array:
    k, _, channels = kernel.shape
    return lax.conv_general_dilated(
        x, kernel[:, :, None, :], (stride, stride), [(k // 2, k // 2)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=channels)


# Jitted for its trace: the supernet calls it a hundred times with a few dozen shapes.
@functools.partial(jax.jit, static_argnums=(2, 3))
def _shifted_sum(x: Array, kernel: Array, stride: int, out_hw: tuple[int, int]) -> Array:
    """Σ over taps of tap · shifted slice; x is padded already."""
    # The barrier keeps XLA from recomputing what precedes x once for every tap.
    x = lax.optimization_barrier(x)
    batch, _, _, channels = x.shape
    height, width = out_hw
    total = jnp.zeros((batch, height, width, channels), x.dtype)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            total += kernel[i, j] * lax.slice(
                x, (0, i, j, 0),
                (batch, i + (height - 1) * stride + 1, j + (width - 1) * stride + 1, channels),
                (1, stride, stride, 1))
    return total


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _depthwise_shifted(stride: int, x: Array, kernel: Array) -> Array:
    return _depthwise_forward(stride, x, kernel)[0]


def _depthwise_forward(stride: int, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    pad = kernel.shape[0] // 2
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    out_hw = (-(-x.shape[1] // stride), -(-x.shape[2] // stride))
    return _shifted_sum(padded, kernel, stride, out_hw), (x, kernel)


@functools.partial(jax.jit, static_argnums=0)
def _depthwise_backward(stride: int, residuals: tuple[Array, Array],
                        dy: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    k = kernel.shape[0]
    pad = k // 2
    batch, height, width, channels = x.shape
    _, out_height, out_width, _ = dy.shape

    # Input gradient: the same sum over the flipped kernel, dy spread out by the stride.
    spread = lax.pad(dy, jnp.zeros((), dy.dtype), (
        (0, 0, 0),
        (k - 1 - pad, height + pad - (out_height - 1) * stride - 1, stride - 1),
        (k - 1 - pad, width + pad - (out_width - 1) * stride - 1, stride - 1),
        (0, 0, 0)))
    dx = _shifted_sum(spread, kernel[::-1, ::-1], 1, (height, width))

    # Kernel gradient: one reduction a tap. Mapped over kernel rows, or a 7x7 takes seconds to
    # compile.
    padded = lax.optimization_barrier(jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))))

    def row(i: Array) -> Array:
        rows = lax.dynamic_slice_in_dim(padded, i, (out_height - 1) * stride + 1, axis=1)
        return jnp.stack([
            jnp.sum(dy * lax.slice(rows, (0, 0, j, 0), (
                batch, rows.shape[1], j + (out_width - 1) * stride + 1, channels),
                (1, stride, stride, 1)), (0, 1, 2))
            for j in range(k)])

    return dx, lax.map(row, jnp.arange(k))


_depthwise_shifted.defvjp(_depthwise_forward, _depthwise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def batch_norm_train(epsilon: float, x: Array, scale: Array,
                     bias: Array) -> tuple[Array, Array, Array]:
    """Batch normalisation by the batch's own statistics (Ioffe and Szegedy 2015, algorithm 1).

    Args:
      epsilon: added to the variance.
      x: [..., channels].
      scale: float32 [channels].
      bias: float32 [channels].

    Returns:
      The normalised x in x's dtype; the batch's mean and its variance, biased, float32 [channels].
      No gradient flows through the two statistics.
    """
    return _batch_norm_forward(epsilon, x, scale, bias)[0]


def _batch_norm_forward(epsilon, x, scale, bias):
    axes = tuple(range(x.ndim - 1))
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axes)
    # The shifted form: E[x²] − E[x]² cancels catastrophically for channels far from zero.
    variance = jnp.mean(jnp.square(wide - mean), axes)
    inverse = lax.rsqrt(variance + epsilon)
    y = (wide - mean) * (inverse * scale) + bias
    return (y.astype(x.dtype), mean, variance), (x, scale, mean, inverse)


def _batch_norm_backward(epsilon, residuals, cotangents):
    x, scale, mean, inverse = residuals
    axes = tuple(range(x.ndim - 1))
    dy = cotangents[0].astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * inverse
    dbias = jnp.sum(dy, axes)
    dscale = jnp.sum(dy * normal, axes)
    count = x.size // x.shape[-1]
    dx = (scale * inverse) * (dy - dbias / count - normal * (dscale / count))
    return dx.astype(x.dtype), dscale, dbias


batch_norm_train.defvjp(_batch_norm_forward, _batch_norm_backward)
