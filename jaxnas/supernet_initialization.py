"""Initial weights of the supernet, and the function that candidates share.

Candidates that start as unrelated functions slow a short search: the layers after a block see
another input with each candidate. So the candidates of a block can start as one function, and this
function can be trained before they part.
"""

from typing import Any, Literal, get_args

import jax
import numpy as np

from jaxnas import functional, supernet, supernet_stacks
from jaxnas.space import SKIP, Block, Candidate, Space

Tree = Any  # nested dicts of arrays
Weights = tuple[Tree, Tree]  # of one candidate in all blocks of a run: params and stats
Initialization = Literal["shared", "independent", "pretrained"]
INITIALISATIONS = get_args(Initialization)


def init(
    space: Space,
    num_classes: int,
    seed: int,
    initialisation: Literal["shared", "independent"] = "shared",
) -> tuple[Tree, Tree]:
    """Returns newly initialized weights and batch statistics of a supernet.

    Args:
      initialisation: `independent` draws every candidate separately, as the official search does.
        It takes thousands of steps until the layers after a block work with all its candidates.
        With `shared` the candidates of a block start as one function: the smallest one's weights,
        in the middle of larger kernels and beside wider expansions' own channels, whose projections
        start at zero. Between stacks the functions differ by activations alone: a fused
        convolution starts as the product of the kernels that it replaces. Blocks with a shortcut
        start as the identity (the last scale is 0: Goyal et al. 2017, §5.1). Hundreds of steps
        suffice.

    Returns:
      params, stats: {"stem": ..., "first": ..., "runs": [...], "classifier": ...}, float32.
    """
    rng = np.random.default_rng(seed)
    params: dict[str, Any] = {"runs": []}
    stats: dict[str, Any] = {"runs": []}
    for name, module in supernet.fixed_modules(space, num_classes, rng).items():
        _, params[name], stats[name] = functional.split(module)
    for start, length in space.runs():
        shape = supernet.shape_of(space, start)
        drawn: dict[Candidate, list[Weights]] = {}
        for _ in range(length):
            for candidate in shape.convolutions:
                _, *pair = functional.split(supernet_stacks.module(shape, candidate, rng))
                drawn.setdefault(candidate, []).append(tuple(pair))
        weights = {
            candidate: jax.tree.map(lambda *leaves: np.stack(leaves), *each)
            for candidate, each in drawn.items()
        }
        if initialisation == "shared":
            _link(shape, weights)
            _spread(shape, weights)
            if shape.allows_skip:
                for layers, _ in weights.values():
                    layers["project" if "project" in layers else "dense"]["scale"][:] = 0
        for tree, stacks in zip((params, stats), _stacked(shape, weights), strict=True):
            tree["runs"].append(stacks)
    return jax.device_put((params, stats))  # in one call: leaf by leaf takes a second


def smallest(space: Space) -> np.ndarray:
    """Returns the candidates that train the function that a block's candidates share.

    They are skip where a block allows it, elsewhere the smallest candidate of each structure.

    Returns:
      bool [blocks, candidates], like `Space.allowed`.
    """
    chosen = np.zeros_like(space.allowed)
    for index, block in enumerate(space.blocks):
        few = (
            [SKIP] if block.allows_skip else map(_smallest, supernet_stacks.stacks(block).values())
        )
        chosen[index, [space.candidates.index(one) for one in few]] = True
    return chosen


def share(space: Space, params: Tree, stats: Tree) -> tuple[Tree, Tree]:
    """Returns weights and statistics in which all candidates compute what the `smallest` ones do.

    The smallest candidate's layers become the middle of the others' kernels and their first
    channels; the projection of the other channels is 0 (function-preserving: Chen et al. 2016).
    A kernel smaller than that of the candidate of fewest channels has its middle, and so computes
    only nearly the same. Blocks that may be skipped stay as they are.
    """
    params, stats = jax.tree.map(np.array, jax.device_get((params, stats)))
    for (start, _), *run in zip(space.runs(), params["runs"], stats["runs"], strict=True):
        shape = supernet.shape_of(space, start)
        if not shape.allows_skip:
            _spread(shape, views(shape, *run))
    return params, stats


