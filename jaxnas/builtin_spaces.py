"""The search spaces that have a name."""

import dataclasses

from jaxnas.pixels import Normalization
from jaxnas.space import staged_space

# Cai, Zhu, Han: ProxylessNAS (ICLR 2019), §4.2, and the search network of its official repository.
PROXYLESS = staged_space(
    "proxyless",
    stem=32,
    first=16,
    widths=(24, 40, 80, 96, 192, 320),
    counts=(4, 4, 4, 4, 4, 1),
    strides=(2, 2, 2, 1, 2, 1),
    head=1280,
)

# The same kind of network at a fraction of the size, to try every phase in a minute or two.
PROXYLESS_TINY = staged_space(
    "proxyless_tiny", stem=8, first=8, widths=(16, 24), counts=(2, 3), strides=(2, 2), head=64
)

# What the MyriadX is best at (docs/myriadx_space.md): dense convolutions where images are large,
# MBConvs beside them where they are small.
_LARGE, _SMALL = ["f3e1", "f3e2", "f3e4", "f5e2"], ["f3e2", "f3e4", "k5e3", "k5e6", "k7e6"]
MYRIADX = staged_space(
    "myriadx",
    stem=32,
    first=16,
    widths=(32, 64, 96, 128, 192),
    counts=(3, 4, 5, 4, 5),
    strides=(2, 2, 2, 1, 2),
    head=1280,
    candidates=(_LARGE, _LARGE, _SMALL, _SMALL, _SMALL),
    first_block="f3e1",
)

# The 6,561 networks of NAS-Bench-Macro (Su et al. 2021, §4.1), which were all trained on CIFAR-10.
# Its identity is skip, or a projection where a block changes the shape.
_MACRO_FIRST, _MACRO = ["f1e1", "k3e3", "k5e6"], ["k3e3", "k5e6"]
NAS_BENCH_MACRO = staged_space(
    "nas_bench_macro",
    stem=32,
    first=32,
    widths=(64, 64, 128, 128, 256, 256),
    counts=(1, 1, 1, 2, 1, 2),
    strides=(2, 1, 2, 1, 2, 1),
    head=1280,
    candidates=(_MACRO_FIRST, _MACRO, _MACRO_FIRST, _MACRO, _MACRO_FIRST, _MACRO),
    first_block="-",
    stem_stride=1,
    activation="relu",
)

# The blocks of EfficientNet-Lite0, each with further kernels and expansions, and its padding and
# normalization: networks for its published weights (`jaxnas.supernet_pretrained`).
EFFICIENTNET_LITE = dataclasses.replace(
    staged_space(
        "efficientnet_lite",
        stem=32,
        first=16,
        widths=(24, 40, 80, 112, 192, 320),
        counts=(2, 2, 3, 3, 4, 1),
        strides=(2, 2, 2, 1, 2, 1),
        head=1280,
        padding="same",
    ),
    normalization=Normalization(mean=127, scale=128),
)

SPACES = {
    space.name: space
    for space in (PROXYLESS, PROXYLESS_TINY, MYRIADX, NAS_BENCH_MACRO, EFFICIENTNET_LITE)
}
