"""One network: specification, counts and Flax NNX module."""

import dataclasses

import jax
import numpy as np
from flax import nnx

from jaxnas.layers import Classifier, ConvBatchNorm, MBConv
from jaxnas.space import Arch, Space


@dataclasses.dataclass(frozen=True)
class MBConvSpec:
    """Specification of an inverted residual; `name` is the block's name in every exported file."""

    name: str
    in_channels: int
    out_channels: int
    kernel: int
    expansion: int
    stride: int

    @property
    def shortcut(self) -> bool:
        return self.stride == 1 and self.in_channels == self.out_channels


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """Specification of a network: 3x3 stride-2 stem, inverted residuals, 1x1 head, linear layer."""

    name: str
    stem_channels: int
    blocks: tuple[MBConvSpec, ...]
    head_channels: int
    num_classes: int = 1000


def network_of(space: Space, arch: Arch, num_classes: int, name: str = "network") -> NetworkSpec:
    """Returns the network of an architecture, without skipped blocks; the others keep their names.

    Raises:
      ValueError: the architecture does not fit the space.
    """
    space.path(arch)
    first = MBConvSpec("first", space.stem_channels, space.first_channels, 3, 1, 1)
    blocks = tuple(
        MBConvSpec(
            block.name,
            block.in_channels,
            block.out_channels,
            choice.kernel,
            choice.expansion,
            block.stride,
        )
        for block, choice in zip(space.blocks, arch, strict=True)
        if not choice.is_skip
    )
    return NetworkSpec(
        name, space.stem_channels, (first, *blocks), space.head_channels, num_classes
    )


def count_parameters(spec: NetworkSpec) -> int:
    """Returns the number of trainable parameters, batch norm and the classifier's bias included."""
    total = 3 * 9 * spec.stem_channels + 2 * spec.stem_channels
    for b in spec.blocks:
        width = b.in_channels * b.expansion
        if b.expansion != 1:
            total += b.in_channels * width + 2 * width
        total += b.kernel**2 * width + 2 * width
        total += width * b.out_channels + 2 * b.out_channels
    last = spec.blocks[-1].out_channels
    total += last * spec.head_channels + 2 * spec.head_channels
    return total + (spec.head_channels + 1) * spec.num_classes


def count_macs(spec: NetworkSpec, image_size: int) -> int:
    """Returns multiply-accumulates per square image of `image_size` px; biases are not counted."""
    size = -(-image_size // 2)
    total = size**2 * 3 * 9 * spec.stem_channels
    for b in spec.blocks:
        width = b.in_channels * b.expansion
        if b.expansion != 1:
            total += size**2 * b.in_channels * width
        size = -(-size // b.stride)
        total += size**2 * width * (b.kernel**2 + b.out_channels)
    total += size**2 * spec.blocks[-1].out_channels * spec.head_channels
    return total + spec.head_channels * spec.num_classes


class Network(nnx.Module):
    """Network of a specification, from float [batch, size, size, 3] to logits float32.

    NNX's `train()` and `eval()` select the batch statistics or the running ones.
    """

    def __init__(self, spec: NetworkSpec, *, rng: np.random.Generator):
        self.spec = spec
        self.stem = ConvBatchNorm("dense", 3, spec.stem_channels, kernel=3, stride=2, rng=rng)
        self.blocks = nnx.List(
            [
                MBConv(
                    b.in_channels,
                    b.out_channels,
                    kernel=b.kernel,
                    expansion=b.expansion,
                    stride=b.stride,
                    rng=rng,
                )
                for b in spec.blocks
            ]
        )
        self.classifier = Classifier(
            spec.blocks[-1].out_channels, spec.head_channels, spec.num_classes, rng=rng
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.classifier(x)
