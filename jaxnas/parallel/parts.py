"""Means over the devices' parts of a batch: one sum over devices at the end of a step.

XLA could divide a step between the devices by itself. It then sums each layer's gradient where that
layer ends, and gathers the activations of depthwise layers on every device for their gradient.
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxnas.batch_norm import group_count
from jaxnas.parallel.layout import AXIS

Tree = Any  # nested dicts of arrays
_WHOLE, _PART = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)


def mean_over_parts(
    function: Callable[..., Tree], replicated: jax.sharding.NamedSharding | None, group: int | None
) -> Callable[..., Tree]:
    """Returns a function that applies `function` to each device's part of a batch.

    Where a device's part does not consist of whole groups, `function` is applied to the whole
    batch, so the result does not depend on the number of devices.

    Args:
      function: (*inputs, batch) → tree of float arrays, each a mean over the groups of the batch.
      replicated: replicated sharding on the devices of a layout; None for one device.
      group: number of images that batch normalization takes together; None for running statistics.

    Returns:
      A function of replicated inputs and a sharded batch. Its result is replicated.
    """
    devices = 1 if replicated is None else replicated.mesh.size

    def averaged(*arguments: Tree) -> Tree:
        *inputs, batch = arguments
        images = len(jax.tree.leaves(batch)[0])
        groups = images if group is None else group_count(images, group)
        if replicated is None or devices == 1 or groups % devices:
            return function(*inputs, batch)
        return jax.shard_map(
            lambda *local: jax.lax.pmean(function(*local), AXIS),
            mesh=replicated.mesh,
            in_specs=(*[_WHOLE] * len(inputs), _PART),
            out_specs=_WHOLE,
            # Otherwise the gradient of each layer is summed over the devices on its own.
            check_vma=False,
        )(*inputs, batch)

    return averaged
