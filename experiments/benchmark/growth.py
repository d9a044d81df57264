"""Part `growth`: step time, memory and compilation as a search grows, one axis at a time.

Every point is a process of its own, so that no compilation profits from another. The path timed is
the largest everywhere, so that what grows is the search and not the network drawn.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmark.start import first_step
from experiments.benchmark.workload import Workload
from jaxnas.space import find_space

FIGURES = ("weight_ms", "arch_ms", "temp_mb", "compile_s")
# Above it a figure is said to grow faster than linear; the rest is left to the timing's noise.
LINEAR = 1.1


def axes(base: Workload) -> dict[str, list[Workload]]:
    """The workloads of each axis, in rising order; each axis has `base` among them."""
    space = find_space(base.space)
    blocks, convolutions = len(space.blocks), len(space.convolutions)
    factor = 2 * math.prod(block.stride for block in space.blocks)
    ceil = -(-base.image_size // 2 // factor) * factor
    values = {
        "blocks": [-(-blocks * part // 4) for part in (1, 2, 3, 4)],
        "candidates": [1, 2, *range(4, convolutions, 2), convolutions],
        "batch_size": [
            -(-base.batch_size // 2),
            base.batch_size,
            2 * base.batch_size,
            4 * base.batch_size,
        ],
        "image_size": [ceil, base.image_size, base.image_size + ceil, 2 * base.image_size],
        "devices": [count for count in (1, 2, 4, 8) if base.batch_size % count == 0],
    }
    return {
        axis: [dataclasses.replace(base, **{axis: value}) for value in sorted(set(some))]
        for axis, some in values.items()
    }


def growth(
    base: Workload,
    rounds: int,
    only: Sequence[str] | None = None,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """The document: for each axis its points, and the exponent of every figure.

    The batch is sharded over as many virtual CPU devices as the point has; they share the cores of
    this machine, so that a constant step time is the best there can be.

    Args:
      rounds: timed steps of each kind at each point.
      only: names of axes; None is all.
      tell: gets a line for each point.

    Raises:
      ProcessFailed: at any point.
    """
    document, measured = {}, {}
    for axis, workloads in axes(base).items():
        if only is not None and axis not in only:
            continue
        points = []
        for workload in workloads:
            value = getattr(workload, axis)
            # The base is a point of several axes, said in several ways.
            key = (
                workload.search_space,
                workload.batch_size,
                workload.image_size,
                workload.devices,
            )
            if key not in measured:
                measured[key] = _point(workload, rounds)
            points.append({axis: value, **measured[key]})
            tell(
                f"growth: {axis} {value}: "
                + ", ".join(f"{name} {points[-1][name]:.4g}" for name in FIGURES)
            )
        size = [_size(axis, point[axis]) for point in points]
        document[axis] = {
            "points": points,
            "exponents": {
                name: exponent(size, [point[name] for point in points]) for name in FIGURES
            },
        }
    return document


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of log value over log size, least squares: 1 is linear growth."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def faster_than_linear(document: Mapping[str, Mapping]) -> list[tuple[str, str, float]]:
    """(axis, figure, exponent) of what grows faster than its axis."""
    return [
        (axis, name, value)
        for axis, one in document.items()
        for name, value in one["exponents"].items()
        if value > LINEAR
    ]


def _size(axis: str, value: int) -> float:
    """What linear growth is meant in: an image's pixels, not its side."""
    return value**2 if axis == "image_size" else value


def _point(workload: Workload, rounds: int) -> dict[str, float]:
    first, second = first_step(workload, rounds=rounds)
    return {
        "weight_ms": second["weight"]["median_ms"],
        "arch_ms": second["arch"]["median_ms"],
        "temp_mb": second["weight"]["temp_mb"],
        "arch_temp_mb": second["arch"]["temp_mb"],
        "compile_s": sum(sum(seconds.values()) for seconds in first["programs"].values()),
    }
