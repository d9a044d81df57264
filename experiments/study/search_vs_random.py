"""Search versus random: found networks compared with random networks and MobileNetV2.

All are within the same budget and are trained from scratch with one recipe. A network's top-1 is
its mean over the training seeds. Intervals are over networks, because networks are what is sampled.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.study.intervals import difference_interval, mean_interval, side
from experiments.study.random_networks import Draw
from jaxnas import zoo
from jaxnas.network import NetworkSpec, count_macs, count_parameters
from profiling import tables
from profiling.recording_device import Recording

# Widths of MobileNetV2 to choose from, in hundredths.
WIDTHS = range(10, 201)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A network of the comparison.

    Attributes:
      name: name in the folders of its runs.
      group: found, random or mobilenet_v2.
      architecture: text form of the architecture, or a description of MobileNetV2.
      space: name of the space; None for MobileNetV2.
      spec: specification with the deployed classifier, for counts and latency.
      latency_ms: latency by the table; for MobileNetV2 by the device.
    """

    name: str
    group: str
    architecture: str
    space: str | None
    spec: NetworkSpec
    latency_ms: float


@dataclasses.dataclass(frozen=True)
class Trained:
    """Result of one training.

    Attributes:
      seed: seed of the training.
      top1: top-1 on the test part, a fraction, with the weights of the best epoch.
      held_out_top1: top-1 on the held-out part, which chooses the best epoch.
      epoch: best epoch, from 1.
    """

    seed: int
    top1: float
    held_out_top1: float
    epoch: int


def mobilenet_v2(width: float, num_classes: int) -> NetworkSpec:
    """Returns MobileNetV2 with channels scaled by `width`, in multiples of 8.

    The head keeps at least 1280 channels: a multiplier below 1 does not scale the last convolution
    (Sandler et al. 2018, §5 and footnote 4).
    """
    spec = zoo.mobilenet_v2(num_classes)
    channels = [
        _multiple_of_8(width * c)
        for c in (spec.stem_channels, *(block.out_channels for block in spec.blocks))
    ]
    blocks = tuple(
        dataclasses.replace(block, in_channels=before, out_channels=after)
        for block, before, after in zip(spec.blocks, channels, channels[1:], strict=False)
    )
    return dataclasses.replace(
        spec,
        stem_channels=channels[0],
        blocks=blocks,
        head_channels=_multiple_of_8(1280 * max(1.0, width)),
    )


def fit_mobilenet(
    device: Recording, target_ms: float, image_size: int, num_classes: int
) -> tuple[float, float]:
    """Returns the widest MobileNetV2 within a budget: its multiplier, in hundredths, and its ms.

    Uses bisection, which assumes that latency grows with the width. On the MyriadX it does, except
    for about 1 % between neighbors.

    Raises:
      ValueError: the narrowest takes longer than the budget.
      CompileError, DeviceUnavailable, StoreError: as `tables.measure_specs`.
    """

    def latency_ms(hundredths: int) -> float:
        spec = mobilenet_v2(hundredths / 100, num_classes)
        return tables.measure_specs(device, [spec], image_size)[0].latency_ms

    low, high = WIDTHS[0], WIDTHS[-1] + 1
    low_ms = latency_ms(low)
    if low_ms > target_ms:
        raise ValueError(
            f"MobileNetV2 of width {low / 100:g} takes {low_ms:.2f} ms on "
            f"{device.setup.device}, more than the budget of {target_ms:.2f} ms: raise "
            f"--target_ms, or leave worth out of --parts"
        )
    while high - low > 1:
        middle = (low + high) // 2
        middle_ms = latency_ms(middle)
        if middle_ms <= target_ms:
            low, low_ms = middle, middle_ms
        else:
            high = middle
    return low / 100, low_ms


def document(
    trained: Sequence[tuple[Contender, Sequence[Trained]]],
    image_size: int,
    target_ms: float,
    baseline: Draw,
) -> dict[str, Any]:
    """Returns the `worth` object of study.json.

    Args:
      trained: each network with its trainings.
      image_size: px at which multiply-accumulates are counted.
      target_ms: the budget.
      baseline: the draw of the random networks.
    """
    networks: list[dict[str, Any]] = [
        {
            "name": one.name,
            "group": one.group,
            "architecture": one.architecture,
            "latency_ms": one.latency_ms,
            "blocks": len(one.spec.blocks),
            "parameters": count_parameters(one.spec),
            "macs": count_macs(one.spec, image_size),
            "top1": float(np.mean([run.top1 for run in runs])),
            "runs": [dataclasses.asdict(run) for run in runs],
        }
        for one, runs in trained
    ]
    top1 = {
        group: [n["top1"] for n in networks if n["group"] == group] for group in ("found", "random")
    }
    difference = difference_interval(top1["found"], top1["random"])
    return {
        "target_ms": target_ms,
        "image_size": image_size,
        "num_classes": trained[0][0].spec.num_classes,
        "chance": {"drawn": baseline.drawn, "accepted": baseline.accepted},
        "networks": networks,
        "found": mean_interval(top1["found"]),
        "random": mean_interval(top1["random"]),
        "difference": difference,
        "found_over_random": side(difference, 0),
        "ranks": [rank(value, top1["random"]) for value in top1["found"]],
        # A single network: its interval is over the training seeds.
        "mobilenet_v2": mean_interval(
            [run.top1 for one, runs in trained if one.group == "mobilenet_v2" for run in runs]
        ),
    }


def rank(value: float, others: Sequence[float]) -> int:
    """Returns the rank of a value among others: 1 is the greatest; ties take the better rank."""
    return 1 + sum(other > value for other in others)


def _multiple_of_8(channels: float) -> int:
    """Returns the nearest multiple of 8 that is at least 8 and at least 0.9 of the channels."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
