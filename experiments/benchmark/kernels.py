"""Part `kernels`: implementations of convolutions, and the cost of a `lax.switch`."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.benchmark.timing import in_turn, summary
from experiments.benchmark.workload import Workload
from jaxnas.dense import dense_im2col, dense_products, dense_xla, taps
from jaxnas.depthwise import depthwise_conv, depthwise_shifted, depthwise_xla
from jaxnas.network import block_of
from jaxnas.padding import Padding, sides
from jaxnas.pixels import PRECISIONS
from jaxnas.space import Block

Array = jax.Array
Implementations = Mapping[str, Callable[..., Array]]

KERNELS = (3, 7)
_SWITCHES = (16, 128)
_BRANCHES = 7  # as many as a skippable block of the proxyless space has candidates
_WAYS = 3  # of a nested switch


def depthwise(workload: Workload, rounds: int) -> list[dict[str, Any]]:
    """Times both implementations on the depthwise layers of the workload's widest candidates.

    `shifted` is the sum of shifted slices, which jaxnas uses on CPUs. `xla` is
    `lax.conv_general_dilated`, which it uses on other platforms.

    Args:
      workload: space, batch, image size and precision.
      rounds: number of timed calls of each.

    Returns:
      For each shape, stride and kernel: time of forward, and of forward with both gradients.
    """
    implementations: Implementations = {"shifted": depthwise_shifted, "xla": depthwise_xla}
    rows = []
    for size, channels, stride in _depthwise_shapes(workload):
        for k in KERNELS:
            shape = {"size": size, "channels": channels, "stride": stride, "kernel": k}
            operands = _operands(workload, size, stride, (k, k, channels))
            rows.append({**shape, **_timed(implementations, stride, operands, rounds)})
    return rows


def strided_depthwise(workload: Workload, rounds: int) -> list[dict[str, Any]]:
    """Times depthwise convolutions of stride 2, `ours` and by `depthwise_space_to_depth`.

    Returns:
      As `depthwise`.
    """
    implementations: Implementations = {
        "ours": lambda stride, padding, x, kernel: depthwise_conv(x, kernel, stride, padding),
        "space_to_depth": depthwise_space_to_depth,
    }
    rows = []
    for size, channels, stride in _depthwise_shapes(workload):
        for k in KERNELS if stride == 2 and size % 2 == 0 else ():
            shape = {"size": size, "channels": channels, "kernel": k}
            operands = _operands(workload, size, stride, (k, k, channels))
            rows.append({**shape, **_timed(implementations, stride, operands, rounds)})
    return rows


def depthwise_space_to_depth(stride: int, padding: Padding, x: Array, kernel: Array) -> Array:
    """Returns `depthwise_conv` of stride 2 as a grouped convolution of stride 1.

    Each 2×2 pixels of a channel become four channels of its group.

    Args:
      x: [batch, height, width, channels], height and width even.
    """
    batch, height, width, channels = x.shape
    before = np.array(sides(padding, (height, width), len(kernel), stride))[:, 0]
    # A zero tap in front where the windows start at odd pixels; an even number of taps.
    front = before % 2
    back = (len(kernel) + front) % 2
    kernel = jnp.pad(kernel, [*zip(front.tolist(), back.tolist(), strict=True), (0, 0)])
    rows, columns = kernel.shape[0] // 2, kernel.shape[1] // 2
    cells = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    cells = cells.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // 2, width // 2, -1)
    weights = kernel.reshape(rows, 2, columns, 2, channels).transpose(0, 2, 1, 3, 4)
    top, left = ((before + front) // 2).tolist()
    return lax.conv_general_dilated(
        cells,
        weights.reshape(rows, columns, 4, channels),
        (1, 1),
        [(top, rows - 1 - top), (left, columns - 1 - left)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )


def dense(workload: Workload, rounds: int) -> list[dict[str, Any]]:
    """Times implementations on the dense layers of the workload's fused candidates.

    `products` is what jaxnas uses on CPUs: `im2col`, one product of all windows with the kernel, on
    small images; else `xla`, `lax.conv_general_dilated`, with products for the kernel's gradient.
    Other platforms use `xla`. `shifted` is a product for each tap.

    Returns:
      As `depthwise`.
    """
    implementations: Implementations = {
        "products": dense_products,
        "xla": dense_xla,
        "im2col": dense_im2col,
        "shifted": _dense_shifted,
    }
    rows = []
    for size, channels, out_channels, stride, k in _dense_shapes(workload):
        shape = {"size": size, "channels": channels, "out_channels": out_channels}
        operands = _operands(workload, size, stride, (k, k, channels, out_channels))
        timed = _timed(implementations, stride, operands, rounds)
        rows.append({**shape, "stride": stride, "kernel": k, **timed})
    return rows


def _timed(
    implementations: Implementations,
    stride: int,
    operands: tuple[Array, Array, Array],
    rounds: int,
) -> dict[str, Any]:
    """Returns the times of each implementation's forward pass, and with both gradients."""
    x, kernel, dy = operands
    calls = {}
    for name, convolve in implementations.items():
        forward = jax.jit(functools.partial(convolve, stride, "symmetric"))
        calls[f"{name}_forward"] = functools.partial(forward, x, kernel)
        calls[f"{name}_gradient"] = functools.partial(
            jax.jit(functools.partial(_gradient, forward)), x, kernel, dy
        )
    return {name: summary(times) for name, times in in_turn(calls, rounds).items()}