def _stacked(shape: Block, weights: dict[Candidate, Weights]) -> Weights:
    """Returns weights and statistics of a run by stack: leaves [length, candidates, ...]."""
    run: Weights = ({}, {})
    for name, candidates in supernet_stacks.stacks(shape).items():
        _, *full = supernet_stacks.split_of(shape, supernet_stacks.largest(candidates))
        run[0][name], run[1][name] = jax.tree.map(
            lambda like, *leaves: np.stack(
                [supernet_stacks.pad(leaf, (len(leaf), *like.shape)) for leaf in leaves], 1
            ),
            tuple(full),
            *(weights[candidate] for candidate in candidates),
        )
    return run


def views(shape: Block, params: Tree, stats: Tree) -> dict[Candidate, Weights]:
    """Returns each candidate's weights and statistics at their true sizes, to be written to."""
    views: dict[Candidate, Weights] = {}
    for name, candidates in supernet_stacks.stacks(shape).items():
        for index, candidate in enumerate(candidates):
            _, *true_size = supernet_stacks.split_of(shape, candidate)
            views[candidate] = jax.tree.map(
                lambda like, leaf, index=index: leaf[:, index, *map(slice, like.shape)],
                tuple(true_size),
                (params[name], stats[name]),
            )
    return views


def _smallest(candidates: list[Candidate]) -> Candidate:
    return min(candidates, key=lambda c: (c.expansion, c.kernel))


def _link(shape: Block, weights: dict[Candidate, Weights]) -> None:
    """Makes the smallest candidates of a block's structures nearly one function, in place.

    A fused convolution becomes the product of an MBConv's first two kernels, a single one also that
    of the projection. They have the middle of their kernel and their first channels in common.
    """
    size = min(c.kernel for c in shape.convolutions)
    width = shape.in_channels * min(
        (c.expansion for c in shape.convolutions if c.expansion > 1), default=1
    )
    stacks = supernet_stacks.stacks(shape)
    product = project = None
    for name in ("mbconv", "fused", "dense"):
        if name not in stacks:
            continue
        layers = weights[_smallest(stacks[name])][0]
        kernel = layers["depthwise" if name == "mbconv" else "dense"]["kernel"]
        kernel = kernel if name == "dense" else kernel[..., :width]
        inner = middle(kernel.shape[1], size)
        taps = kernel[:, *inner].copy()
        if product is not None:
            if name == "dense":
                assert project is not None  # as the product is another structure's
                product = np.einsum("nijch,nho->nijco", product, project)
            # At the scale of drawn weights: batch norm takes it out of the function, but not out of
            # the gradient.
            taps = product * (taps.std() / product.std())
        kernel[:] = 0
        kernel[:, *inner] = taps
        if name == "dense":
            continue
        own = layers["project"]["kernel"]
        own[:, :width] = own[:, :width] if project is None else project
        own[:, width:] = 0
        product, project = taps, own[:, :width].copy()
        if name == "mbconv":
            expand = layers["expand"]["kernel"][..., :width]
            product = product[:, :, :, None] * expand[:, None, None]


def _spread(shape: Block, weights: dict[Candidate, Weights]) -> None:
    """Makes each structure's candidates compute what the smallest one does, in place."""
    for candidates in supernet_stacks.stacks(shape).values():
        donor = weights[_smallest(candidates)]
        for candidate in candidates:
            if weights[candidate] is not donor:
                _become(weights[candidate], donor)


def _become(weights: Weights, donor: Weights) -> None:
    """Makes a candidate compute what one of its structure and of no more channels does, in place.

    If its own kernel is smaller, it has the middle of the other's.
    """
    for part, layer in donor[0].items():
        kernel, into = layer["kernel"], weights[0][part]["kernel"]
        if part == "project":
            into[:, : kernel.shape[1]] = kernel
            into[:, kernel.shape[1] :] = 0
        elif part == "expand":
            into[..., : kernel.shape[-1]] = kernel
        else:
            size = min(kernel.shape[1], into.shape[1])
            taps = kernel[:, *middle(kernel.shape[1], size)]
            into[..., : kernel.shape[-1]] = 0
            into[:, *middle(into.shape[1], size), ..., : kernel.shape[-1]] = taps
        for old, new in zip(donor, weights, strict=True):
            for name in old[part].keys() - {"kernel"}:
                new[part][name][:, : old[part][name].shape[1]] = old[part][name]


def middle(size: int, smallest: int) -> tuple[slice, slice]:
    """Returns where the middle of a kernel of `size` is, as large as the `smallest` one."""
    border = (size - smallest) // 2
    return (slice(border, border + smallest),) * 2
