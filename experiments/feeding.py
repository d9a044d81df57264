"""Batches on the devices: every process reads its shard, and all are one batch."""

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

import jax
import numpy as np

from jaxnas import data, parallel
from profiling.progress import Progress

_WORTH_MENDING = 0.05

class Sizes(Protocol):
    """What of a run's configuration decides its batches."""

    batch_size: int
    train_image_size: int
    data_workers: int
    seed: int


class Feed:
    """Training batches of a part from a step on, without end, divided among the devices.

    Attributes:
      idle: to be set where the devices have done all they were given. Only then is waiting for
        a batch lost time: the loop runs ahead of the devices.
    """

    def __init__(self, part: data.Part, sizes: Sizes, layout: parallel.Layout, start_step: int):
        self._layout = layout
        self._batches = data.batches(
            part, batch_size=sizes.batch_size, image_size=sizes.train_image_size,
            seed=sizes.seed, start_step=start_step, shard_index=jax.process_index(),
            shard_count=jax.process_count(), workers=sizes.data_workers)
        self._in_memory = part.spec.in_memory
        self._waits_s: list[float] = []
        self.idle = False

    def __next__(self) -> data.Batch:
        asked = time.monotonic()
        batch = next(self._batches)
        if self.idle:
            self._waits_s.append(time.monotonic() - asked)
        return self._layout.divide(batch)

    def tell_waiting(self, progress: Progress, step_s: float) -> None:
        """Says what share of a step is spent waiting for data, where that is worth mending."""
        share = float(np.mean(self._waits_s or [0.0])) / step_s
        if share > _WORTH_MENDING and not self._in_memory:
            progress.print(f"{share:.0%} of the time was spent waiting for data; --data_workers=N "
                           f"makes the batches in N processes", "yellow")

    def close(self) -> None:
        """Ends the threads or processes that read ahead."""
        self._batches.close()


def evaluation(part: data.Part, sizes: Sizes, layout: parallel.Layout) -> Iterator[data.Batch]:
    """Every example of a part once, in batches divided among the devices; see `data`."""
    batches = data.evaluation_batches(
        part, batch_size=sizes.batch_size, image_size=sizes.train_image_size,
        shard_index=jax.process_index(), shard_count=jax.process_count(),
        workers=sizes.data_workers)
    with contextlib.closing(batches):
        for batch in batches:
            yield layout.divide(batch)
