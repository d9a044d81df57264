"""One searchable block: its candidates at their true sizes, on slices padded to the largest.

One `lax.switch` selects the candidate's expansion, a second one its kernel. Plain differentiation
would keep the residuals of every branch. With the custom rules here, the backward pass switches
again, and one padded buffer per convolution, its output, is kept for all candidates. The rest is
recomputed elementwise from these outputs.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from jaxnas.layers import KernelChoice, MBConv, Tape
from jaxnas.space import Block, Candidate, Space

Tree = Any  # nested dicts of arrays


def module(shape: Block, candidate: Candidate, rng: np.random.Generator) -> MBConv:
    """Returns the candidate's layers, drawn at its true size."""
    return MBConv(
        shape.in_channels,
        shape.out_channels,
        kernel=candidate.kernel,
        expansion=candidate.expansion,
        stride=shape.stride,
        rng=rng,
    )


def split(module: nnx.Module, train: bool = True) -> tuple[nnx.GraphDef, Tree, Tree]:
    """Returns a module's graph, weights and statistics, the latter two as nested dicts."""
    (module.train if train else module.eval)()
    graph, *states = nnx.split(module, nnx.Param, nnx.BatchStat)
    params, stats = map(nnx.to_pure_dict, states)
    return graph, params, stats


@functools.cache
def split_of(
    shape: Block, candidate: Candidate, train: bool = True
) -> tuple[nnx.GraphDef, Tree, Tree]:
    """Returns `split` of an arbitrarily drawn candidate, for its graph and true shapes."""
    return split(module(shape, candidate, np.random.default_rng(0)), train)


def run(graph: nnx.GraphDef, params: Tree, stats: Tree, *inputs: Any) -> tuple[jax.Array, Tree]:
    """Applies a split module to inputs; returns the output and the statistics after it."""
    module = nnx.merge(graph, nnx.State(params), nnx.State(stats))
    y = module(*inputs)
    return y, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))


def crop(tree: Tree, like: Tree) -> Tree:
    """Returns padded slices cropped to the shapes of `like`."""
    return jax.tree.map(lambda leaf, true: leaf[tuple(map(slice, true.shape))], tree, like)


def pad(leaf: jax.Array | np.ndarray, size: tuple[int, ...]) -> jax.Array | np.ndarray:
    """Returns a slice padded with trailing zeros to `size`."""
    xp = np if isinstance(leaf, np.ndarray) else jnp
    return xp.pad(leaf, [(0, full - true) for full, true in zip(size, leaf.shape, strict=True)])


def _expansions(space: Space, shape: Block) -> tuple[list[tuple[int, tuple[int, ...]]], np.ndarray]:
    """Returns the choices of a block's switches.

    The outer switch selects the expansion or skip, the inner one the kernel, so that operations
    that depend only on the expansion are compiled once and not for every candidate.

    Returns:
      Each expansion with its kernel sizes; int32 [candidates, 2], the index of a candidate's
      expansion (skip's follows the last) and the index of its kernel among the sizes.
    """
    sizes: dict[int, list[int]] = {}
    for c in space.convolutions:
        sizes.setdefault(c.expansion, []).append(c.kernel)
    places = [
        (list(sizes).index(c.expansion), sizes[c.expansion].index(c.kernel))
        for c in space.convolutions
    ]
    skip = [(len(sizes), 0)] * shape.allows_skip
    return [(e, tuple(some)) for e, some in sizes.items()], np.array(places + skip, np.int32)


def largest(space: Space, expansion: int | None = None) -> Candidate:
    """Returns the candidate of the largest kernel, with this expansion or else the largest one."""
    return Candidate(
        max(c.kernel for c in space.convolutions),
        expansion or max(c.expansion for c in space.convolutions),
    )


def _forward(
    space: Space,
    shape: Block,
    train: bool,
    keeps: bool,
    params: Tree,
    stats: Tree,
    choice: jax.Array,
    x: jax.Array,
) -> tuple[jax.Array, Tree, tuple[jax.Array, ...]]:
    """Returns the output, the statistics after it and, if `keeps`, padded convolution outputs."""
    expansions, places = _expansions(space, shape)
    like = _kept_shapes(space, shape, x.shape) if keeps else ()

    def convolutions(expansion, sizes):
        graph, true_params, true_stats = split_of(shape, largest(space, expansion), train)

        def branch(params, stats, kernel, x):
            tape = Tape() if keeps else None
            y, new = run(
                graph,
                crop(params, true_params),
                crop(stats, true_stats),
                x,
                KernelChoice(sizes, kernel),
                tape,
            )
            kept = (
                [pad(leaf, size) for leaf, size in zip(tape.outputs, like, strict=True)]
                if keeps
                else ()
            )
            return y, jax.tree.map(lambda leaf, full: pad(leaf, full.shape), new, stats), (*kept,)

        return branch

    branches = [convolutions(*one) for one in expansions]
    branches.append(
        lambda params, stats, kernel, x: (
            x,
            stats,
            tuple(jnp.zeros(size, x.dtype) for size in like),
        )
    )
    branch, kernel = jnp.asarray(places)[choice]
    return lax.switch(branch, branches[: places[:, 0].max() + 1], params, stats, kernel, x)


