"""Whether the search is worth it: networks found against random ones and MobileNetV2.

All spend the same budget and are trained from scratch by one recipe. A network's figure is the mean
of its top-1 over the training seeds, and networks are what is drawn: intervals are over networks.
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
from profiling.recording import Recording

# Hundredths, between which the width of MobileNetV2 is chosen.
WIDTHS = range(10, 201)


@dataclasses.dataclass(frozen=True)
class Contender:
    """One network that is trained.

    Attributes:
      name: of its runs' folders.
      group: found, random or mobilenet_v2.
      architecture: its text form, or what it is.
      space: whose blocks they are; None for MobileNetV2.
      spec: with the deployed classifier, of which it is counted and its latency is.
      latency_ms: by the table; for MobileNetV2 as the device has it.
    """

    name: str
    group: str
    architecture: str
    space: str | None
    spec: NetworkSpec
    latency_ms: float


@dataclasses.dataclass(frozen=True)
class Trained:
    """What one training ended with.

    Attributes:
      seed: of the training.
      top1: on the test part, a fraction, with the weights of the best epoch.
      held_out_top1: on the part that chose the epoch.
      epoch: that it chose, from 1.
    """

    seed: int
    top1: float
    held_out_top1: float
    epoch: int


def mobilenet_v2(width: float, num_classes: int) -> NetworkSpec:
    """MobileNetV2 with its channels times `width`, in eights; the head has at least 1280.

    Sandler et al. 2018, §5 and footnote 4: a multiplier below 1 leaves the last convolution as it
    is.
    """
    spec = zoo.mobilenet_v2(num_classes)
    channels = [
        _in_eights(width * c)
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
        head_channels=_in_eights(1280 * max(1.0, width)),
    )


def fit_mobilenet(
    device: Recording, target_ms: float, image_size: int, num_classes: int
) -> tuple[float, float]:
    """The widest MobileNetV2 within a budget: its multiplier, a whole hundredth, and its ms.

    Found by halving: latency is taken to grow with the width, which on the MyriadX it does but for
    a percent between neighbors.

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
            f"{device.setup.device}, the budget is {target_ms:.2f} ms: raise "
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
    contenders: Sequence[tuple[Contender, Sequence[Trained]]],
    image_size: int,
    target_ms: float,
    chance: Draw,
) -> dict[str, Any]:
    """study.json's `worth`."""
    networks = [
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
        for one, runs in contenders
    ]
    top1 = {
        group: [n["top1"] for n in networks if n["group"] == group] for group in ("found", "random")
    }
    difference = difference_interval(top1["found"], top1["random"])
    return {
        "target_ms": target_ms,
        "image_size": image_size,
        "num_classes": contenders[0][0].spec.num_classes,
        "chance": {"drawn": chance.drawn, "accepted": chance.accepted},
        "networks": networks,
        "found": mean_interval(top1["found"]),
        "random": mean_interval(top1["random"]),
        "difference": difference,
        "found_over_random": side(difference, 0),
        "ranks": [rank(value, top1["random"]) for value in top1["found"]],
        # One network: its interval is over the training seeds.
        "mobilenet_v2": mean_interval(
            [run.top1 for one, runs in contenders if one.group == "mobilenet_v2" for run in runs]
        ),
    }


def rank(value: float, others: Sequence[float]) -> int:
    """The place of a value put among others, the greatest first; of equals the first place."""
    return 1 + sum(other > value for other in others)


def _in_eights(channels: float) -> int:
    """The nearest multiple of eight, 8 at least, and never less than 0.9 of the channels."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
