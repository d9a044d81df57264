"""One searchable block: its candidates at their true sizes, on slices padded to the largest.

Candidates of one structure are stacked: MBConvs, fused MBConvs of two convolutions, and those of
one. One `lax.switch` selects an MBConv's expansion, a second one its kernel; a fused candidate is a
branch of the first. Plain differentiation would keep the residuals of every branch. With the custom
rules here, the backward pass switches again, and one padded buffer per convolution, its output, is
kept for all candidates. The rest is recomputed elementwise from these outputs.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.batch_norm import group_count
from jaxnas.functional import run
from jaxnas.layers import KernelChoice, Tape
from jaxnas.space import Block, Candidate, Space
from jaxnas.supernet_stacks import crop, largest, pad, split_of, stack_of, stacks

Tree = Any  # nested dicts of arrays


class Branch(NamedTuple):
    """Branch of a block's switch.

    Attributes:
      stack: name of the stack that its candidates are in.
      largest: candidate whose sizes the branch crops its slices to.
      kernels: sizes of a depthwise kernel to choose from at run time; None for a fused candidate.
    """

    stack: str
    largest: Candidate
    kernels: tuple[int, ...] | None


@functools.cache
def _branches(space: Space, shape: Block) -> tuple[list[Branch], np.ndarray]:
    """Returns the choices of a block's switches.

    MBConvs of one expansion are one branch, whose operations other than the depthwise convolution
    are compiled once and not for every kernel.

    Returns:
      The branches; int32 [candidates, 2], the index of a candidate's branch (skip's follows the
      last) and the index of its kernel among the branch's sizes. What the block does not allow is
      computed as some other candidate; its probability is 0.
    """
    by_stack = stacks(shape)
    kernels: dict[tuple[str, int, int], list[int]] = {}
    where: dict[Candidate, tuple[tuple[str, int, int], int]] = {}
    for candidate in shape.convolutions:
        own = candidate.kernel if candidate.fused else 0
        sizes = kernels.setdefault((stack_of(candidate), candidate.expansion, own), [])
        where[candidate] = (stack_of(candidate), candidate.expansion, own), len(sizes)
        sizes.append(candidate.kernel)
    branches = [
        Branch(stack, Candidate(own, expansion, True), None)
        if own
        else Branch(
            stack, Candidate(largest(by_stack[stack]).kernel, expansion), tuple(kernels[key])
        )
        for key in kernels
        for stack, expansion, own in [key]
    ]
    indices = [
        (len(branches), 0)
        if candidate.is_skip and shape.allows_skip
        else ([*kernels].index(where[candidate][0]), where[candidate][1])
        if candidate in where
        else (0, 0)
        for candidate in space.candidates
    ]
    return branches, np.array(indices, np.int32)


def _switch(space: Space, shape: Block, choice: jax.Array, branches: list, *operands: Any) -> Any:
    """Calls the chosen branch with the kernel's index and the operands; skip's is the last."""
    branch, kernel = jnp.asarray(_branches(space, shape)[1])[choice]
    return lax.switch(
        branch, branches[: len(branches) - (not shape.allows_skip)], kernel, *operands
    )


@functools.cache
def _output_shapes(shape: Block, candidate: Candidate, x: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Returns the shapes of the convolutions' outputs for an input of this shape, in order."""
    graph, params, stats = split_of(shape, candidate)

    def outputs(params, stats, x):
        tape = Tape()
        run(graph, params, stats, x, None, tape)
        return tape.outputs

    shapes = jax.eval_shape(outputs, params, stats, jax.ShapeDtypeStruct(x, jnp.float32))
    return [leaf.shape for leaf in shapes]


