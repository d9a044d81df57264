"""Initial weights of the supernet.

Candidates that start as unrelated functions slow a short search: the layers after a block see
another input with each candidate. So the candidates of a block can start as one function.
"""

from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxnas import supernet, supernet_block
from jaxnas.space import Block, Candidate, Space

Tree = Any  # nested dicts of arrays
INITIALISATIONS = ("shared", "independent")


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
        _, params[name], stats[name] = supernet_block.split(module)
    for start, length in space.runs():
        shape = supernet.shape_of(space, start)
        drawn: dict[Candidate, list[tuple[Tree, Tree]]] = {}
        for _ in range(length):
            for candidate in shape.convolutions:
                _, *pair = supernet_block.split(supernet_block.module(shape, candidate, rng))
                drawn.setdefault(candidate, []).append(tuple(pair))
        # Leaves [length, ...].
        blocks = {
            candidate: jax.tree.map(lambda *leaves: np.stack(leaves), *each)
            for candidate, each in drawn.items()
        }
        if initialisation == "shared":
            _share(shape, {candidate: pair[0] for candidate, pair in blocks.items()})
        run: tuple[dict[str, Tree], dict[str, Tree]] = ({}, {})
        for name, candidates in supernet_block.stacks(shape).items():
            _, *full = supernet_block.split_of(shape, supernet_block.largest(candidates))
            run[0][name], run[1][name] = jax.tree.map(
                lambda like, *leaves: np.stack(
                    [supernet_block.pad(leaf, (len(leaf), *like.shape)) for leaf in leaves], 1
                ),
                tuple(full),
                *(blocks[candidate] for candidate in candidates),
            )
        params["runs"].append(run[0])
        stats["runs"].append(run[1])
    return jax.device_put((params, stats))  # in one call: leaf by leaf takes a second


class _Function(NamedTuple):
    """Kernels of the function that the candidates of a run's blocks share.

    Attributes:
      expand: [blocks, in, width], of MBConvs.
      spatial: [blocks, k, k, width] of MBConvs, [blocks, k, k, in, width] of fused ones,
        [blocks, k, k, in, out] of single convolutions.
      project: [blocks, width, out], of all but single convolutions.
    """

    expand: np.ndarray | None
    spatial: np.ndarray
    project: np.ndarray | None


def _share(shape: Block, weights: dict[Candidate, Tree]) -> None:
    """Makes the candidates of each block one function, in place; see `init`.

    Each structure takes the function from the one before it. The first takes it from its smallest
    candidate.
    """
    kernel = min(c.kernel for c in shape.convolutions)
    width = shape.in_channels * min(
        (c.expansion for c in shape.convolutions if c.expansion > 1), default=1
    )
    stacks = supernet_block.stacks(shape)
    function = None
    for candidates in (stacks[name] for name in ("mbconv", "fused", "dense") if name in stacks):
        smallest = min(candidates, key=lambda c: (c.expansion, c.kernel))
        function = _function_of(weights[smallest], kernel, width, function)
        for candidate in candidates:
            _become(weights[candidate], function)
            if shape.allows_skip:
                last = "project" if "project" in weights[candidate] else "dense"
                weights[candidate][last]["scale"][:] = 0


def _function_of(drawn: Tree, size: int, width: int, before: _Function | None) -> _Function:
    """Returns the function of a candidate, as drawn or as like `before` as its structure allows."""
    kernels = {part: layer["kernel"] for part, layer in drawn.items()}
    spatial = kernels["depthwise" if "depthwise" in kernels else "dense"]
    spatial = spatial[:, *_middle(spatial.shape[1], size)]
    project = expand = None
    if "project" in kernels:
        spatial, project = spatial[..., :width], kernels["project"][:, :width].copy()
    if "expand" in kernels:
        expand = kernels["expand"][..., :width].copy()
    if before is None:
        return _Function(expand, spatial.copy(), project)
    assert before.project is not None  # the only structure without one is the last
    product = before.spatial
    if before.expand is not None:
        product = product[:, :, :, None] * before.expand[:, None, None]
    if project is None:
        product = np.einsum("nijch,nho->nijco", product, before.project)
    # At the scale of drawn weights: batch norm takes it out of the function, but not out of the
    # gradient.
    product = product * (spatial.std() / product.std())
    return _Function(expand, product, None if project is None else before.project)


def _become(tree: Tree, function: _Function) -> None:
    """Makes a candidate compute a function, in place."""
    width = function.spatial.shape[-1]
    kernel = tree["depthwise" if "depthwise" in tree else "dense"]["kernel"]
    kernel[..., :width] = 0
    middle = _middle(kernel.shape[1], function.spatial.shape[1])
    kernel[:, *middle, ..., :width] = function.spatial
    if function.project is not None:
        tree["project"]["kernel"][:, :width] = function.project
        tree["project"]["kernel"][:, width:] = 0
    if function.expand is not None:
        tree["expand"]["kernel"][..., :width] = function.expand


def _middle(size: int, smallest: int) -> tuple[slice, slice]:
    border = (size - smallest) // 2
    return (slice(border, border + smallest),) * 2
