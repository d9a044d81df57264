"""Initial weights of the supernet of `efficientnet_lite`: those published for EfficientNet-Lite0.

Each block's published choice has its published weights, so the published path is the published
network. The other candidates come as near to it as their sizes allow.
"""

from typing import Any

import jax
import numpy as np

from jaxnas import pretrained, supernet, supernet_block, supernet_initialization
from jaxnas.builtin_spaces import EFFICIENTNET_LITE
from jaxnas.space import Space
from jaxnas.zoo import LITE0

Tree = Any  # nested dicts of arrays


def check_space(space: Space) -> None:
    """Raises ValueError if a space has no published weights, or they are not installed."""
    if space != EFFICIENTNET_LITE:
        raise ValueError(
            f"--initialisation=pretrained: the space {space.name} has no published weights; give "
            f"--space={EFFICIENTNET_LITE.name}, or another --initialisation"
        )
    pretrained.check_network(pretrained.NETWORK)


def init(space: Space, num_classes: int, seed: int) -> tuple[Tree, Tree]:
    """Returns weights and batch statistics of a supernet with published weights.

    A kernel smaller than the published one is its middle; a larger one has it in its middle and
    zeros around, which is the same function. A smaller expansion has the channels that matter most.
    The statistics are the published ones, so those of smaller candidates are to be recalibrated, or
    to be learned in training, before the running ones are used.

    Args:
      space: `efficientnet_lite`.
      num_classes: as for `pretrained.pretrained`.
      seed: seed of the linear layer for another number of classes than ImageNet's.

    Returns:
      params, stats: as `supernet_initialization.init`.

    Raises:
      ValueError: the space has no published weights, or they are not installed.
    """
    check_space(space)
    network = pretrained.pretrained(num_classes, seed)
    drawn = supernet_initialization.init(space, num_classes, seed, "independent")
    params, stats = jax.tree.map(np.array, jax.device_get(drawn))
    first, *blocks = network.blocks
    fixed = {"stem": network.stem, "first": first, "classifier": network.classifier}
    for name, module in fixed.items():
        _, params[name], stats[name] = supernet_block.split(module)
    for (start, length), *run in zip(space.runs(), params["runs"], stats["runs"], strict=True):
        views = supernet_initialization.views(supernet.shape_of(space, start), *run)
        for index in range(length):
            _, *published = supernet_block.split(blocks[start + index])
            for weights in views.values():
                of_block = jax.tree.map(lambda leaf, index=index: leaf[index], weights)
                _adapt(of_block, published)
    return jax.device_put((params, stats))


def prior(space: Space) -> np.ndarray:
    """Returns α, float32 [blocks, candidates], at which each published choice has probability 1/2.

    With α even, most blocks of a drawn path are none of the published ones. On 100 ImageNet
    pictures of 128 px, normalized by their own statistics, ten paths drawn so are right on 12 % in
    the mean, ten drawn from this α on 24 %, and the published path on 45 %.
    """
    published = space.path(space.parse(LITE0))
    alpha = np.zeros(space.allowed.shape, np.float32)
    alpha[np.arange(len(published)), published] = np.log(space.allowed.sum(1) - 1)
    return alpha


def _adapt(weights: tuple[Tree, Tree], published: list[Tree]) -> None:
    """Gives a candidate of one block the published weights and statistics, in place."""
    width = len(weights[0]["project"]["kernel"])
    kept = np.sort(np.argsort(-_importance(published[0]), kind="stable")[:width])
    for part, layer in published[0].items():
        kernel, into = layer["kernel"], weights[0][part]["kernel"]
        if part == "project":
            into[:] = kernel[kept]
        elif part == "expand":
            into[:] = kernel[:, kept]
        else:
            size = min(len(kernel), len(into))
            taps = kernel[*supernet_initialization.middle(len(kernel), size)]
            into[:] = 0
            into[*supernet_initialization.middle(len(into), size)] = taps[..., kept]
        channels = slice(None) if part == "project" else kept
        for old, new in zip(published, weights, strict=True):
            for name in old[part].keys() - {"kernel"}:
                new[part][name][:] = old[part][name][channels]


def _importance(params: Tree) -> np.ndarray:
    """Returns how much each inner channel of an MBConv adds to its output, float32 [channels].

    That is the norm of its projection, times the deviation of what is projected before activation.
    """
    norms = np.linalg.norm(params["project"]["kernel"], axis=1)
    return norms * np.abs(params["depthwise"]["scale"])
