"""Dense convolution, on CPUs with the products that are fast there.

XLA's own convolution is fast on CPUs where images are large. On images of up to four pixels it is
up to forty times slower than one product of the windows with the kernel (im2col). Its gradient
of a 3x3 kernel is up to four times slower; that of 5x5 kernels took most of a step inside a
`lax.switch`. Other platforms use `lax.conv_general_dilated`. The benchmark's part `kernels` has the
timings.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.padding import Padding, sides

Array = jax.Array

_SMALL = 4  # pixels of a side of the output up to which windows are multiplied


def dense_conv(x: Array, kernel: Array, stride: int, padding: Padding = "symmetric") -> Array:
    """Returns the convolution of x.

    Args:
      x: [batch, height, width, in].
      kernel: [k, k, in, out], k odd, of x's dtype.
      stride: stride along both axes.
      padding: kind of `jaxnas.padding`.

    Returns:
      [batch, ceil(height / stride), ceil(width / stride), out].
    """
    # Outer taps that meet only padding are dropped, as in a depthwise convolution.
    far = max(0, kernel.shape[0] // 2 - max(x.shape[1:3]) + 1)
    kernel = kernel[far : kernel.shape[0] - far, far : kernel.shape[1] - far]
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(dense_products, stride, padding),
        default=functools.partial(dense_xla, stride, padding),
    )


def dense_xla(stride: int, padding: Padding, x: Array, kernel: Array) -> Array:
    """Returns the convolution by `lax.conv_general_dilated`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride,) * 2,
        sides(padding, (x.shape[1], x.shape[2]), kernel.shape[0], stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def dense_im2col(stride: int, padding: Padding, x: Array, kernel: Array) -> Array:
    """Returns the convolution as one product of all windows with the kernel."""
    windows = _windows(stride, padding, x, kernel.shape[0])
    return (windows @ kernel.reshape(-1, kernel.shape[-1])).reshape(
        x.shape[0], -(-x.shape[1] // stride), -(-x.shape[2] // stride), -1
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def dense_products(stride: int, padding: Padding, x: Array, kernel: Array) -> Array:
    """Returns the convolution by what is fast on CPUs, and so its gradients."""
    by = dense_im2col if _is_small(stride, x) else dense_xla
    return by(stride, padding, x, kernel)


def _forward(
    stride: int, padding: Padding, x: Array, kernel: Array
) -> tuple[Array, tuple[Array, Array]]:
    return dense_products(stride, padding, x, kernel), (x, kernel)


def _backward(
    stride: int, padding: Padding, residuals: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    if _is_small(stride, x):
        return jax.vjp(functools.partial(dense_im2col, stride, padding), x, kernel)[1](dy)
    (dx,) = jax.vjp(lambda x: dense_xla(stride, padding, x, kernel), x)[1](dy)
    dy = dy.reshape(-1, dy.shape[-1])
    if kernel.shape[0] == 3:
        dkernel = _windows(stride, padding, x, 3).T @ dy
    else:  # twenty-five times the input is more than the product is worth
        pixels = taps(stride, padding, x, len(kernel))
        products = [one.reshape(len(dy), -1).T @ dy for one in pixels]
        dkernel = jnp.stack(products)
    return dx, dkernel.reshape(kernel.shape)


dense_products.defvjp(_forward, _backward)


def _is_small(stride: int, x: Array) -> bool:
    return max(x.shape[1:3]) <= _SMALL * stride


def _windows(stride: int, padding: Padding, x: Array, size: int) -> Array:
    """Returns the pixels under the kernel at every place, [batch · places, size² · in]."""
    return jnp.concatenate(taps(stride, padding, x, size), -1).reshape(-1, size**2 * x.shape[-1])


def taps(stride: int, padding: Padding, x: Array, size: int) -> list[Array]:
    """Returns the pixels under each tap of the kernel, [batch, out height, out width, in]."""
    around = sides(padding, (x.shape[1], x.shape[2]), size, stride)
    padded = jnp.pad(x, ((0, 0), *around, (0, 0)))
    height, width = (stride * (-(-side // stride) - 1) + 1 for side in x.shape[1:3])
    return [
        padded[:, i : i + height : stride, j : j + width : stride]
        for i, j in itertools.product(range(size), repeat=2)
    ]
