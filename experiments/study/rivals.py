"""Published networks, as wide as a budget allows."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from jaxnas.network import NetworkSpec
from jaxnas.zoo import find_network
from profiling import tables
from profiling.recording_device import Recording

# Width multipliers to choose from, in hundredths.
WIDTHS = range(10, 201)


class Rival(NamedTuple):
    """A published network and its width multiplier and latency in ms, None before it is fitted."""

    network: str
    width: float | None
    latency_ms: float | None

    def __str__(self) -> str:
        if self.width is None:
            return self.network
        return f"{self.network}:{self.width:g}:{self.latency_ms:.3f}"


def parse(text: str) -> Rival:
    """Returns the rival of `NAME` or `NAME:WIDTH:MS`; raises ValueError."""
    name, *numbers = text.split(":")
    find_network(name)
    if not numbers:
        return Rival(name, None, None)
    try:
        width, latency_ms = map(float, numbers)
        if not (0.01 <= width <= 10 and 0 < latency_ms < 1e6):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{text!r}: give NAME, or NAME:WIDTH:MS as this program prints it, such as "
            f"{name}:0.75:17.1"
        ) from None
    return Rival(name, width, latency_ms)


def scaled(spec: NetworkSpec, width: float) -> NetworkSpec:
    """Returns a network with its channels scaled by `width`, in multiples of 8.

    A 1x1 head keeps at least its channels: a multiplier below 1 does not scale the last convolution
    (Sandler et al. 2018, §5 and footnote 4).
    """
    channels = [
        _multiple_of_8(width * c)
        for c in (spec.stem_channels, *(block.out_channels for block in spec.blocks))
    ]
    blocks = tuple(
        dataclasses.replace(block, in_channels=before, out_channels=after)
        for block, before, after in zip(spec.blocks, channels, channels[1:], strict=False)
    )
    head = spec.head_channels
    return dataclasses.replace(
        spec,
        stem_channels=channels[0],
        blocks=blocks,
        head_channels=None if head is None else _multiple_of_8(head * max(1.0, width)),
    )


def fit(device: Recording, name: str, target_ms: float, image_size: int, classes: int) -> Rival:
    """Returns a published network of the greatest width within a budget, in hundredths.

    Uses bisection, which assumes that latency grows with the width. On the MyriadX it does, except
    for about 1 % between neighbors.

    Raises:
      ValueError: the narrowest takes longer than the budget.
      CompileError, DeviceUnavailable, StoreError: as `tables.measure_specs`.
    """

    def latency_ms(hundredths: int) -> float:
        spec = scaled(find_network(name, classes), hundredths / 100)
        return tables.measure_specs(device, [spec], image_size)[0].latency_ms

    low, high = WIDTHS[0], WIDTHS[-1] + 1
    low_ms = latency_ms(low)
    if low_ms > target_ms:
        raise ValueError(
            f"{name} of width {low / 100:g} takes {low_ms:.2f} ms on {device.setup.device}, more "
            f"than the budget of {target_ms:.2f} ms: raise --target_ms, or leave it out of --rivals"
        )
    while high - low > 1:
        middle = (low + high) // 2
        middle_ms = latency_ms(middle)
        if middle_ms <= target_ms:
            low, low_ms = middle, middle_ms
        else:
            high = middle
    return Rival(name, low / 100, low_ms)


def parse_all(texts: Sequence[str], target_ms: float) -> tuple[Rival, ...]:
    """Returns the rivals of --rivals; raises ValueError for an unknown, repeated or slow one."""
    try:
        rivals = tuple(parse(text.strip()) for text in texts)
    except ValueError as error:
        raise ValueError(f"--rivals: {error}") from None
    names = [rival.network for rival in rivals]
    if len(set(names)) < len(names):
        raise ValueError(f"--rivals={','.join(texts)} names a network twice; give each once")
    for rival in rivals:
        if rival.latency_ms is not None and rival.latency_ms > target_ms:
            raise ValueError(
                f"--rivals: {rival} takes more than --target_ms={target_ms:g}; give a width within "
                f"the budget, or the name alone"
            )
    return rivals


def _multiple_of_8(channels: float) -> int:
    """Returns the nearest multiple of 8 that is at least 8 and at least 0.9 of the channels."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
