"""Supernet: all candidates of all blocks in one tree of weights, one path computed at a time.

Weights and statistics are nested dicts of arrays. Consecutive blocks of one shape are stacked, and
their candidates by structure: leaves under the keys `runs` and, say, `mbconv` are
[length, candidates, ...], each candidate padded with zeros to the largest kernel and expansion of
its stack. Sampling is then a gather:

    active = gather(space, params, path)       leaves [length, ...]: a slice of each stack per block
    logits, batch_stats = apply(space, active, active_stats, path, images, group=64)
    params = scatter(space, params, updated, path)

A step reads and writes only the sampled path's slices, so candidates that are not sampled stay
bit-identical. `jaxnas.supernet_block` computes a block.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from jaxnas import functional, supernet_block, supernet_stacks
from jaxnas.block import ConvBlock
from jaxnas.layers import Classifier, ConvBatchNorm
from jaxnas.network import Network, first_block_of, network_of
from jaxnas.space import Block, Space

Tree = Any  # nested dicts of arrays


def gather(space: Space, tree: Tree, path: jax.Array) -> Tree:
    """Returns the path's slices of params, stats or a tree shaped like them.

    Args:
      tree: tree whose leaves under `runs` are [length, candidates, ...].
      path: int32 [..., blocks]; the leaves under `runs` become [..., length, ...]. From a stack
        that the candidate is not in, some slice is gathered; nothing reads it, and `scatter` does
        not write it.
    """

    def slices(stack: Tree, places: jax.Array) -> Tree:
        rows = jnp.arange(places.shape[-1])
        return jax.tree.map(lambda leaf: leaf.at[rows, places].get(mode="clip"), stack)

    return {
        **tree,
        "runs": [
            {stack: slices(run[stack], at) for stack, at in _places(space, start, choices).items()}
            for (start, choices), run in zip(_choices(space, path), tree["runs"], strict=True)
        ],
    }


def scatter(space: Space, tree: Tree, active: Tree, path: jax.Array) -> Tree:
    """Returns `tree` with the path's slices replaced by `active`; the inverse of `gather`.

    The index of a candidate that is not in a stack lies beyond it, so its write is dropped.
    """

    def replaced(stack: Tree, new: Tree, places: jax.Array) -> Tree:
        rows = jnp.arange(places.shape[-1])
        return jax.tree.map(
            lambda leaf, slices: leaf.at[rows, places].set(
                slices, mode="drop", unique_indices=True
            ),
            stack,
            new,
        )

    return {
        **active,
        "runs": [
            {
                stack: replaced(run[stack], new[stack], at)
                for stack, at in _places(space, start, choices).items()
            }
            for (start, choices), run, new in zip(
                _choices(space, path), tree["runs"], active["runs"], strict=True
            )
        ],
    }


def apply(
    space: Space,
    params: Tree,
    stats: Tree,
    path: jax.Array,
    images: jax.Array,
    *,
    group: int | None,
) -> tuple[jax.Array, Tree]:
    """Applies the path's network to a batch.

    Args:
      params, stats: trees gathered for `path`.
      path: int32 [blocks].
      images: [batch, size, size, 3].
      group: number of images that are normalized together by their statistics; a larger batch is
        divided into equal groups of at least that many. None normalizes by the running statistics.

    Returns:
      Logits float32 [batch, classes], and the statistics: the mean of the groups', or unchanged.
    """
    x, new_stats = _stem(space, params, stats, images, group)
    new_stats["runs"] = []
    for (start, length), run_params, run_stats in zip(
        space.runs(), params["runs"], stats["runs"], strict=True
    ):
        block = functools.partial(supernet_block.block, space, shape_of(space, start), group)

        def step(x, inputs, block=block):
            block_params, block_stats, choice = inputs
            return block(block_params, block_stats, choice, x)

        x, run_stats = _over_run(step, x, (run_params, run_stats, path[start : start + length]))
        new_stats["runs"].append(run_stats)
    logits, new_stats["classifier"] = _apply_fixed("classifier", space, params, stats, x, group)
    return logits, new_stats


def apply_gated(
    space: Space,
    params: Tree,
    stats: Tree,
    paths: jax.Array,
    gates: jax.Array,
    images: jax.Array,
    *,
    group: int | None,
) -> jax.Array:
    """Applies the first of k paths' networks, with all paths' candidates behind gates.

    Every block computes y = o_0(x) + Σ_k (gates_k − stop(gates_k)) · stop(o_k(x)): the active
    candidate's output, with ∂L/∂gates_k = ⟨∂L/∂y, o_k(x)⟩ for each candidate, and gradients to
    earlier blocks through the active one only (ProxylessNAS, §3.2.1). Uses the statistics of groups
    of images, as `apply` does.

    Beside a weight step's memory, it keeps k outputs of every block until the backward pass: 2.5 MB
    · k per image for the proxyless space in float32 at 224 px, or 4.4 GB at k = 7 and batch 256.

    Args:
      params, stats: trees gathered for `paths`.
      paths: int32 [k, blocks], the active one first. If k is the number of candidates, a block that
        may not skip does not compute the last, which must be its skip; its gradient is 0.
      gates: float32 [k, blocks]; only their gradients matter, not their values.
      images: [batch, size, size, 3].

    Returns:
      Logits float32 [batch, classes].
    """
    x, _ = _stem(space, params, stats, images, group)
    for index, (start, length) in enumerate(space.runs()):
        shape = shape_of(space, start)
        count = len(space.candidates) if shape.allows_skip else len(space.convolutions)
        block = functools.partial(supernet_block.gated_block, space, shape, group)
        inputs = jax.tree.map(
            lambda leaf, count=count: jnp.moveaxis(leaf[:count], 0, 1),
            (
                (params["runs"][index], stats["runs"][index]),
                paths[:, start : start + length],
                gates[:, start : start + length],
            ),
        )
        x, _ = _over_run(lambda x, inputs, block=block: (block(*inputs, x), ()), x, inputs)
    return _apply_fixed("classifier", space, params, stats, x, group)[0]


def extract(
    space: Space,
    params: Tree,
    stats: Tree,
    path: np.ndarray,
    num_classes: int,
    name: str = "network",
) -> Network:
    """Returns the path's network, with the supernet's weights and running statistics."""
    # On the host, since one process may do this alone with arrays on the devices of many.
    params, stats = jax.device_get((params, stats))
    spec = network_of(space, space.arch(path), num_classes, name)
    network = Network(spec, rng=np.random.default_rng(0))
    modules = iter(network.blocks)
    layers = {"stem": network.stem, "classifier": network.classifier}
    if "first" in params:
        layers["first"] = next(modules)
    for key, module in layers.items():
        nnx.update(module, nnx.State(params[key]), nnx.State(stats[key]))
    for run, (start, length) in enumerate(space.runs()):
        for i in range(length):
            candidate = space.candidates[path[start + i]]
            if candidate.is_skip:
                continue
            module = next(modules)
            shape = shape_of(space, start)
            stack = supernet_stacks.stack_of(candidate)
            at = supernet_stacks.places(space, shape)[stack][path[start + i]]
            _, *true_size = supernet_stacks.split_of(shape, candidate)
            for tree, like in zip((params, stats), true_size, strict=True):
                slices = jax.tree.map(
                    lambda leaf, i=i, at=at: leaf[i, at], tree["runs"][run][stack]
                )
                nnx.update(module, nnx.State(supernet_stacks.crop(slices, like)))
    return network


def fixed_modules(space: Space, num_classes: int, rng: np.random.Generator) -> dict[str, Any]:
    """Returns the layers that all networks of a space have, newly drawn, in order."""
    act, first = space.activation, first_block_of(space)
    modules: dict[str, Any] = {
        "stem": ConvBatchNorm(
            "dense",
            3,
            space.stem_channels,
            kernel=3,
            stride=space.stem_stride,
            padding=space.padding,
            activation=act,
            rng=rng,
        )
    }
    if first is not None:
        modules["first"] = ConvBlock(first, activation=act, padding=space.padding, rng=rng)
    modules["classifier"] = Classifier(
        space.blocks[-1].out_channels, space.head_channels, num_classes, activation=act, rng=rng
    )
    return modules


@functools.cache
def _fixed_graphs(space: Space, group: int | None) -> dict[str, nnx.GraphDef]:
    modules = fixed_modules(space, 2, np.random.default_rng(0))
    return {name: functional.split(module, group)[0] for name, module in modules.items()}


def _apply_fixed(
    name: str, space: Space, params: Tree, stats: Tree, x: jax.Array, group: int | None
):
    return functional.run(_fixed_graphs(space, group)[name], params[name], stats[name], x)


def _stem(space: Space, params: Tree, stats: Tree, images: jax.Array, group: int | None):
    new_stats = {}
    x, new_stats["stem"] = _apply_fixed("stem", space, params, stats, images, group)
    if "first" in params:
        x, new_stats["first"] = _apply_fixed("first", space, params, stats, x, group)
    return x, new_stats


def shape_of(space: Space, index: int) -> Block:
    """Returns the block without its name: what stacked blocks share, and the key of caches."""
    return dataclasses.replace(space.blocks[index], name="")


def _choices(space: Space, path: jax.Array) -> Iterator[tuple[int, jax.Array]]:
    """Yields the first block of each run of equal blocks, and the run's part of the path."""
    for start, length in space.runs():
        yield start, path[..., start : start + length]


def _places(space: Space, start: int, choices: jax.Array) -> dict[str, jax.Array]:
    """Returns where in each stack of a run the chosen candidates are, shaped as the choices."""
    places = supernet_stacks.places(space, shape_of(space, start))
    return {stack: jnp.asarray(at)[choices] for stack, at in places.items()}


def _over_run(step, x: jax.Array, inputs: Tree) -> tuple[jax.Array, Tree]:
    """Scans stacked blocks; calls a single block, which may change x's shape, unlike a scan."""
    if jax.tree.leaves(inputs)[0].shape[0] > 1:
        return lax.scan(step, x, inputs)
    x, outputs = step(x, jax.tree.map(lambda leaf: leaf[0], inputs))
    return x, jax.tree.map(lambda leaf: leaf[None], outputs)