@functools.cache
def _kept_shapes(space: Space, shape: Block, x: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Returns the shapes of what `_forward` keeps for an input of this shape."""
    graph, params, stats = split_of(shape, largest(space))

    def outputs(params, stats, x):
        tape = Tape()
        run(graph, params, stats, x, None, tape)
        return tape.outputs

    return [
        leaf.shape
        for leaf in jax.eval_shape(outputs, params, stats, jax.ShapeDtypeStruct(x, jnp.float32))
    ]


def _backward(
    space: Space,
    shape: Block,
    params: Tree,
    batch_stats: Tree,
    choice: jax.Array,
    kept: tuple[jax.Array, ...],
    x: jax.Array,
    dy: jax.Array,
    with_params: bool = True,
) -> tuple[Tree | None, jax.Array]:
    """Returns the gradients of params, if requested, and x, from what `_forward` returned."""
    expansions, places = _expansions(space, shape)

    def convolutions(expansion, sizes):
        graph, true_params, true_stats = split_of(shape, largest(space, expansion))
        widths = [
            leaf.shape[-1]
            for leaf in (
                true_params["expand"]["scale"],
                true_params["depthwise"]["scale"],
                true_params["project"]["scale"],
            )
        ]

        def branch(params, batch_stats, kernel, kept, x, dy):
            outputs = [leaf[..., :width] for leaf, width in zip(kept, widths, strict=True)]

            def output(params, x):
                return run(
                    graph,
                    crop(params, true_params),
                    crop(batch_stats, true_stats),
                    x,
                    KernelChoice(sizes, kernel),
                    Tape(outputs),
                )[0]

            if with_params:
                return jax.vjp(output, params, x)[1](dy)
            return None, *jax.vjp(functools.partial(output, params), x)[1](dy)

        return branch

    branches = [convolutions(*one) for one in expansions]
    branches.append(
        lambda params, batch_stats, kernel, kept, x, dy: (
            jax.tree.map(jnp.zeros_like, params) if with_params else None,
            dy,
        )
    )
    branch, kernel = jnp.asarray(places)[choice]
    return lax.switch(
        branch, branches[: places[:, 0].max() + 1], params, batch_stats, kernel, kept, x, dy
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def block(
    space: Space,
    shape: Block,
    train: bool,
    params: Tree,
    stats: Tree,
    choice: jax.Array,
    x: jax.Array,
) -> tuple[jax.Array, Tree]:
    """Returns the chosen candidate's output, and its statistics as in `supernet.apply`.

    Gradients require `train`, and are those of the output only.

    Args:
      params, stats: weights and statistics of one candidate, padded.
      choice: int32 [], index of the candidate.
      x: [batch, height, width, channels].
    """
    return _forward(space, shape, train, False, params, stats, choice, x)[:2]


def _block_forward(space, shape, train, params, stats, choice, x):
    y, batch_stats, kept = _forward(space, shape, train, True, params, stats, choice, x)
    return (y, batch_stats), (params, batch_stats, choice, kept, x)


def _block_backward(space, shape, train, residuals, cotangents):
    dparams, dx = _backward(space, shape, *residuals, cotangents[0])
    return dparams, jax.tree.map(jnp.zeros_like, residuals[1]), None, dx


block.defvjp(_block_forward, _block_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def gated_block(
    space: Space,
    shape: Block,
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
    return _gated_forward(space, shape, slices, choices, gates, x)[0]


def _gated_forward(space, shape, slices, choices, gates, x):
    def output(inputs):
        (params, stats), choice = inputs
        return block(space, shape, True, params, stats, choice, x)[0]

    active = jax.tree.map(lambda leaf: leaf[0], slices)
    (y, _), residuals = _block_forward(space, shape, True, *active, choices[0], x)
    others = lax.map(output, jax.tree.map(lambda leaf: leaf[1:], (slices, choices)))
    return y, (slices, y, others, residuals)


def _gated_backward(space, shape, saved, dy):
    slices, y, others, residuals = saved
    _, dx = _backward(space, shape, *residuals, dy, with_params=False)

    def gradient(outputs):
        # In float32 for any precision of the blocks, since the sums are over a whole batch.
        return jnp.sum(
            outputs.astype(jnp.float32) * dy.astype(jnp.float32),
            tuple(range(outputs.ndim - 4, outputs.ndim)),
        )

    dgates = jnp.concatenate([gradient(y)[None], gradient(others)])
    return jax.tree.map(jnp.zeros_like, slices), None, dgates, dx


gated_block.defvjp(_gated_forward, _gated_backward)
