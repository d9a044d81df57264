"""Specifications of published networks.

MobileNetV2: Sandler et al. 2018, table 2. ProxylessNAS mobile, cpu, gpu and mobile_14: the
configurations that the official repository (mit-han-lab/proxylessnas) publishes with its weights.
"""

import functools
from collections.abc import Callable, Sequence

from jaxnas.network import MBConvSpec, NetworkSpec, network_of
from jaxnas.space import staged_space

_MOBILE = (
    "k5e3 k3e3 - - k7e3 k3e3 k5e3 k5e3 k7e6 k5e3 k5e3 k5e3 "
    "k5e6 k5e3 k5e3 k5e3 k7e6 k7e6 k7e3 k7e3 k7e6"
)
_CPU = (
    "k3e6 k3e3 k3e3 k3e3 k3e6 k3e3 k3e3 k5e3 k3e6 - - k3e3 "
    "k5e6 k3e3 k3e3 k3e3 k5e6 k5e3 k5e3 k3e3 k5e6"
)
_GPU = "k5e3 - - - k7e3 - - k3e3 k7e6 - - k5e3 k5e6 - k3e3 k5e3 k7e6 k7e6 k7e6 k5e6 k7e6"


def mobilenet_v2(num_classes: int = 1000) -> NetworkSpec:
    """Returns MobileNetV2 1.0."""
    blocks = [MBConvSpec("first", 32, 16, 3, 1, 1)]
    channels = 16
    for width, count, stride in (
        (24, 2, 2),
        (32, 3, 2),
        (64, 4, 2),
        (96, 3, 1),
        (160, 3, 2),
        (320, 1, 1),
    ):
        for i in range(count):
            blocks.append(
                MBConvSpec(
                    f"block{len(blocks) - 1:02d}", channels, width, 3, 6, stride if i == 0 else 1
                )
            )
            channels = width
    return NetworkSpec("mobilenet_v2", 32, tuple(blocks), 1280, num_classes)


def _proxyless(
    name: str,
    text: str,
    stem: int,
    first: int,
    widths: Sequence[int],
    head: int,
    num_classes: int = 1000,
) -> NetworkSpec:
    space = staged_space(
        name,
        stem=stem,
        first=first,
        widths=widths,
        counts=(4, 4, 4, 4, 4, 1),
        strides=(2, 2, 2, 1, 2, 1),
        head=head,
    )
    return network_of(space, space.parse(text), num_classes, name)


ZOO: dict[str, Callable[..., NetworkSpec]] = {
    "mobilenet_v2": mobilenet_v2,
    "proxyless_mobile": functools.partial(
        _proxyless, "proxyless_mobile", _MOBILE, 32, 16, (32, 40, 80, 96, 192, 320), 1280
    ),
    "proxyless_cpu": functools.partial(
        _proxyless, "proxyless_cpu", _CPU, 40, 24, (32, 48, 88, 104, 216, 360), 1432
    ),
    "proxyless_gpu": functools.partial(
        _proxyless, "proxyless_gpu", _GPU, 40, 24, (32, 56, 112, 128, 256, 432), 1728
    ),
    "proxyless_mobile_14": functools.partial(
        _proxyless, "proxyless_mobile_14", _MOBILE, 48, 24, (40, 56, 112, 136, 256, 448), 1792
    ),
}


def find_network(name: str, num_classes: int = 1000) -> NetworkSpec:
    """Returns the published network of this name; raises ValueError that lists the known names."""
    if name not in ZOO:
        raise ValueError(f"unknown network {name!r}, allowed are {', '.join(ZOO)}")
    return ZOO[name](num_classes=num_classes)
