"""Modules as pure functions of their weights and batch statistics, nested dicts of arrays."""

from typing import Any

import jax
from flax import nnx

from jaxnas.batch_norm import BATCH_NORM_GROUP

Tree = Any  # nested dicts of arrays


def split(
    module: nnx.Module, group: int | None = BATCH_NORM_GROUP
) -> tuple[nnx.GraphDef, Tree, Tree]:
    """Returns a module's graph, weights and statistics, the latter two as nested dicts.

    Args:
      group: number of images that batch normalization takes together; None for a graph that
        normalizes by the running statistics.
    """
    if group is None:
        module.eval()
    else:
        module.train(batch_norm_group=group)
    graph, *states = nnx.split(module, nnx.Param, nnx.BatchStat)
    params, stats = map(nnx.to_pure_dict, states)
    return graph, params, stats


def run(graph: nnx.GraphDef, params: Tree, stats: Tree, *inputs: Any) -> tuple[jax.Array, Tree]:
    """Applies a split module to inputs; returns the output and the statistics after it."""
    module = nnx.merge(graph, nnx.State(params), nnx.State(stats))
    y = module(*inputs)
    return y, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))
