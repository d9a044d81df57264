"""Batch normalization in training, with explicit gradients.

Plain differentiation would keep several arrays of the input's size for the backward pass.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def batch_norm_train(
    epsilon: float, x: Array, scale: Array, bias: Array
) -> tuple[Array, Array, Array]:
    """Normalizes x by the batch statistics (Ioffe and Szegedy 2015, algorithm 1).

    Args:
      epsilon: constant added to the variance.
      x: [..., channels].
      scale: float32 [channels].
      bias: float32 [channels].

    Returns:
      The normalized x in x's dtype; the batch's mean and biased variance, float32 [channels].
      No gradient flows through the returned mean and variance.
    """
    return _batch_norm_forward(epsilon, x, scale, bias)[0]


def _batch_norm_forward(epsilon, x, scale, bias):
    axes = tuple(range(x.ndim - 1))
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axes)
    # Two passes, since E[x²] − E[x]² cancels catastrophically for channels far from zero.
    variance = jnp.mean(jnp.square(wide - mean), axes)
    inverse = lax.rsqrt(variance + epsilon)
    y = (wide - mean) * (inverse * scale) + bias
    return (y.astype(x.dtype), mean, variance), (x, scale, mean, inverse)


def _batch_norm_backward(epsilon, residuals, cotangents):
    return _batch_norm_gradients(residuals, cotangents[0])


def _batch_norm_gradients(residuals: tuple[Array, ...], dy: Array) -> tuple[Array, Array, Array]:
    """Returns the gradients with respect to x, scale and bias, including through the statistics."""
    x, scale, mean, inverse = residuals
    axes = tuple(range(x.ndim - 1))
    dy = dy.astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * inverse
    dbias = jnp.sum(dy, axes)
    dscale = jnp.sum(dy * normal, axes)
    count = x.size // x.shape[-1]
    dx = (scale * inverse) * (dy - dbias / count - normal * (dscale / count))
    return dx.astype(x.dtype), dscale, dbias


batch_norm_train.defvjp(_batch_norm_forward, _batch_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def batch_norm_known(
    epsilon: float, x: Array, scale: Array, bias: Array, mean: Array, variance: Array
) -> Array:
    """Returns `batch_norm_train`'s normalized x, with the same gradients, from known statistics.

    Args:
      epsilon, x, scale, bias: as for `batch_norm_train`.
      mean, variance: statistics that `batch_norm_train` returned for this x.
    """
    return _known_forward(epsilon, x, scale, bias, mean, variance)[0]


def _known_forward(epsilon, x, scale, bias, mean, variance):
    inverse = lax.rsqrt(variance + epsilon)
    y = (x.astype(jnp.float32) - mean) * (inverse * scale) + bias
    return y.astype(x.dtype), (x, scale, mean, inverse)


def _known_backward(epsilon, residuals, dy):
    return *_batch_norm_gradients(residuals, dy), None, None


batch_norm_known.defvjp(_known_forward, _known_backward)
