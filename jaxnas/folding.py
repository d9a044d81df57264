"""Networks for inference: batch norm folded into convolutions, the input's scale into the stem."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxnas.block import ConvBlock
from jaxnas.layers import BATCH_NORM_EPSILON, ConvBatchNorm, activate, max_pool
from jaxnas.network import Network
from jaxnas.padding import sides


def folded_convolution(layer: ConvBatchNorm, size: int) -> nnx.Conv:
    """Returns a layer as one convolution with bias, its running statistics folded in.

    Args:
      layer: the layer.
      size: size of its square input in px, which TensorFlow's padding depends on.

    Computed in NumPy, since XLA would compile a program for each of a network's shapes.
    """
    factor = np.asarray(layer.scale[...]) / np.sqrt(
        np.asarray(layer.variance[...]) + np.float32(BATCH_NORM_EPSILON)
    )
    kernel = np.asarray(layer.kernel[...]) * factor
    if layer.kind == "depthwise":
        kernel = kernel[:, :, None, :]
    elif layer.kind == "pointwise":
        kernel = kernel[None, None]
    taps, _, group_width, channels = kernel.shape
    conv = nnx.eval_shape(
        lambda: nnx.Conv(
            channels if layer.kind == "depthwise" else group_width,
            channels,
            (taps, taps),
            strides=(layer.stride,) * 2,
            padding=[*sides(layer.padding, (size, size), taps, layer.stride)],
            feature_group_count=channels if layer.kind == "depthwise" else 1,
            rngs=nnx.Rngs(0),
        )
    )
    _set(conv.kernel, kernel)
    _set(conv.bias, np.asarray(layer.bias[...]) - np.asarray(layer.mean[...]) * factor)
    return conv


def _set(variable: nnx.Variable[Any] | None, value: np.ndarray) -> None:
    assert variable is not None  # the layer was made with it
    variable.set_value(value)


def _folded_block(block: ConvBlock, size: int) -> list[nnx.Conv]:
    """Returns a block's convolutions for an input of `size` px."""
    convolutions, inside = [], size
    for layer in block.spec.layers:
        convolutions.append(folded_convolution(getattr(block, layer.part), inside))
        inside = -(-inside // layer.stride)
    if block.spec.shortcut_layer is not None:
        shortcut = getattr(block, block.spec.shortcut_layer.part)
        convolutions.append(folded_convolution(shortcut, size))
    return convolutions


class FoldedNetwork(nnx.Module):
    """A trained network for inference: standard NNX layers with batch norm folded in.

    The input is pixels as float32 [batch, size, size, 3], 0 to 255; the output is float32 logits.

    Attributes:
      normalization, activation, stem_pool, specs: of the network and its blocks.
      stem, blocks, head, linear: the layers; a block's convolutions are in the order of
        `BlockSpec.all_layers`.
    """

    def __init__(self, network: Network, image_size: int):
        spec = network.spec
        self.normalization, self.activation = spec.normalization, spec.activation
        self.stem_pool = spec.stem_pool
        self.specs = tuple(block.spec for block in network.blocks)
        self.stem = folded_convolution(network.stem, image_size)
        scale = np.float32(1 / spec.normalization.scale)
        _set(self.stem.kernel, np.asarray(self.stem.kernel[...]) * scale)
        size = -(-image_size // spec.stem.stride)
        size = -(-size // 2) if spec.stem_pool else size
        blocks = []
        for block in network.blocks:
            blocks.append(nnx.List(_folded_block(block, size)))
            size = -(-size // block.spec.stride)
        self.blocks = nnx.List(blocks)
        head = network.classifier.head
        self.head = None if head is None else folded_convolution(head, size)
        kernel = np.asarray(network.classifier.kernel[...])
        self.linear = nnx.eval_shape(lambda: nnx.Linear(*kernel.shape, rngs=nnx.Rngs(0)))
        _set(self.linear.kernel, kernel)
        _set(self.linear.bias, np.asarray(network.classifier.bias[...]))

    def __call__(self, images: jax.Array) -> jax.Array:
        act = functools.partial(activate, self.activation)
        mean = self.normalization.mean
        x = act(self.stem(images - mean if mean else images))
        x = max_pool(x) if self.stem_pool else x
        for spec, block in zip(self.specs, self.blocks, strict=True):
            y = x
            for layer, convolution in zip(spec.layers, block, strict=False):
                y = act(convolution(y)) if layer.activated else convolution(y)
            if spec.shortcut:
                y = (x if spec.shortcut_layer is None else block[-1](x)) + y
            x = act(y) if spec.kind == "residual" else y
        x = x if self.head is None else act(self.head(x))
        return self.linear(jnp.mean(x, (1, 2)))
