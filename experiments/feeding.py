"""Batches on the devices: every process reads its shard, and all are one batch."""

from collections.abc import Iterator
from typing import Protocol

import jax

from jaxnas import data, parallel


class Sizes(Protocol):
    """What of a run's configuration decides its batches."""

    batch_size: int
    train_image_size: int
    seed: int


class Feed:
    """Training batches of a part from a step on, without end, divided among the devices."""

    def __init__(self, part: data.Part, sizes: Sizes, layout: parallel.Layout, start_step: int):
        self._layout = layout
        self._batches = data.batches(
            part, batch_size=sizes.batch_size, image_size=sizes.train_image_size,
            seed=sizes.seed, start_step=start_step, shard_index=jax.process_index(),
            shard_count=jax.process_count())

    def __next__(self) -> data.Batch:
        return self._layout.divide(next(self._batches))

    def close(self) -> None:
        """Ends the threads that read ahead."""
        self._batches.close()


def evaluation(part: data.Part, sizes: Sizes, layout: parallel.Layout) -> Iterator[data.Batch]:
    """Every example of a part once, in batches divided among the devices; see `data`."""
    for batch in data.evaluation_batches(
            part, batch_size=sizes.batch_size, image_size=sizes.train_image_size,
            shard_index=jax.process_index(), shard_count=jax.process_count()):
        yield layout.divide(batch)
