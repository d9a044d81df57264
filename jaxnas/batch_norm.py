"""Batch normalization in training, in groups of images, with explicit gradients.

Plain differentiation would keep several arrays of the input's size for the backward pass.

A batch that is divided between devices is normalized in groups of a fixed number of images, as each
GPU of the official search normalizes its own. No layer then waits for other devices, and the result
does not depend on their number.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

BN_MOMENTUM = 0.9  # of the running statistics
BATCH_NORM_GROUP = 64  # images, the batch of a GPU in the official search


def group_count(batch: int, group: int) -> int:
    """Returns the number of equal groups, of `group` images or more each, that a batch has."""
    most = max(1, batch // group)
    return next(count for count in range(most, 0, -1) if batch % count == 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def batch_norm_train(
    epsilon: float, groups: int, x: Array, scale: Array, bias: Array
) -> tuple[Array, Array, Array]:
    """Normalizes each group of images by its statistics (Ioffe and Szegedy 2015, algorithm 1).

    Args:
      epsilon: constant added to the variance.
      groups: number of groups, a divisor of the batch; consecutive images are a group.
      x: [batch, ..., channels].
      scale: float32 [channels].
      bias: float32 [channels].

    Returns:
      The normalized x in x's dtype; the groups' means and biased variances, float32 [groups,
      channels]. No gradient flows through the returned means and variances.
    """
    return _batch_norm_forward(epsilon, groups, x, scale, bias)[0]


def _batch_norm_forward(epsilon, groups, x, scale, bias):
    wide, axes = _grouped(x, groups)
    mean = jnp.mean(wide, axes, keepdims=True)
    # Two passes, since E[x²] − E[x]² cancels catastrophically for channels far from zero.
    variance = jnp.mean(jnp.square(wide - mean), axes, keepdims=True)
    inverse = lax.rsqrt(variance + epsilon)
    y = ((wide - mean) * (inverse * scale) + bias).reshape(x.shape)
    statistics = (mean.reshape(groups, -1), variance.reshape(groups, -1))
    return (y.astype(x.dtype), *statistics), (x, scale, mean, inverse)


def _grouped(x: Array, groups: int) -> tuple[Array, tuple[int, ...]]:
    """Returns x in float32 with an axis of groups, and the axes that a group's statistics reduce.

    One group has no axis of its own: XLA's CPU programs of a step are 6 % slower with it.
    """
    x = x.astype(jnp.float32)
    if groups > 1:
        x = x.reshape(groups, -1, *x.shape[1:])
    return x, tuple(range(groups > 1, x.ndim - 1))


def _batch_norm_backward(epsilon, groups, residuals, cotangents):
    return _batch_norm_gradients(residuals, cotangents[0])


def _batch_norm_gradients(residuals: tuple[Array, ...], dy: Array) -> tuple[Array, Array, Array]:
    """Returns the gradients with respect to x, scale and bias, including through the statistics."""
    x, scale, mean, inverse = residuals
    groups = mean.size // x.shape[-1]
    dy, axes = _grouped(dy, groups)
    normal = (_grouped(x, groups)[0] - mean) * inverse
    dbias = jnp.sum(dy, axes, keepdims=True)
    dscale = jnp.sum(dy * normal, axes, keepdims=True)
    count = x.size // x.shape[-1] // groups
    dx = (scale * inverse) * (dy - dbias / count - normal * (dscale / count))
    dscale, dbias = (leaf.reshape(groups, -1).sum(0) for leaf in (dscale, dbias))
    return dx.reshape(x.shape).astype(x.dtype), dscale, dbias


batch_norm_train.defvjp(_batch_norm_forward, _batch_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def batch_norm_known(
    epsilon: float, x: Array, scale: Array, bias: Array, mean: Array, variance: Array
) -> Array:
    """Returns `batch_norm_train`'s normalized x, with the same gradients, from known statistics.

    Args:
      epsilon, x, scale, bias: as for `batch_norm_train`.
      mean, variance: statistics that `batch_norm_train` returned for this x, [groups, channels].
    """
    return _known_forward(epsilon, x, scale, bias, mean, variance)[0]


def _known_forward(epsilon, x, scale, bias, mean, variance):
    wide, axes = _grouped(x, len(mean))
    shape = [1 if axis in axes else size for axis, size in enumerate(wide.shape)]
    mean, variance = mean.reshape(shape), variance.reshape(shape)
    inverse = lax.rsqrt(variance + epsilon)
    y = ((wide - mean) * (inverse * scale) + bias).reshape(x.shape)
    return y.astype(x.dtype), (x, scale, mean, inverse)


def _known_backward(epsilon, residuals, dy):
    return *_batch_norm_gradients(residuals, dy), None, None


batch_norm_known.defvjp(_known_forward, _known_backward)
