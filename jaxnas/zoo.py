"""Specifications of published networks, in the form that is deployed.

MobileNetV2: Sandler et al. 2018, table 2. ProxylessNAS mobile, cpu, gpu and mobile_14: the
configurations that the official repository (mit-han-lab/proxylessnas) publishes with its weights.
RepVGG: Ding et al. 2021. MobileOne: Vasu et al. 2023. Both were trained with
branches that are merged for deployment; here the merged form is trained. ResNet-18: He et al. 2016,
table 1. EfficientNet-Lite0: EfficientNet-B0 (Tan and Le 2019, table 1) with ReLU6, without
squeeze-and-excitation, stem and head unscaled, as TensorFlow's `tpu` repository publishes it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxnas.block import BlockKind, BlockSpec
from jaxnas.builtin_spaces import EFFICIENTNET_LITE
from jaxnas.network import NetworkSpec, network_of
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
LITE0 = "k3e6 k3e6 k5e6 k5e6 k3e6 k3e6 k3e6 k5e6 k5e6 k5e6 k5e6 k5e6 k5e6 k5e6 k3e6"


def mobilenet_v2(num_classes: int = 1000) -> NetworkSpec:
    """Returns MobileNetV2 1.0."""
    widths, counts, strides = (24, 32, 64, 96, 160, 320), (2, 3, 4, 3, 3, 1), (2, 2, 2, 1, 2, 1)
    first = BlockSpec("first", 32, 16, 3, 1, 1)
    stages = [_Stage(*stage, 3, 6) for stage in zip(widths, counts, strides, strict=True)]
    blocks = (first, *_blocks("mbconv", 16, stages))
    return NetworkSpec("mobilenet_v2", 32, blocks, 1280, num_classes)


def _efficientnet_lite0(num_classes: int = 1000) -> NetworkSpec:
    space = EFFICIENTNET_LITE
    return network_of(space, space.parse(LITE0), num_classes, "efficientnet_lite0")


def _headless(
    name: str,
    kind: BlockKind,
    stem: int,
    widths: Sequence[int],
    counts: Sequence[int],
    strides: Sequence[int],
    num_classes: int = 1000,
) -> NetworkSpec:
    """Returns a network of 3x3 blocks with ReLU and no head; ResNet's stem is for residual ones."""
    stages = [_Stage(*stage, 3, 1) for stage in zip(widths, counts, strides, strict=True)]
    return NetworkSpec(
        name,
        stem,
        _blocks(kind, stem, stages),
        None,
        num_classes,
        activation="relu",
        stem_kernel=7 if kind == "residual" else 3,
        stem_pool=kind == "residual",
    )


class _Stage(NamedTuple):
    width: int
    depth: int
    stride: int
    kernel: int
    expansion: int


def _blocks(kind: BlockKind, channels: int, stages: Sequence[_Stage]) -> tuple[BlockSpec, ...]:
    """Returns the blocks of stages, of which the first one has the stage's stride."""
    blocks: list[BlockSpec] = []
    for width, count, stride, kernel, expansion in stages:
        for i in range(count):
            name, own = f"block{len(blocks):02d}", stride if i == 0 else 1
            blocks.append(BlockSpec(name, channels, width, kernel, expansion, own, kind))
            channels = width
    return tuple(blocks)


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
    "repvgg_a0": functools.partial(
        _headless, "repvgg_a0", "plain", 48, (48, 96, 192, 1280), (2, 4, 14, 1), (2, 2, 2, 2)
    ),
    "repvgg_a1": functools.partial(
        _headless, "repvgg_a1", "plain", 64, (64, 128, 256, 1280), (2, 4, 14, 1), (2, 2, 2, 2)
    ),
    "mobileone_s0": functools.partial(
        _headless,
        "mobileone_s0",
        "separable",
        48,
        (48, 128, 256, 1024),
        (2, 8, 10, 1),
        (2, 2, 2, 2),
    ),
    "mobileone_s1": functools.partial(
        _headless,
        "mobileone_s1",
        "separable",
        64,
        (96, 192, 512, 1280),
        (2, 8, 10, 1),
        (2, 2, 2, 2),
    ),
    "resnet_18": functools.partial(
        _headless, "resnet_18", "residual", 64, (64, 128, 256, 512), (2, 2, 2, 2), (1, 2, 2, 2)
    ),
    "efficientnet_lite0": _efficientnet_lite0,
}


def find_network(name: str, num_classes: int = 1000) -> NetworkSpec:
    """Returns the published network of this name; raises ValueError that lists the known names."""
    if name not in ZOO:
        raise ValueError(f"unknown network {name!r}, allowed are {', '.join(ZOO)}")
    return ZOO[name](num_classes=num_classes)
