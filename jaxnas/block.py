"""One block of a network: specification, layers and Flax NNX module."""

import dataclasses
from typing import Literal

import jax
import numpy as np
from flax import nnx

from jaxnas.layers import ConvBatchNorm, ConvKind, KernelChoice, Tape, activate
from jaxnas.padding import Padding
from jaxnas.space import Activation

BlockKind = Literal["mbconv", "fused", "plain", "separable", "residual"]


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """Specification of a convolution with batch norm; `part` is its name within the block."""

    part: str
    kind: ConvKind
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    activated: bool = True

    @property
    def weights(self) -> int:
        """Number of the kernel's weights."""
        group_channels = 1 if self.kind == "depthwise" else self.in_channels
        return self.kernel**2 * group_channels * self.out_channels

    @property
    def parameters(self) -> int:
        """Number of trainable parameters, batch norm's included."""
        return self.weights + 2 * self.out_channels

    def module(
        self, activation: Activation, padding: Padding, rng: np.random.Generator
    ) -> ConvBatchNorm:
        """Returns the layer with newly drawn weights."""
        return ConvBatchNorm(
            self.kind,
            self.in_channels,
            self.out_channels,
            kernel=self.kernel,
            stride=self.stride,
            padding=padding,
            activation=activation if self.activated else None,
            rng=rng,
        )


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """Specification of a block.

    Attributes:
      name: name of the block in every exported file.
      in_channels, out_channels, stride: shape.
      kernel: size of the depthwise or dense kernel.
      expansion: width inside the block over in_channels; 1 where the kind has none.
      kind: what the block is made of:
        mbconv: inverted residual (Sandler et al. 2018): 1x1, depthwise and 1x1 convolution without
          activation; no first one with expansion 1. Shortcut where shapes stay.
        fused: the same with one dense convolution for the first two (Gupta and Akin 2020); with
          expansion 1 it is the whole block, activated unless its kernel is 1. Shortcut where
          shapes stay.
        plain: one dense convolution: RepVGG (Ding et al. 2021), as deployed.
        separable: depthwise and 1x1 convolution, both activated: MobileOne (Vasu et al. 2023), as
          deployed.
        residual: two dense convolutions and a shortcut, a 1x1 convolution where shapes change,
          activated after the addition: ResNet-18 (He et al. 2016).
    """

    name: str
    in_channels: int
    out_channels: int
    kernel: int
    expansion: int
    stride: int
    kind: BlockKind = "mbconv"

    @property
    def keeps_shape(self) -> bool:
        return self.stride == 1 and self.in_channels == self.out_channels

    @property
    def shortcut(self) -> bool:
        """Whether the block's input, or a convolution of it, is added to its output."""
        return self.kind == "residual" or self.kind in ("mbconv", "fused") and self.keeps_shape

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """Layers between the block's input and the addition, in order."""
        width = self.in_channels * self.expansion
        dense = LayerSpec(
            "dense", "dense", self.in_channels, self.out_channels, self.kernel, self.stride
        )
        if self.kind == "mbconv":
            expand = LayerSpec("expand", "pointwise", self.in_channels, width)
            return (
                *(() if self.expansion == 1 else (expand,)),
                LayerSpec("depthwise", "depthwise", width, width, self.kernel, self.stride),
                LayerSpec("project", "pointwise", width, self.out_channels, activated=False),
            )
        if self.kind == "plain":
            return (dense,)
        if self.kind == "fused" and self.expansion == 1:
            return (dataclasses.replace(dense, activated=self.kernel > 1),)
        if self.kind == "fused":
            return (
                dataclasses.replace(dense, out_channels=width),
                LayerSpec("project", "pointwise", width, self.out_channels, activated=False),
            )
        if self.kind == "separable":
            return (
                dataclasses.replace(dense, part="depthwise", kind="depthwise", out_channels=width),
                LayerSpec("project", "pointwise", self.in_channels, self.out_channels),
            )
        second = LayerSpec(
            "dense2", "dense", self.out_channels, self.out_channels, self.kernel, activated=False
        )
        return dense, second

    @property
    def shortcut_layer(self) -> LayerSpec | None:
        """The shortcut's convolution, where it has one."""
        if self.kind != "residual" or self.keeps_shape:
            return None
        return LayerSpec(
            "shortcut",
            "dense",
            self.in_channels,
            self.out_channels,
            stride=self.stride,
            activated=False,
        )

    @property
    def all_layers(self) -> tuple[LayerSpec, ...]:
        """Every convolution of the block, the shortcut's last."""
        return (*self.layers, *filter(None, (self.shortcut_layer,)))


class ConvBlock(nnx.Module):
    """Block of a specification; NHWC. Its layers are attributes named after their parts."""

    def __init__(
        self,
        spec: BlockSpec,
        *,
        activation: Activation = "relu6",
        padding: Padding = "symmetric",
        rng: np.random.Generator,
    ):
        self.spec = spec
        self.activation = activation
        for layer in spec.all_layers:
            setattr(self, layer.part, layer.module(activation, padding, rng))

    def layer(self, part: str) -> ConvBatchNorm:
        """Returns the layer of this name within the block."""
        return getattr(self, part)

    def __call__(
        self, x: jax.Array, choice: KernelChoice | None = None, tape: Tape | None = None
    ) -> jax.Array:
        """Applies the block to x [batch, height, width, in]; `choice` is for a depthwise kernel."""
        y = x
        for layer in self.spec.layers:
            y = self.layer(layer.part)(y, choice if layer.kind == "depthwise" else None, tape)
        if not self.spec.shortcut:
            return y
        if self.spec.shortcut_layer is not None:
            x = self.layer(self.spec.shortcut_layer.part)(x)
        y = x + y
        return activate(self.activation, y) if self.spec.kind == "residual" else y
