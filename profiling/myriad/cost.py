"""Cost model of the MyriadX's schedule: amounts of each stage times calibrated coefficients.

The convolution engine processes its output pixels, descriptor by descriptor. A pixel takes the
clocks of its multiplications and, depending on the mode, clocks to collect the sums, but at least
the clocks to write its output channels. An input in DRAM is read in parallel, and the longer of the
two counts. Weights are read before that. The time of a copy depends on its bytes and on the number
of rows that end in padding. The time of a vector stage depends on its elements per SHAVE or on its
DRAM traffic, whichever takes longer. A softmax has a constant time. A stage injected into another
one is hidden behind it, except for the share of the time in which both use the DRAM.

The time of a stage is therefore a sum of coefficients, each times an amount from the stage graph.
Which alternative is the longer depends on the coefficients, so coefficient_fit.py iterates.
"""

import collections
import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence

from profiling.measurement import LayerTime
from profiling.myriad.calibration import Calibration
from profiling.myriad.stages import Stage, parse

MOST_VECTOR_MULTIPLICATIONS = 10_000_000  # of a layer whose time was never measured; below 1 ms
LARGEST_SOFTMAX = 1001  # elements of those that were measured; a larger one is as other layers
CLOCK_KHZ = 700e3  # clock of the convolution engine, a property of the chip

Amounts = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Estimated time of one inference.

    Attributes:
      latency_ms: time of the device plus host_ms.
      interval_ms: p10 and p90, from the errors of each kind of layer on networks and layers that
        were left out of the fit. A kind errs in one direction, different kinds independently.
      layers: device time of each layer, in order of first execution. Their sum plus host_ms is
        latency_ms.
      host_ms: time that host and bus add.
    """

    latency_ms: float
    interval_ms: tuple[float, float]
    layers: tuple[LayerTime, ...]
    host_ms: float


def estimate(
    graph_text: str,
    depthwise: Collection[str] = (),
    calibration: Calibration | None = None,
) -> Estimate:
    """Estimates a compiled network's latency from its stage graph.

    Args:
      graph_text: the compiler's stage graph in DOT.
      depthwise: names of the depthwise convolutions, which the graph does not tell from dense ones.
      calibration: coefficients; None reads calibration.json.

    Raises:
      ValueError: the text is not a stage graph.
    """
    return estimate_stages(parse(graph_text), calibration or Calibration.load(), depthwise)


def estimate_stages(
    stages: Sequence[Stage], calibration: Calibration, depthwise: Collection[str] = ()
) -> Estimate:
    """Estimates the latency of parsed stages; the other arguments are those of `estimate`."""
    layers = tuple(
        LayerTime(name, total(amounts, calibration))
        for name, amounts in layer_amounts(stages, calibration).items()
    )
    device_ms = sum(layer.ms for layer in layers)
    kinds = layer_kinds(stages, depthwise)
    by_kind: dict[str, float] = collections.defaultdict(float)
    for layer in layers:
        by_kind[kinds[layer.name]] += layer.ms
    half_ms = math.hypot(
        *(calibration.error_percent[kind] / 100 * ms for kind, ms in by_kind.items())
    )
    whole_ms = device_ms + calibration.host_ms
    return Estimate(whole_ms, (whole_ms - half_ms, whole_ms + half_ms), layers, calibration.host_ms)


def check_calibrated(stages: Sequence[Stage]) -> None:
    """Raises ValueError for a layer that the calibration has no counter of: its time is unknown.

    The SHAVEs, and not the engines, compute convolutions that are dilated, have very large kernels
    or strides that differ by axis, and products of two activations.
    """
    for stage in stages:
        if stage.executed and stage.vector_multiplications > MOST_VECTOR_MULTIPLICATIONS:
            raise ValueError(
                f"{stage.layer or stage.name} is computed by the SHAVEs as {stage.type}, with "
                f"{stage.vector_multiplications / 1e6:.0f} million multiplications, and the time "
                f"of such a layer was never measured; measure this network on a stick or camera"
            )


def layer_kinds(stages: Sequence[Stage], depthwise: Collection[str]) -> dict[str, str]:
    """Returns the kind of each layer, one of `KINDS`, by the stages that it executes."""
    kinds: dict[str, str] = {}
    for stage in stages:
        name = stage.layer or stage.name
        if not stage.executed or kinds.get(name, "other") != "other":
            continue
        if name in depthwise:
            kinds[name] = "depthwise"
        elif stage.hardware is None:
            kinds[name] = "other"
        else:
            kinds[name] = "pooling" if stage.hardware.operation == "POOL" else "convolution"
    return kinds


def total(amounts: Mapping[str, float], calibration: Calibration) -> float:
    """Returns the milliseconds of amounts: the sum of each amount times its coefficient."""
    return sum(calibration.coefficients[name] * amount for name, amount in amounts.items())


def layer_amounts(stages: Sequence[Stage], calibration: Calibration) -> dict[str, Amounts]:
    """Returns the amounts of each layer, in order of first execution.

    A stage without a layer is listed under its own name. Stages that run side by side count for the
    layer of the host stage, as in the device's own counters.
    """
    turns: dict[int, list[Stage]] = collections.defaultdict(list)
    for stage in stages:
        if stage.executed:
            turns[stage.order].append(stage)
    layers: dict[str, Amounts] = {}
    for order in sorted(turns):
        host = next(stage for stage in turns[order] if not stage.injected)
        by_stage = [stage_amounts(stage, calibration) for stage in turns[order]]
        by_stage.sort(key=lambda amounts: total(amounts, calibration), reverse=True)
        layer = layers.setdefault(host.layer or host.name, {})
        longest, *hidden = by_stage
        share = dram_share(host, calibration) if hidden else 0.0
        for weight, amounts in [(1.0, longest), *((share, one) for one in hidden)]:
            for name, amount in amounts.items():
                layer[name] = layer.get(name, 0.0) + weight * amount
    return layers


def stage_amounts(stage: Stage, calibration: Calibration) -> Amounts:
    """Returns the amounts of a single stage, by coefficient."""
    if stage.hardware is not None:
        amounts = _longest(_engine_alternatives(stage, calibration), calibration)
        return {**amounts, "engine_stage_ms": 1.0, "weight_ms_per_mb": stage.weight_bytes / 1e6}
    if stage.type == "Copy":
        return _copy_amounts(stage)
    elements = sum(datum.elements for datum in stage.outputs)
    if stage.type == "SoftMax" and elements <= LARGEST_SOFTMAX:
        return {"softmax_ms": 1.0}
    moved = sum(datum.bytes for datum in (*stage.inputs, *stage.outputs) if not datum.on_chip)
    vector = "sum_ms_per_million" if stage.type == "Sum" else "vector_ms_per_million"
    amounts = _longest(
        [{vector: elements / 1e6 / max(stage.shaves, 1)}, {"vector_ms_per_mb": moved / 1e6}],
        calibration,
    )
    amounts = {**amounts, "vector_stage_ms": 1.0}
    if stage.type == "SoftMax":  # which takes no less than a small one
        return _longest([{"softmax_ms": 1.0}, amounts], calibration)
    return amounts


def dram_share(stage: Stage, calibration: Calibration) -> float:
    """Returns the share of an engine stage's time in which it reads DRAM; 0 for other stages."""
    if stage.hardware is None:
        return 0.0
    *work, reading = (
        total(amounts, calibration) for amounts in _engine_alternatives(stage, calibration)
    )
    return reading / max(*work, reading) if reading else 0.0


