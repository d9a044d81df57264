"""Depthwise convolution with explicit gradients.

XLA's own depthwise convolution is slow on CPU, its gradient by one to two orders of magnitude.
There the convolution is computed as a sum of shifted slices times taps. Other platforms use
`lax.conv_general_dilated`, NVIDIA GPUs with another kernel gradient where cuDNN's is slow. The
platform is chosen when the program is lowered.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.padding import Padding, sides

Array = jax.Array

# Most windows that one step of the kernel gradient adds up; its program has a term for each. Two
# rows of 24 pixels or a few small images make up as many. Far fewer show the loop's overhead.
WINDOWS = 48


def depthwise_conv(x: Array, kernel: Array, stride: int, padding: Padding = "symmetric") -> Array:
    """Returns the depthwise convolution of x.

    Args:
      x: [batch, height, width, channels].
      kernel: [k, k, channels], k odd, of x's dtype.
      stride: stride along both axes.
      padding: kind of `jaxnas.padding`.

    Returns:
      [batch, ceil(height / stride), ceil(width / stride), channels].
    """
    # Outer taps that meet only padding are dropped: on 2x2 pixels a 7x7 kernel keeps the inner 3x3.
    far = max(0, kernel.shape[0] // 2 - max(x.shape[1:3]) + 1)
    kernel = kernel[far : kernel.shape[0] - far, far : kernel.shape[1] - far]
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(depthwise_shifted, stride, padding),
        cuda=functools.partial(depthwise_cudnn, stride, padding),
        default=functools.partial(depthwise_xla, stride, padding),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def depthwise_conv_of(
    sizes: tuple[int, ...],
    stride: int,
    padding: Padding,
    x: Array,
    kernel: Array,
    index: Array,
) -> Array:
    """Returns `depthwise_conv` with a kernel whose size is known only at run time.

    Args:
      sizes: possible k of the kernel, odd.
      stride, padding: as in `depthwise_conv`.
      x: [batch, height, width, channels].
      kernel: [k, k, channels] for the largest k or more; a smaller kernel occupies its first rows
        and columns.
      index: int32 [], index of the size in `sizes`.
    """
    return lax.switch(
        index, [functools.partial(_corner_conv, size, stride, padding) for size in sizes], x, kernel
    )


def _corner_conv(size: int, stride: int, padding: Padding, x: Array, kernel: Array) -> Array:
    return depthwise_conv(x, kernel[:size, :size], stride, padding)


def _of_forward(sizes, stride, padding, x, kernel, index):
    return depthwise_conv_of(sizes, stride, padding, x, kernel, index), (x, kernel, index)


def _of_backward(sizes, stride, padding, residuals, dy):
    x, kernel, index = residuals
    pulls = [
        lambda x, kernel, dy, size=size: jax.vjp(
            functools.partial(_corner_conv, size, stride, padding), x, kernel
        )[1](dy)
        for size in sizes
    ]
    return *lax.switch(index, pulls, x, kernel, dy), None


# Plain differentiation of the switch would keep the residuals of every branch.
depthwise_conv_of.defvjp(_of_forward, _of_backward)


def depthwise_xla(stride: int, padding: Padding, x: Array, kernel: Array) -> Array:
    """Returns `depthwise_conv` by XLA's own convolution."""
    k, _, channels = kernel.shape
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        (stride, stride),
        sides(padding, (x.shape[1], x.shape[2]), k, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def depthwise_cudnn(stride: int, padding: Padding, x: Array, kernel: Array) -> Array:
    """Returns `depthwise_xla`, with a kernel gradient summed tap by tap where cuDNN's is slow.

    On an H100 at batch 256, cuDNN's gradient takes 85 ms against 5 ms (7x7 with stride 2 at 112 px,
    bfloat16) and 35 against 22, 25 against 8, 9 against 3 ms (float32 at 56, 28, 7 px). At stride 1
    in bfloat16 cuDNN's is faster: 0.7 against 8 ms at 56 px.
    """
    return depthwise_xla(stride, padding, x, kernel)


def _cudnn_forward(
    stride: int, padding: Padding, x: Array, kernel: Array
) -> tuple[Array, tuple[Array, Array]]:
    return depthwise_xla(stride, padding, x, kernel), (x, kernel)


def _cudnn_backward(
    stride: int, padding: Padding, residuals: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    _, pull = jax.vjp(functools.partial(depthwise_xla, stride, padding), x, kernel)
    dx, dkernel = pull(dy)
    if stride > 1 or x.dtype != jnp.bfloat16:
        dkernel = _tap_gradient(stride, padding, kernel.shape[0], x, dy)
    return dx, dkernel


depthwise_cudnn.defvjp(_cudnn_forward, _cudnn_backward)


def _tap_gradient(stride: int, padding: Padding, k: int, x: Array, dy: Array) -> Array:
    """Returns for each tap Σ over pixels of dy times the slice of x that the tap multiplies."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    batch, height, width, channels = dy.shape
    padded = _padded(stride, padding, k, x)
    taps = [
        jnp.sum(
            lax.slice(
                padded,
                (0, i, j, 0),
                (batch, i + (height - 1) * stride + 1, j + (width - 1) * stride + 1, channels),
                (1, stride, stride, 1),
            ).astype(wide)
            * dy.astype(wide),
            (0, 1, 2),
        )
        for i, j in np.ndindex(k, k)
    ]
    return jnp.stack(taps).reshape(k, k, channels).astype(x.dtype)


def _padded(stride: int, padding: Padding, k: int, x: Array) -> Array:
    return jnp.pad(x, ((0, 0), *sides(padding, (x.shape[1], x.shape[2]), k, stride), (0, 0)))


# Jitted to cache its trace: the supernet calls it a hundred times with a few dozen shapes.
@functools.partial(jax.jit, static_argnums=(2, 3))
def _shifted_sum(x: Array, kernel: Array, stride: int, out_hw: tuple[int, int]) -> Array:
    """Returns Σ over taps of tap · shifted slice; x is already padded."""
    # The barrier keeps XLA from recomputing the operations before x once for every tap.
    x = lax.optimization_barrier(x)
    batch, _, _, channels = x.shape
    height, width = out_hw
    total = jnp.zeros((batch, height, width, channels), x.dtype)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            total = lax.add(
                total,
                _scaled(
                    kernel,
                    (i, j),
                    lax.slice(
                        x,
                        (0, i, j, 0),
                        (
                            batch,
                            i + (height - 1) * stride + 1,
                            j + (width - 1) * stride + 1,
                            channels,
                        ),
                        (1, stride, stride, 1),
                    ),
                ),
            )
    return total


def _scaled(vectors: Array, at: tuple[int, ...], x: Array) -> Array:
    """Returns x times the channel vector `vectors[at]`."""
    # Primitives instead of operators: thousands of these are traced, and each operator of jax.numpy
    # is a small jit of its own.
    end = tuple(i + 1 for i in at)
    vector = lax.squeeze(
        lax.slice(vectors, (*at, 0), (*end, vectors.shape[-1])), tuple(range(len(at)))
    )
    return lax.mul(lax.broadcast_in_dim(vector, x.shape, (x.ndim - 1,)), x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def depthwise_shifted(stride: int, padding: Padding, x: Array, kernel: Array) -> Array:
    """Returns `depthwise_conv` as a sum of shifted slices times taps."""
    return _depthwise_forward(stride, padding, x, kernel)[0]


def _depthwise_forward(
    stride: int, padding: Padding, x: Array, kernel: Array
) -> tuple[Array, tuple[Array, Array]]:
    padded = _padded(stride, padding, kernel.shape[0], x)
    out_hw = (-(-x.shape[1] // stride), -(-x.shape[2] // stride))
    return _shifted_sum(padded, kernel, stride, out_hw), (x, kernel)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _depthwise_backward(
    stride: int, padding: Padding, residuals: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    return (
        _input_gradient(stride, padding, (x.shape[1], x.shape[2]), kernel, dy),
        _kernel_gradient(stride, padding, kernel.shape[0], x, dy),
    )


depthwise_shifted.defvjp(_depthwise_forward, _depthwise_backward)


def _input_gradient(
    stride: int, padding: Padding, height_width: tuple[int, int], kernel: Array, dy: Array
) -> Array:
    """Returns the transposed convolution of dy for an input of this height and width.

    The input's pixels divide into stride² phases. Each phase has its own taps, so no zeros between
    dy's pixels are multiplied.
    """
    k = kernel.shape[0]
    batch, out_height, out_width, channels = dy.shape
    # Pixel u of phase p sums dy's pixels u + (p + pad - tap) / stride over taps that make it whole.
    row_taps, column_taps = (
        [
            [(tap, (p + pad - tap) // stride) for tap in range(k) if (p + pad - tap) % stride == 0]
            for p in range(stride)
        ]
        for pad, _ in sides(padding, height_width, k, stride)
    )
    margin = -(-(k - 1) // stride)
    padded = lax.optimization_barrier(
        jnp.pad(dy, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    )

    def phase(rows: list[tuple[int, int]], columns: list[tuple[int, int]]) -> Array:
        total = jnp.zeros(dy.shape, dy.dtype)
        for (i, down), (j, right) in itertools.product(rows, columns):
            total = lax.add(
                total,
                _scaled(
                    kernel,
                    (i, j),
                    lax.slice(
                        padded,
                        (0, margin + down, margin + right, 0),
                        (batch, margin + down + out_height, margin + right + out_width, channels),
                    ),
                ),
            )
        return lax.optimization_barrier(total)

    phases = jnp.stack(
        [jnp.stack([phase(rows, columns) for columns in column_taps], 3) for rows in row_taps], 2
    )
    height, width = height_width
    return phases.reshape(batch, out_height * stride, out_width * stride, channels)[
        :, :height, :width
    ]


def _kernel_gradient(stride: int, padding: Padding, k: int, x: Array, dy: Array) -> Array:
    """Returns Σ over dy's pixels of the pixel times the [k, k] window of x that it depends on.

    The sum is over pixels, not taps: each step adds a few dozen windows to [k, k, channels], which
    stays in the innermost cache. Tap by tap, x and dy would be read from memory k² times.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)  # dtype of the sum
    batch, height, width, channels = dy.shape
    columns = _divisor(width, WINDOWS)
    rows = _divisor(height, WINDOWS // columns) if columns == width else 1
    images = _divisor(batch, WINDOWS // (rows * columns)) if rows == height else 1
    padded = lax.optimization_barrier(_padded(stride, padding, k, x))
    extent = (images, (rows - 1) * stride + k, (columns - 1) * stride + k, channels)

    def add(total: Array, start: tuple[Array, Array, Array]) -> tuple[Array, None]:
        image, row, column = start
        pixels = lax.dynamic_slice(
            dy, (image, row, column, 0), (images, rows, columns, channels)
        ).astype(wide)
        windows = lax.dynamic_slice(
            padded, (image, row * stride, column * stride, 0), extent
        ).astype(wide)
        for i, r, c in np.ndindex(images, rows, columns):
            window = lax.slice(
                windows,
                (i, r * stride, c * stride, 0),
                (i + 1, r * stride + k, c * stride + k, channels),
            )
            total = lax.add(total, _scaled(pixels, (i, r, c), window))
        return total, None

    starts = np.mgrid[:batch:images, :height:rows, :width:columns].reshape(3, -1)
    total, _ = lax.scan(add, jnp.zeros((1, k, k, channels), wide), tuple(jnp.asarray(starts)))
    return total[0].astype(x.dtype)


def _divisor(number: int, most: int) -> int:
    """Returns the largest divisor of `number` that is at most `most`."""
    return max(d for d in range(1, max(1, most) + 1) if number % d == 0)
