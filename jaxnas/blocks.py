"""One searchable block: its candidates at their true sizes, on slices padded to the largest.

`lax.switch` picks the candidate. Differentiated plainly it would keep what every branch needs for
its backward pass; under the custom rules here the backward pass switches again and recomputes, so
that only the block's input is kept.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from jaxnas.layers import MBConv
from jaxnas.space import Block, Candidate, Space

Tree = Any  # nested dicts of arrays
Branch = Callable[[Tree, Tree, jax.Array], tuple[jax.Array, Tree]]


def module(shape: Block, candidate: Candidate, rng: np.random.Generator) -> MBConv:
    """The candidate's layers, drawn at its true size."""
    return MBConv(shape.in_channels, shape.out_channels, kernel=candidate.kernel,
                  expansion=candidate.expansion, stride=shape.stride, rng=rng)


def split(module: nnx.Module, train: bool = True) -> tuple[nnx.GraphDef, Tree, Tree]:
    """A module as its graph, its weights and its statistics, the latter two as nested dicts."""
    (module.train if train else module.eval)()
    graph, params, stats = nnx.split(module, nnx.Param, nnx.BatchStat)
    return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


@functools.cache
def split_of(shape: Block, candidate: Candidate,
             train: bool = True) -> tuple[nnx.GraphDef, Tree, Tree]:
    """`split` of some drawing of the candidate: for its graph and its true shapes."""
    return split(module(shape, candidate, np.random.default_rng(0)), train)


def run(graph: nnx.GraphDef, params: Tree, stats: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
    """What `split` took apart, applied to x: the output and the statistics after it."""
    module = nnx.merge(graph, nnx.State(params), nnx.State(stats))
    y = module(x)
    return y, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))


def crop(tree: Tree, like: Tree) -> Tree:
    """Padded slices cut to the shapes of `like`."""
    return jax.tree.map(lambda leaf, true: leaf[tuple(map(slice, true.shape))], tree, like)


def pad(leaf: jax.Array | np.ndarray, size: tuple[int, ...]) -> jax.Array | np.ndarray:
    """A slice with zeros behind, up to `size`."""
    module = np if isinstance(leaf, np.ndarray) else jnp
    return module.pad(leaf, [(0, full - true) for full, true in zip(size, leaf.shape, strict=True)])


def _branches(space: Space, shape: Block, train: bool) -> list[Branch]:
    """One function (params, stats, x) → (y, stats) for each candidate, on padded slices."""
    def convolution(candidate):
        graph, true_params, true_stats = split_of(shape, candidate, train)

        def branch(params, stats, x):
            y, new = run(graph, crop(params, true_params), crop(stats, true_stats), x)
            return y, jax.tree.map(lambda leaf, full: pad(leaf, full.shape), new, stats)
        return branch

    branches = [convolution(c) for c in space.convolutions]
    if shape.allows_skip:
        branches.append(lambda params, stats, x: (x, stats))
    return branches


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def block(space: Space, shape: Block, train: bool, params: Tree, stats: Tree, choice: jax.Array,
          x: jax.Array) -> tuple[jax.Array, Tree]:
    """The chosen candidate's output, and its statistics as `supernet.apply` has them.

    Args:
      params, stats: one candidate's, padded.
      choice: int32 [], its index.
      x: [batch, height, width, channels].
    """
    return lax.switch(choice, _branches(space, shape, train), params, stats, x)


def _block_forward(space, shape, train, params, stats, choice, x):
    return block(space, shape, train, params, stats, choice, x), (params, stats, choice, x)


def _block_backward(space, shape, train, residuals, cotangents):
    params, stats, choice, x = residuals

    def pull(branch):
        def run(params, x, dy):
            _, vjp = jax.vjp(lambda p, x: branch(p, stats, x)[0], params, x)
            return vjp(dy)
        return run

    pulls = [pull(branch) for branch in _branches(space, shape, train)]
    dparams, dx = lax.switch(choice, pulls, params, x, cotangents[0])
    return dparams, jax.tree.map(jnp.zeros_like, stats), None, dx


block.defvjp(_block_forward, _block_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def gated_block(space: Space, shape: Block, slices: tuple[Tree, Tree], choices: jax.Array,
                gates: jax.Array, x: jax.Array) -> jax.Array:
    """The active candidate's output, with gradients for the gates; see `supernet.apply_gated`.

    The candidates are computed one after the other. Their outputs, k times the block's, are kept
    for the backward pass; what is inside them is not.

    Args:
      slices: params and stats of k candidates, leaves [k, ...], padded, the active one first.
      choices: int32 [k], their indices.
      gates: float32 [k].
      x: [batch, height, width, channels].
    """
    return _gated_forward(space, shape, slices, choices, gates, x)[0]


def _gated_forward(space, shape, slices, choices, gates, x):
    branches = _branches(space, shape, True)

    def output(inputs):
        (params, stats), choice = inputs
        return lax.switch(choice, branches, params, stats, x)[0]

    outputs = lax.map(output, (slices, choices))
    return outputs[0], (slices, choices, outputs, x)


def _gated_backward(space, shape, residuals, dy):
    slices, choices, outputs, x = residuals
    params, stats = jax.tree.map(lambda leaf: leaf[0], slices)
    pulls = [lambda x, dy, b=b: jax.vjp(lambda x: b(params, stats, x)[0], x)[1](dy)[0]
             for b in _branches(space, shape, True)]
    dx = lax.switch(choices[0], pulls, x, dy)
    # In float32 whatever the blocks compute in: sums over a whole batch.
    dgates = jnp.sum(outputs.astype(jnp.float32) * dy.astype(jnp.float32),
                     tuple(range(1, outputs.ndim)))
    return jax.tree.map(jnp.zeros_like, slices), None, dgates, dx


gated_block.defvjp(_gated_forward, _gated_backward)