def switches(rounds: int) -> dict[str, float]:
    """Times one `lax.switch` among seven trivial branches, in µs.

    Programs of 16 and 128 switches in a row, each with its own index, are compared with programs
    of as many plain branches. The difference is the choice itself, and on an accelerator the time
    for which the host waits for the index. `nested` chooses among nine by a switch of three
    branches in a switch of three, as a supernet has kinds of candidates and kernels.
    """
    branches = [functools.partial(_scaled, 1 + i / 1000) for i in range(_WAYS**2)]
    calls = {}
    x = jnp.ones((8, 128))
    for count in _SWITCHES:
        choices = jnp.asarray(np.random.default_rng(0).integers(0, _BRANCHES, count), jnp.int32)

        def switched(x: Array, choices: Array, count: int = count) -> Array:
            for i in range(count):
                x = lax.optimization_barrier(lax.switch(choices[i], branches[:_BRANCHES], x))
            return x

        def nested(x: Array, choices: Array, count: int = count) -> Array:
            for i in range(count):
                outer = [
                    functools.partial(lax.switch, choices[i] % _WAYS, branches[j : j + _WAYS])
                    for j in range(0, _WAYS**2, _WAYS)
                ]
                x = lax.optimization_barrier(lax.switch(choices[i] // _WAYS, outer, x))
            return x

        def plain(x: Array, choices: Array, count: int = count) -> Array:
            for i in range(count):
                x = lax.optimization_barrier(branches[0](x + choices[i]))
            return x

        for name, function in (("switch", switched), ("nested", nested), ("plain", plain)):
            calls[f"{name} {count}"] = functools.partial(jax.jit(function), x, choices)
    times_ms = in_turn(calls, rounds)
    few, many = _SWITCHES
    slopes = {
        name: 1e3
        * (np.median(times_ms[f"{name} {many}"]) - np.median(times_ms[f"{name} {few}"]))
        / (many - few)
        for name in ("switch", "nested", "plain")
    }
    return {
        "switch_us": float(slopes["switch"]),
        "plain_us": float(slopes["plain"]),
        "choice_us": float(slopes["switch"] - slopes["plain"]),
        "nested_us": float(slopes["nested"] - slopes["plain"]),
        "rounds": rounds,
    }


def _scaled(factor: float, x: Array) -> Array:
    return x * factor


def _depthwise_shapes(workload: Workload) -> Iterator[tuple[int, int, int]]:
    """Yields each distinct (input size, channels, stride) of depthwise layers at top expansion."""
    seen = set()
    for size, block in _blocks(workload):
        expansion = max((c.expansion for c in block.convolutions if not c.fused), default=0)
        shape = (size, block.in_channels * expansion, block.stride)
        if expansion and shape not in seen:
            seen.add(shape)
            yield shape


def _dense_shapes(workload: Workload) -> Iterator[tuple[int, int, int, int, int]]:
    """Yields each distinct (input size, channels, output channels, stride, kernel)."""
    seen = set()
    for size, block in _blocks(workload):
        for candidate in block.convolutions:
            layer = block_of(block, candidate).layers[0]
            shape = (size, layer.in_channels, layer.out_channels, layer.stride, layer.kernel)
            if candidate.fused and shape not in seen:
                seen.add(shape)
                yield shape


def _blocks(workload: Workload) -> Iterator[tuple[int, Block]]:
    """Yields every block with the size of its input in px."""
    size = workload.image_size // 2
    for block in workload.search_space.blocks:
        yield size, block
        size = -(-size // block.stride)


def _dense_shifted(stride: int, padding: Padding, x: Array, kernel: Array) -> Array:
    pixels = taps(stride, padding, x, len(kernel))
    weights = kernel.reshape(-1, *kernel.shape[2:])
    return functools.reduce(jnp.add, [a @ w for a, w in zip(pixels, weights, strict=True)])


def _operands(
    workload: Workload, size: int, stride: int, kernel: tuple[int, ...]
) -> tuple[Array, Array, Array]:
    """Returns random x, kernel and dy; the kernel's last two axes are its channels, or one is."""
    rng, dtype = np.random.default_rng(0), PRECISIONS[workload.precision]
    out = -(-size // stride)
    shapes = (
        (workload.batch_size, size, size, kernel[2]),
        kernel,
        (workload.batch_size, out, out, kernel[-1]),
    )
    x, weights, dy = (
        jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for shape in shapes
    )
    return x, weights, dy


def _gradient(
    convolve: Callable[[Array, Array], Array], x: Array, kernel: Array, dy: Array
) -> tuple[Array, tuple[Array, Array]]:
    """Returns the output, and the gradients of input and kernel for the output gradient dy."""
    y, pull = jax.vjp(convolve, x, kernel)
    return y, pull(dy)
