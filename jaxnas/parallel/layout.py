"""Layout of a run's arrays on one axis of devices, of one process or many."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

Tree = Any  # nested dicts of arrays

AXIS = "batch"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Device axis, and the two shardings of arrays on it.

    Attributes:
      mesh: mesh with the single axis `AXIS`.
    """

    mesh: jax.sharding.Mesh

    @property
    def replicated(self) -> jax.sharding.NamedSharding:
        """Sharding that replicates an array on every device."""
        return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())

    @property
    def sharded(self) -> jax.sharding.NamedSharding:
        """Sharding of an array's first axis across the devices."""
        return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec(AXIS))

    def check_batch_size(self, batch_size: int, flag: str = "batch_size") -> None:
        """Raises ValueError if the batch size is not a multiple of the number of devices."""
        if batch_size % self.mesh.size:
            raise ValueError(
                f"--{flag}={batch_size} does not divide among {self.mesh.size} "
                f"devices: give a multiple"
            )

    def shard(self, local: Tree) -> Tree:
        """Returns a batch's global arrays from each process's shard [batch / processes, ...]."""
        return jax.tree.map(
            functools.partial(jax.make_array_from_process_local_data, self.sharded), local
        )

    def replicate(self, tree: Tree) -> Tree:
        """Returns replicated global arrays of a tree that is the same in every process."""

        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(self.replicated, np.asarray(leaf)),
            tree,
        )

    def replicated_shapes(self, tree: Tree) -> Tree:
        """Returns the shapes to compile a step for that takes a tree like this, replicated."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.replicated),
            tree,
        )

    def sharded_shapes(self, tree: Tree) -> Tree:
        """Returns the shapes to compile a step for that takes a batch like this, sharded."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.sharded), tree
        )


def layout(devices: Sequence[jax.Device] | None = None) -> Layout:
    """Returns the layout on all devices of all processes, or on some."""
    devices = jax.devices() if devices is None else devices
    # With this axis type, XLA decides what is computed where.
    return Layout(
        jax.sharding.Mesh(np.array(devices), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    )
