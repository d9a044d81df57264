"""Where a run's arrays lie: on one axis of devices, of one process or of many."""

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
    """The axis, and the two ways in which arrays lie on it.

    Attributes:
      mesh: of the axis `AXIS` alone.
    """

    mesh: jax.sharding.Mesh

    @property
    def replicated(self) -> jax.sharding.NamedSharding:
        """Whole on every device."""
        return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())

    @property
    def sharded(self) -> jax.sharding.NamedSharding:
        """Along the first axis, among the devices."""
        return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec(AXIS))

    def check_batch_size(self, batch_size: int, flag: str = "batch_size") -> None:
        """Raises ValueError for one that does not divide among the devices."""
        if batch_size % self.mesh.size:
            raise ValueError(
                f"--{flag}={batch_size} does not divide among {self.mesh.size} "
                f"devices: give a multiple"
            )

    def shard(self, local: Tree) -> Tree:
        """A batch's global arrays, of each process's shard: [batch / processes, ...] of NumPy."""
        return jax.tree.map(
            functools.partial(jax.make_array_from_process_local_data, self.sharded), local
        )

    def replicate(self, tree: Tree) -> Tree:
        """Global arrays of what every process has the same of."""

        def place(leaf: np.ndarray | jax.Array) -> jax.Array:
            host = np.asarray(leaf)
            return jax.make_array_from_callback(
                host.shape, self.replicated, lambda index: host[index]
            )

        return jax.tree.map(place, tree)

    def replicated_shapes(self, tree: Tree) -> Tree:
        """What a step is compiled for that takes a tree like this, replicated."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.replicated),
            tree,
        )

    def sharded_shapes(self, tree: Tree) -> Tree:
        """What a step is compiled for that takes a batch like this, divided."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.sharded), tree
        )


def layout(devices: Sequence[jax.Device] | None = None) -> Layout:
    """Of all devices of all processes, or of some."""
    devices = jax.devices() if devices is None else devices
    # Of the axis types this one leaves it to XLA what is computed where.
    return Layout(
        jax.sharding.Mesh(np.array(devices), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    )
