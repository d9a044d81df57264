"""Initial weights of the supernet of `efficientnet_lite`: those published for EfficientNet-Lite0.

Each block's published choice has its published weights, so the published path is the published
network. The other candidates come as near to it as their sizes allow.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxnas import functional, pretrained, supernet, supernet_initialization, supernet_stacks
from jaxnas.builtin_spaces import EFFICIENTNET_LITE
from jaxnas.reconstruction import (
    FITTED_IMAGES,
    Examples,
    adapt,
    block_outputs,
    fit_block,
    fit_classifier,
    is_same_function,
    stem_outputs,
)
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


def init(
    space: Space,
    num_classes: int,
    seed: int,
    examples: Examples | None = None,
    tick: Callable[[float], None] = lambda done: None,
) -> tuple[Tree, Tree]:
    """Returns weights and batch statistics of a supernet with published weights.

    A candidate has the weights of `reconstruction.adapt`. With examples it then computes what the
    published block does on them as nearly as it can, given the same input, and the linear layer is
    fitted to them.

    Args:
      space: `efficientnet_lite`.
      num_classes: as for `pretrained.pretrained`.
      seed: seed of the linear layer for another number of classes than ImageNet's.
      examples: images uint8 [n, size, size, 3] and their labels, int32 [n].
      tick: called with the fraction done.

    Returns:
      params, stats: as `supernet_initialization.init`.

    Raises:
      ValueError: the space has no published weights, or they are not installed.
    """
    check_space(space)
    network = pretrained.pretrained(num_classes, seed)
    drawn = supernet_initialization.init(space, num_classes, seed, "independent")
    params, stats = jax.tree.map(np.array, jax.device_get(drawn))
    network.eval()
    first, *blocks = network.blocks
    x = None
    if examples is not None:
        if num_classes != pretrained.NUM_CLASSES:
            fit_classifier(network, *examples)
        x = block_outputs(first, stem_outputs(network, examples[0][:FITTED_IMAGES]))
    fixed = {"stem": network.stem, "first": first, "classifier": network.classifier}
    for name, module in fixed.items():
        _, params[name], stats[name] = functional.split(module)
    rng = np.random.default_rng(seed)  # what it draws is replaced
    for (start, length), *run in zip(space.runs(), params["runs"], stats["runs"], strict=True):
        shape = supernet.shape_of(space, start)
        views = supernet_initialization.views(shape, *run)
        for index, source in enumerate(blocks[start : start + length]):
            target = np.zeros(0) if x is None else block_outputs(source, x)
            for candidate, weights in views.items():
                block = supernet_stacks.module(shape, candidate, rng)
                adapt(block, source)
                if x is not None and not is_same_function(block, source):
                    block.eval()
                    fit_block(block, source, x, x, target)
                _, *fitted = functional.split(block)
                of_block = jax.tree.map(lambda leaf, index=index: leaf[index], weights)
                jax.tree.map(np.copyto, of_block, tuple(fitted))
            x = None if x is None else target
            tick((start + index + 1) / len(blocks))
    return jax.device_put((params, stats))


def prior(space: Space) -> np.ndarray:
    """Returns α, float32 [blocks, candidates], at which each published choice has probability 1/2.

    With α even, most blocks of a drawn path are none of the published ones. With weights that are
    only taken over, on 100 ImageNet pictures of 128 px and by their own statistics, ten paths drawn
    so are right on 12 % in the mean, ten drawn from this α on 24 %, the published path on 45 %.
    """
    published = space.path(space.parse(LITE0))
    alpha = np.zeros(space.allowed.shape, np.float32)
    alpha[np.arange(len(published)), published] = np.log(space.allowed.sum(1) - 1)
    return alpha
