"""Stacks of a block's candidates: those of one structure, padded to the largest of them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxnas import functional
from jaxnas.batch_norm import BATCH_NORM_GROUP
from jaxnas.block import ConvBlock
from jaxnas.network import block_of
from jaxnas.space import Block, Candidate, Space

Tree = Any  # nested dicts of arrays


def stack_of(candidate: Candidate) -> str:
    """Returns the name of the stack that a candidate other than skip is in."""
    if not candidate.fused:
        return "mbconv"
    return "fused" if candidate.expansion > 1 else "dense"


def stacks(shape: Block) -> dict[str, list[Candidate]]:
    """Returns a block's candidates other than skip by stack, in order."""
    found: dict[str, list[Candidate]] = {}
    for candidate in shape.convolutions:
        found.setdefault(stack_of(candidate), []).append(candidate)
    return found


@functools.cache
def places(space: Space, shape: Block) -> dict[str, np.ndarray]:
    """Returns each candidate's index in every stack, int32 [candidates]; if absent, its length."""
    return {
        stack: np.array(
            [some.index(c) if c in some else len(some) for c in space.candidates], np.int32
        )
        for stack, some in stacks(shape).items()
    }


def largest(candidates: list[Candidate]) -> Candidate:
    """Returns a candidate as large as any of these, which are of one stack."""
    return Candidate(
        max(c.kernel for c in candidates),
        max(c.expansion for c in candidates),
        candidates[0].fused,
    )


def module(shape: Block, candidate: Candidate, rng: np.random.Generator) -> ConvBlock:
    """Returns the candidate's layers, drawn at its true size."""
    return ConvBlock(
        block_of(shape, candidate), activation=shape.activation, padding=shape.padding, rng=rng
    )


@functools.cache
def split_of(
    shape: Block, candidate: Candidate, group: int | None = BATCH_NORM_GROUP
) -> tuple[nnx.GraphDef, Tree, Tree]:
    """Returns `functional.split` of a candidate drawn at random, for its graph and true shapes."""
    return functional.split(module(shape, candidate, np.random.default_rng(0)), group)


def crop(tree: Tree, like: Tree) -> Tree:
    """Returns padded slices cropped to the shapes of `like`, in their last axes."""
    return jax.tree.map(lambda leaf, true: leaf[(..., *map(slice, true.shape))], tree, like)


def pad(leaf: jax.Array | np.ndarray, size: tuple[int, ...]) -> jax.Array | np.ndarray:
    """Returns a slice padded with trailing zeros to `size` in its last axes."""
    xp = np if isinstance(leaf, np.ndarray) else jnp
    size = (*leaf.shape[: leaf.ndim - len(size)], *size)
    return xp.pad(leaf, [(0, full - true) for full, true in zip(size, leaf.shape, strict=True)])
