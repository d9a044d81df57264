"""One network: specification, counts and Flax NNX module."""

import dataclasses
import math

import jax
import numpy as np
from flax import nnx

from jaxnas.block import BlockSpec, ConvBlock, LayerSpec
from jaxnas.layers import Classifier, max_pool
from jaxnas.padding import Padding
from jaxnas.pixels import Normalization
from jaxnas.space import Activation, Arch, Block, Candidate, Space


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """Specification of a network: stem, blocks, optional 1x1 head, linear layer.

    Attributes:
      name: name of the network.
      stem_channels, stem_kernel, stem_stride: output channels, kernel and stride of the stem.
      stem_pool: whether a 3x3 maximum at stride 2 follows the stem.
      blocks: the blocks, in order.
      head_channels: output channels of the last 1x1 convolution; None for no such layer.
      num_classes: number of outputs.
      activation: activation of all layers.
      padding: padding of all convolutions.
      normalization: what makes pixels the network's input.
    """

    name: str
    stem_channels: int
    blocks: tuple[BlockSpec, ...]
    head_channels: int | None
    num_classes: int = 1000
    activation: Activation = "relu6"
    stem_kernel: int = 3
    stem_pool: bool = False
    stem_stride: int = 2
    padding: Padding = "symmetric"
    normalization: Normalization = Normalization()

    @property
    def stem(self) -> LayerSpec:
        return LayerSpec("conv", "dense", 3, self.stem_channels, self.stem_kernel, self.stem_stride)

    @property
    def head(self) -> LayerSpec | None:
        if self.head_channels is None:
            return None
        return LayerSpec("conv", "pointwise", self.blocks[-1].out_channels, self.head_channels)

    @property
    def features(self) -> int:
        """Inputs of the linear layer."""
        return self.head_channels or self.blocks[-1].out_channels

    @property
    def downsampling(self) -> int:
        """Factor between the size of an image and that of the last blocks."""
        stem = self.stem_stride * (2 if self.stem_pool else 1)
        return stem * math.prod(block.stride for block in self.blocks)


def block_of(block: Block, choice: Candidate) -> BlockSpec:
    """Returns the block that a candidate other than skip makes of a searchable block."""
    return BlockSpec(
        block.name,
        block.in_channels,
        block.out_channels,
        choice.kernel,
        choice.expansion,
        block.stride,
        "fused" if choice.fused else "mbconv",
    )


def first_block_of(space: Space) -> BlockSpec | None:
    """Returns the fixed block after the stem; None if the space has none."""
    if space.first.is_skip:
        return None
    fixed = Block("first", space.stem_channels, space.first_channels, 1, (space.first,))
    return block_of(fixed, space.first)


def network_of(space: Space, arch: Arch, num_classes: int, name: str = "network") -> NetworkSpec:
    """Returns the network of an architecture, without skipped blocks; the others keep their names.

    Raises:
      ValueError: the architecture does not fit the space.
    """
    space.path(arch)
    blocks = tuple(
        block_of(block, choice)
        for block, choice in zip(space.blocks, arch, strict=True)
        if not choice.is_skip
    )
    return NetworkSpec(
        name,
        space.stem_channels,
        (*filter(None, (first_block_of(space),)), *blocks),
        space.head_channels,
        num_classes,
        space.activation,
        stem_stride=space.stem_stride,
        padding=space.padding,
        normalization=space.normalization,
    )


def count_parameters(spec: NetworkSpec) -> int:
    """Returns the number of trainable parameters, batch norm and the classifier's bias included."""
    layers = [spec.stem, *(layer for b in spec.blocks for layer in b.all_layers)]
    if spec.head is not None:
        layers.append(spec.head)
    return sum(layer.parameters for layer in layers) + (spec.features + 1) * spec.num_classes


def count_block_macs(block: BlockSpec, size: int) -> int:
    """Returns a block's multiply-accumulates on an input of `size` px."""
    total, out = 0, size
    for layer in block.layers:
        out = -(-out // layer.stride)
        total += out**2 * layer.weights
    if block.shortcut_layer is not None:
        total += out**2 * block.shortcut_layer.weights
    return total


def count_macs(spec: NetworkSpec, image_size: int) -> int:
    """Returns multiply-accumulates per square image of `image_size` px; biases are not counted."""
    size = -(-image_size // spec.stem_stride)
    total = size**2 * spec.stem.weights
    size = -(-size // 2) if spec.stem_pool else size
    for block in spec.blocks:
        total += count_block_macs(block, size)
        size = -(-size // block.stride)
    if spec.head is not None:
        total += size**2 * spec.head.weights
    return total + spec.features * spec.num_classes


class Network(nnx.Module):
    """Network of a specification, from float [batch, size, size, 3] to logits float32.

    NNX's `train()` and `eval()` select the batch statistics or the running ones.
    """

    def __init__(self, spec: NetworkSpec, *, rng: np.random.Generator):
        self.spec = spec
        self.stem = spec.stem.module(spec.activation, spec.padding, rng)
        self.blocks = nnx.List(
            [
                ConvBlock(block, activation=spec.activation, padding=spec.padding, rng=rng)
                for block in spec.blocks
            ]
        )
        self.classifier = Classifier(
            spec.blocks[-1].out_channels,
            spec.head_channels,
            spec.num_classes,
            activation=spec.activation,
            rng=rng,
        )

    def features(self, images: jax.Array) -> jax.Array:
        """Returns what the linear layer gets, float32 [batch, features]."""
        x = self.stem(images)
        x = max_pool(x) if self.spec.stem_pool else x
        for block in self.blocks:
            x = block(x)
        return self.classifier.features(x)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.classifier.logits(self.features(images))
