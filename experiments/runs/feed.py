"""Batches on the devices: every process reads its shard, and all are one batch."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import data, parallel
from profiling.progress import Progress

_WORTH_MENDING = 0.05
Shapes = dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """What decides the batches of a part.

    Attributes:
      batch_size: examples, over all devices.
      image_size: in px.
      data_workers: processes that make them; 0 is threads of this process.
      seed: of their order and augmentation.
    """

    batch_size: int
    image_size: int
    data_workers: int
    seed: int


class Feed:
    """Training batches of a part from a step on, without end, divided among the devices.

    Attributes:
      idle: to be set where the devices have done all they were given. Only then is waiting for
        a batch lost time: the loop runs ahead of the devices.
    """

    def __init__(
        self, part: data.Part, sizes: BatchSizes, layout: parallel.Layout, start_step: int
    ):
        self._layout = layout
        self._batches = data.batches(
            part,
            batch_size=sizes.batch_size,
            image_size=sizes.image_size,
            seed=sizes.seed,
            start_step=start_step,
            shard_index=jax.process_index(),
            shard_count=jax.process_count(),
            workers=sizes.data_workers,
        )
        self._in_memory = part.spec.in_memory
        self._waits_s: list[float] = []
        self.idle = False

    def __next__(self) -> data.Batch:
        asked = time.monotonic()
        batch = next(self._batches)
        if self.idle:
            self._waits_s.append(time.monotonic() - asked)
        return self._layout.shard(batch)

    def tell_waiting(self, progress: Progress, step_s: float) -> None:
        """Says what share of a step is spent waiting for data, where that is worth mending."""
        share = float(np.mean(self._waits_s or [0.0])) / step_s
        if share > _WORTH_MENDING and not self._in_memory:
            progress.print(
                f"{share:.0%} of the time was spent waiting for data; --data_workers=N "
                f"makes the batches in N processes",
                "yellow",
            )

    def close(self) -> None:
        """Ends the threads or processes that read ahead."""
        self._batches.close()


def evaluation(part: data.Part, sizes: BatchSizes, layout: parallel.Layout) -> Iterator[data.Batch]:
    """Every example of a part once, in batches divided among the devices; see `data`."""
    batches = data.evaluation_batches(
        part,
        batch_size=sizes.batch_size,
        image_size=sizes.image_size,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
        workers=sizes.data_workers,
    )
    with contextlib.closing(batches):
        for batch in batches:
            yield layout.shard(batch)


def count_top1(
    evaluate: Callable[[data.Batch], dict[str, jax.Array]],
    part: data.Part,
    sizes: BatchSizes,
    layout: parallel.Layout,
    tick: Callable[[float, str], None] = lambda done, note: None,
) -> float:
    """Top-1 on a part, a fraction.

    Args:
      evaluate: gives the sums `correct` and `count` over a batch.
      tick: called after each batch with the fraction done and a note for people.
    """
    correct = count = 0.0
    for batch in evaluation(part, sizes, layout):
        sums = evaluate(batch)
        correct, count = correct + float(sums["correct"]), count + float(sums["count"])
        tick(count / len(part), f"top-1 {correct / count:.4f}")
    return correct / count


def batch_shapes(sizes: BatchSizes, layout: parallel.Layout) -> tuple[Shapes, Shapes]:
    """Shapes of a training batch and of an evaluation's, which has a mask."""
    size, count = sizes.image_size, sizes.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((count,), jnp.int32),
    }
    masked = batch | {"mask": jax.ShapeDtypeStruct((count,), jnp.float32)}
    return layout.sharded_shapes(batch), layout.sharded_shapes(masked)
