"""Part `kernels`: both implementations of depthwise convolution, and the cost of a `lax.switch`."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.benchmark.timing import in_turn, summary
from experiments.benchmark.workload import Workload
from jaxnas.depthwise import depthwise_shifted, depthwise_xla
from jaxnas.search_steps import PRECISIONS

Array = jax.Array

KERNELS = (3, 7)
_SWITCHES = (16, 128)
_BRANCHES = 7  # as many as a skippable block of the proxyless space has candidates


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
    rows = []
    for size, channels, stride in _shapes(workload):
        for k in KERNELS:
            x, kernel, dy = _operands(workload, size, channels, stride, k)
            calls = {}
            for name, convolve in (("shifted", depthwise_shifted), ("xla", depthwise_xla)):
                forward = jax.jit(functools.partial(convolve, stride))
                calls[f"{name}_forward"] = functools.partial(forward, x, kernel)
                calls[f"{name}_gradient"] = functools.partial(
                    jax.jit(functools.partial(_gradient, forward)), x, kernel, dy
                )
            times_ms = in_turn(calls, rounds)
            rows.append(
                {
                    "size": size,
                    "channels": channels,
                    "stride": stride,
                    "kernel": k,
                    **{name: summary(times) for name, times in times_ms.items()},
                }
            )
    return rows


def switches(rounds: int) -> dict[str, float]:
    """Times one `lax.switch` among seven trivial branches, in µs.

    Programs of 16 and 128 switches in a row, each with its own index, are compared with programs
    of as many plain branches. The difference is the choice itself, and on an accelerator the time
    for which the host waits for the index.
    """
    branches = [functools.partial(_scaled, 1 + i / 1000) for i in range(_BRANCHES)]
    calls = {}
    x = jnp.ones((8, 128))
    for count in _SWITCHES:
        choices = jnp.asarray(np.random.default_rng(0).integers(0, _BRANCHES, count), jnp.int32)

        def switched(x: Array, choices: Array, count: int = count) -> Array:
            for i in range(count):
                x = lax.optimization_barrier(lax.switch(choices[i], branches, x))
            return x

        def plain(x: Array, choices: Array, count: int = count) -> Array:
            for i in range(count):
                x = lax.optimization_barrier(branches[0](x + choices[i]))
            return x

        for name, function in (("switch", switched), ("plain", plain)):
            calls[f"{name} {count}"] = functools.partial(jax.jit(function), x, choices)
    times_ms = in_turn(calls, rounds)
    few, many = _SWITCHES
    slopes = {
        name: 1e3
        * (np.median(times_ms[f"{name} {many}"]) - np.median(times_ms[f"{name} {few}"]))
        / (many - few)
        for name in ("switch", "plain")
    }
    return {
        "switch_us": float(slopes["switch"]),
        "plain_us": float(slopes["plain"]),
        "choice_us": float(slopes["switch"] - slopes["plain"]),
        "rounds": rounds,
    }


def _scaled(factor: float, x: Array) -> Array:
    return x * factor


def _shapes(workload: Workload) -> Iterator[tuple[int, int, int]]:
    """Yields each distinct (input size, channels, stride) of depthwise layers at top expansion."""
    space = workload.search_space
    size, seen = workload.image_size // 2, set()
    for block in space.blocks:
        expansion = max((c.expansion for c in block.convolutions if not c.fused), default=0)
        shape = (size, block.in_channels * expansion, block.stride)
        if expansion and shape not in seen:
            seen.add(shape)
            yield shape
        size = -(-size // block.stride)


def _operands(
    workload: Workload, size: int, channels: int, stride: int, k: int
) -> tuple[Array, Array, Array]:
    rng, dtype = np.random.default_rng(0), PRECISIONS[workload.precision]
    out = -(-size // stride)
    shapes = (
        (workload.batch_size, size, size, channels),
        (k, k, channels),
        (workload.batch_size, out, out, channels),
    )
    x, kernel, dy = (jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for shape in shapes)
    return x, kernel, dy


def _gradient(
    convolve: Callable[[Array, Array], Array], x: Array, kernel: Array, dy: Array
) -> tuple[Array, tuple[Array, Array]]:
    """Returns the output, and the gradients of input and kernel for the output gradient dy."""
    y, pull = jax.vjp(convolve, x, kernel)
    return y, pull(dy)