def _engine_alternatives(stage: Stage, calibration: Calibration) -> list[Amounts]:
    """Returns the possible bounds of an engine stage; the last is reading the input from DRAM."""
    hardware, output = stage.hardware, stage.outputs[0]
    assert hardware is not None
    width, height, _ = output.size
    # Divided by the clock in kHz, so that coefficients are clocks and the products milliseconds.
    pixels = width * height * hardware.descriptors / CLOCK_KHZ
    off_chip = [datum for datum in stage.inputs if not datum.on_chip]
    # Each descriptor of a convolution reads the whole input again.
    passes = 1 if hardware.operation == "POOL" else hardware.descriptors
    reading = {
        "read_ms_per_mb": passes * sum(d.padded_bytes for d in off_chip) / 1e6,
        "read_ms_per_thousand_runs": passes * sum(d.runs for d in off_chip) / 1e3,
    }
    if hardware.operation == "POOL":
        in_width, in_height, _ = stage.inputs[0].size
        scanned = in_width * in_height * hardware.descriptors / CLOCK_KHZ
        return [
            {f"{hardware.pooling.lower()}_pool_clocks": pixels},
            {"pool_scan_clocks": scanned},
            reading,
        ]
    channels = min(hardware.outputs, output.size[2])
    return [
        {
            "multiplication_clocks": pixels * hardware.multiplications,
            f"{hardware.mode.lower()}_clocks": pixels,
        },
        {"output_channel_clocks": pixels * channels},
        reading,
    ]


def _copy_amounts(stage: Stage) -> Amounts:
    if not stage.inputs:  # the compiler copies a constant
        return {"copy_stage_ms": 1.0, "copy_ms_per_mb": stage.weight_bytes / 1e6}
    source, target = stage.inputs[0], stage.outputs[0]
    if source.on_chip and target.on_chip:
        return {"copy_stage_ms": 1.0, "chip_copy_ms_per_thousand_rows": target.filled_rows / 1e3}
    outside = source if target.on_chip else target
    return {
        "copy_stage_ms": 1.0,
        "copy_ms_per_mb": outside.bytes / 1e6,
        "copy_ms_per_thousand_rows": outside.filled_rows / 1e3,
    }


def _longest(alternatives: list[Amounts], calibration: Calibration) -> Amounts:
    return max(alternatives, key=lambda amounts: total(amounts, calibration))
