"""Part `growth`: step time, memory and compile time as a search grows, one axis at a time.

Every point is measured in a fresh process, so that no compilation benefits from another. All
points time the largest path, so that the search grows and not the sampled network.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmark.start import first_step
from experiments.benchmark.workload import Workload
from jaxnas.space_file import find_space

FIGURES = ("weight_ms", "arch_ms", "temp_mb", "compile_s")
# Exponents above this are reported as faster than linear; the margin allows for timing noise.
LINEAR = 1.1


def axes(base: Workload) -> dict[str, list[Workload]]:
    """Returns the workloads of each axis in ascending order; all axes but `devices` have `base`."""
    space = find_space(base.space)
    blocks, convolutions = len(space.blocks), len(space.convolutions)
    factor = space.downsampling
    half = -(-base.image_size // 2 // factor) * factor  # rounded up to a multiple of factor
    values = {
        "blocks": [-(-blocks * part // 4) for part in (1, 2, 3, 4)],
        "candidates": [1, 2, *range(4, convolutions, 2), convolutions],
        "batch_size": [
            -(-base.batch_size // 2),
            base.batch_size,
            2 * base.batch_size,
            4 * base.batch_size,
        ],
        "image_size": [half, base.image_size, base.image_size + half, 2 * base.image_size],
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
    """Measures the points of every axis and fits the exponent of every figure.

    On the axis `devices` the batch is sharded over virtual CPU devices. They share the cores of
    this machine, so that a constant step time is the best possible result.

    Args:
      base: workload that every axis varies.
      rounds: number of timed repeats of each step at each point.
      only: names of axes; None is all.
      tell: receives a line for each point.

    Raises:
      ProcessFailed: at any point.
    """
    document: dict[str, Any] = {}
    measured: dict[tuple, dict[str, float]] = {}
    for axis, workloads in axes(base).items():
        if only is not None and axis not in only:
            continue
        points = []
        for workload in workloads:
            value = getattr(workload, axis)
            # The base is a point of several axes: None and the full number mean the same.
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
    """Returns the least-squares slope of log value over log size; 1 is linear growth."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def faster_than_linear(document: Mapping[str, Mapping]) -> list[tuple[str, str, float]]:
    """Returns (axis, figure, exponent) of the figures that grow faster than their axis."""
    return [
        (axis, name, value)
        for axis, one in document.items()
        for name, value in one["exponents"].items()
        if value > LINEAR
    ]


def _size(axis: str, value: int) -> float:
    """Returns the size that linear growth refers to: an image's pixels, not its side."""
    return value**2 if axis == "image_size" else value


def _point(workload: Workload, rounds: int) -> dict[str, float]:
    first, second = first_step(workload, rounds=rounds)
    assert second is not None, "rounds is positive"
    return {
        "weight_ms": second["weight"]["median_ms"],
        "arch_ms": second["arch"]["median_ms"],
        "temp_mb": second["weight"]["temp_mb"],
        "arch_temp_mb": second["arch"]["temp_mb"],
        "compile_s": sum(sum(seconds.values()) for seconds in first["programs"].values()),
    }
