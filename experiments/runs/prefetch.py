"""Batches on the devices; each process reads its shard of a batch."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import data, parallel
from profiling.progress import Progress

_REPORTED_WAIT = 0.05  # share of the time above which waiting for data is reported
DeviceBatch = dict[str, jax.Array]  # `data.Batch`, sharded over the devices
Shapes = dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """Parameters that determine the batches of a part.

    Attributes:
      batch_size: number of examples, over all devices.
      image_size: size of the pictures in px.
      data_workers: number of processes that make the batches; 0 uses threads of this process.
      seed: seed of the order and the augmentation.
    """

    batch_size: int
    image_size: int
    data_workers: int
    seed: int


class Feed:
    """Endless training batches of a part from a given step on, sharded over the devices.

    Attributes:
      idle: whether the devices have finished all their work; set by the loop. Only then is time
        spent waiting for a batch lost, because the loop runs ahead of the devices.
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

    def __next__(self) -> DeviceBatch:
        asked = time.monotonic()
        batch = next(self._batches)
        if self.idle:
            self._waits_s.append(time.monotonic() - asked)
        return self._layout.shard(batch)

    def tell_waiting(self, progress: Progress, step_s: float) -> None:
        """Prints the share of a step that is spent waiting for data, if it is significant."""
        share = float(np.mean(self._waits_s or [0.0])) / step_s
        if share > _REPORTED_WAIT and not self._in_memory:
            progress.print(
                f"{share:.0%} of the time was spent waiting for data; --data_workers=N "
                f"makes the batches in N processes",
                "yellow",
            )

    def close(self) -> None:
        """Stops the threads or processes that prefetch."""
        self._batches.close()


def evaluation(
    part: data.Part, sizes: BatchSizes, layout: parallel.Layout
) -> Iterator[DeviceBatch]:
    """Yields every example of a part once, in sharded batches; see `data.evaluation_batches`."""
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


def right_answers(
    evaluate: Callable[[DeviceBatch], jax.Array],
    part: data.Part,
    sizes: BatchSizes,
    layout: parallel.Layout,
    tick: Callable[[float, str], None] = lambda done, note: None,
) -> np.ndarray:
    """Returns whether each example of a part is classified right, bool [examples].

    The order is that of the part with one process, and the same in all evaluations otherwise.

    Args:
      evaluate: returns `loss.right_answers` of a batch.
      part: examples to evaluate.
      sizes: parameters of the batches.
      layout: devices of the run.
      tick: called after each batch with the fraction done and a note for people.
    """
    right = np.zeros(0, bool)
    for batch in evaluation(part, sizes, layout):
        answers = np.asarray(evaluate(batch))
        right = np.append(right, answers[answers >= 0] > 0)
        tick(len(right) / len(part), f"top-1 {right.mean():.4f}")
    return right


def batch_shapes(sizes: BatchSizes, layout: parallel.Layout) -> tuple[Shapes, Shapes]:
    """Returns the shapes of a training batch and of an evaluation batch, which has a mask."""
    size, count = sizes.image_size, sizes.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((count,), jnp.int32),
    }
    masked = batch | {"mask": jax.ShapeDtypeStruct((count,), jnp.float32)}
    return layout.sharded_shapes(batch), layout.sharded_shapes(masked)