@functools.cache
def _kept_shapes(shape: Block, x: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Returns the shapes of what `_forward` keeps for an input of this shape.

    The outputs of the candidates' last convolutions share a buffer, those before them another: they
    have the same height and width.
    """
    kept: list[tuple[int, ...]] = []
    for candidates in stacks(shape).values():
        shapes = _output_shapes(shape, largest(candidates), x)
        longer, shorter = (kept, shapes) if len(kept) > len(shapes) else (shapes, kept)
        alone = len(longer) - len(shorter)
        kept = longer[:alone] + [
            (*a[:3], max(a[3], b[3])) for a, b in zip(longer[alone:], shorter, strict=True)
        ]
    return kept


def _forward(
    space: Space,
    shape: Block,
    group: int | None,
    keeps: bool,
    params: Tree,
    stats: Tree,
    choice: jax.Array,
    x: jax.Array,
) -> tuple[jax.Array, Tree, tuple[jax.Array, ...]]:
    """Returns the output, the statistics after it and, if `keeps`, padded convolution outputs.

    If `keeps` and there is a group, the statistics are those of each group, [groups, ...].
    """
    like = _kept_shapes(shape, x.shape) if keeps else []

    def unchanged(stats):
        if not keeps or group is None:
            return stats
        groups = group_count(len(x), group)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (groups, *leaf.shape)), stats)

    def convolutions(stack, candidate, kernels):
        graph, true_params, true_stats = split_of(shape, candidate, group)

        def branch(kernel, params, stats, x):
            tape = Tape() if keeps else None
            y, new = run(
                graph,
                crop(params[stack], true_params),
                crop(stats[stack], true_stats),
                x,
                None if kernels is None else KernelChoice(kernels, kernel),
                tape,
            )
            kept = ()
            if keeps:
                alone = len(like) - len(tape.outputs)
                kept = (
                    *(jnp.zeros(size, x.dtype) for size in like[:alone]),
                    *map(pad, tape.outputs, like[alone:]),
                )
            new = jax.tree.map(lambda leaf, full: pad(leaf, full.shape), new, stats[stack])
            return y, {**unchanged(stats), stack: new}, kept

        return branch

    branches = [convolutions(*one) for one in _branches(space, shape)[0]]
    branches.append(
        lambda kernel, params, stats, x: (
            x,
            unchanged(stats),
            tuple(jnp.zeros(size, x.dtype) for size in like),
        )
    )
    return _switch(space, shape, choice, branches, params, stats, x)


def _backward(
    space: Space,
    shape: Block,
    group: int | None,
    params: Tree,
    group_stats: Tree,
    choice: jax.Array,
    kept: tuple[jax.Array, ...],
    x: jax.Array,
    dy: jax.Array,
    with_params: bool = True,
) -> tuple[Tree | None, jax.Array]:
    """Returns the gradients of params, if requested, and x, from what `_forward` returned."""

    def convolutions(stack, candidate, kernels):
        graph, true_params, true_stats = split_of(shape, candidate, group)
        widths = [size[-1] for size in _output_shapes(shape, candidate, x.shape)]

        def branch(kernel, params, group_stats, kept, x, dy):
            outputs = [
                leaf[..., :width]
                for leaf, width in zip(kept[len(kept) - len(widths) :], widths, strict=True)
            ]

            def output(params, x):
                return run(
                    graph,
                    crop(params[stack], true_params),
                    crop(group_stats[stack], true_stats),
                    x,
                    None if kernels is None else KernelChoice(kernels, kernel),
                    Tape(outputs),
                )[0]

            if with_params:
                return jax.vjp(output, params, x)[1](dy)
            return None, *jax.vjp(functools.partial(output, params), x)[1](dy)

        return branch

    branches = [convolutions(*one) for one in _branches(space, shape)[0]]
    branches.append(
        lambda kernel, params, group_stats, kept, x, dy: (
            jax.tree.map(jnp.zeros_like, params) if with_params else None,
            dy,
        )
    )
    return _switch(space, shape, choice, branches, params, group_stats, kept, x, dy)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def block(
    space: Space,
    shape: Block,
    group: int | None,
    params: Tree,
    stats: Tree,
    choice: jax.Array,
    x: jax.Array,
) -> tuple[jax.Array, Tree]:
    """Returns the chosen candidate's output, and its statistics as in `supernet.apply`.

    Gradients are those of the output only.

    Args:
      group: number of images that are normalized together; None for the running statistics.
      params, stats: weights and statistics of one candidate, padded.
      choice: int32 [], index of the candidate.
      x: [batch, height, width, channels].
    """
    return _forward(space, shape, group, False, params, stats, choice, x)[:2]


def _block_forward(space, shape, group, params, stats, choice, x):
    y, group_stats, kept = _forward(space, shape, group, True, params, stats, choice, x)
    batch_stats = group_stats
    if group is not None:
        batch_stats = jax.tree.map(lambda leaf: leaf.mean(0), group_stats)
    return (y, batch_stats), (params, group_stats, choice, kept, x)


def _block_backward(space, shape, group, residuals, cotangents):
    dparams, dx = _backward(space, shape, group, *residuals, cotangents[0])
    dstats = jax.tree.map(jnp.zeros_like, cotangents[1])
    return dparams, dstats, None, dx


block.defvjp(_block_forward, _block_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def gated_block(
    space: Space,
    shape: Block,
    group: int | None,
    slices: tuple[Tree, Tree],
    choices: jax.Array,
    gates: jax.Array,
    x: jax.Array,
) -> jax.Array:
    """Returns the active candidate's output, with gradients for the gates; see `apply_gated`.

    The candidates are computed one after the other. Their outputs, k times the block's, are kept
    for the backward pass, and the convolution outputs of the active one.

    Args:
      slices: params and stats of k candidates, leaves [k, ...], padded, the active one first.
      choices: int32 [k], indices of the candidates.
      gates: float32 [k].
      x: [batch, height, width, channels].
    """
    return _gated_forward(space, shape, group, slices, choices, gates, x)[0]


def _gated_forward(space, shape, group, slices, choices, gates, x):
    def output(inputs):
        (params, stats), choice = inputs
        return block(space, shape, group, params, stats, choice, x)[0]

    active = jax.tree.map(lambda leaf: leaf[0], slices)
    (y, _), residuals = _block_forward(space, shape, group, *active, choices[0], x)
    others = lax.map(output, jax.tree.map(lambda leaf: leaf[1:], (slices, choices)))
    return y, (slices, y, others, residuals)


def _gated_backward(space, shape, group, saved, dy):
    slices, y, others, residuals = saved
    _, dx = _backward(space, shape, group, *residuals, dy, with_params=False)

    def gradient(outputs):
        # In float32 for any precision of the blocks, since the sums are over a whole batch.
        return jnp.sum(
            outputs.astype(jnp.float32) * dy.astype(jnp.float32),
            tuple(range(outputs.ndim - 4, outputs.ndim)),
        )

    dgates = jnp.concatenate([gradient(y)[None], gradient(others)])
    return jax.tree.map(jnp.zeros_like, slices), None, dgates, dx


gated_block.defvjp(_gated_forward, _gated_backward)
