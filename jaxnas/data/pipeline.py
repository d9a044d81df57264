"""Batches of the parts of a data set, as stateless grain pipelines."""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, NotRequired, TypedDict

import grain
import numpy as np

from jaxnas.data.augment import Augmentation, center_crop
from jaxnas.data.parts import Part
from jaxnas.data.pictures import Example
from jaxnas.data.workers import in_processes

# Entropy of each part's random streams, beside the seed.
_PART_STREAM = {"weights": 0, "alpha": 1, "test": 2}
_MOST_WAITING = 16  # batches that are made and not yet used
_MOST_BYTES = 4e9  # of all batches ahead


class Batch(TypedDict):
    """Batch of a step.

    Attributes:
      image: uint8 [batch, image_size, image_size, 3], red, green, blue, 0 to 255.
      label: int32 [batch].
      mask: float32 [batch], 1 for an example and 0 for padding; in evaluation only.
    """

    image: np.ndarray
    label: np.ndarray
    mask: NotRequired[np.ndarray]


def batches(
    part: Part,
    *,
    batch_size: int,
    image_size: int,
    seed: int,
    start_step: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
    threads: int | None = None,
    workers: int = 0,
) -> grain.DatasetIterator[Batch]:
    """Returns endless training batches, each of which depends only on (seed, part, step).

    A run resumes at a step by requesting batches from that step on. Every pass over the part has
    its own order. Images of the weights part are augmented, those of other parts are not.

    Args:
      part: part returned by `load`.
      batch_size: number of examples per step, over all shards.
      image_size: side of the square images in px.
      seed: non-negative seed.
      start_step: step of the first batch.
      shard_index: index of the shard of each step's batch that this process reads.
      shard_count: number of shards of a batch; their union is the same batch for any count.
      threads: number of batches made at once, ahead of the step that uses them; None means one per
        core, and one for sets kept in memory; 0 makes each batch on request.
      workers: number of processes that make batches instead of threads; the batches are the same.

    Returns:
      An iterator; `close()` ends its threads or processes.

    Raises:
      ValueError: an argument is out of range, or the part is empty.
      OSError: there is too little shared memory for this number of workers.
    """
    _check(part, batch_size, image_size, shard_index, shard_count)
    batch_bytes = batch_size // shard_count * image_size**2 * 3
    if start_step < 0:
        raise ValueError(f"start_step is {start_step}; it must not be negative")
    order_seed, augment_seed = (
        int(word)
        for word in np.random.SeedSequence([seed, _PART_STREAM[part.name]]).generate_state(2)
    )
    examples = grain.MapDataset.source(_Shuffled(part, order_seed))
    if part.augmentation is None:
        examples = examples.map(_centered(part, image_size))
    else:
        examples = examples.random_map(
            _augmented(part, part.augmentation, image_size), seed=augment_seed
        )
    steps = (
        examples[shard_index::shard_count]
        .batch(batch_size // shard_count, drop_remainder=True)
        .map(_int32_labels)
    )
    return _ahead(steps[start_step:], part, threads, workers, batch_bytes)


def evaluation_batches(
    part: Part,
    *,
    batch_size: int,
    image_size: int,
    shard_index: int = 0,
    shard_count: int = 1,
    threads: int | None = None,
    workers: int = 0,
) -> grain.DatasetIterator[Batch]:
    """Returns batches of every example of a part once, in order, without augmentation.

    All batches have the same shape: the last is padded with repeated examples whose `mask` is 0.
    Arguments, result and errors are those of `batches`.
    """
    _check(part, batch_size, image_size, shard_index, shard_count)
    batch_bytes = batch_size // shard_count * image_size**2 * 3
    padding = -len(part) % batch_size
    centered = _centered(part, image_size)

    def masked(index: int, example: Example) -> dict[str, Any]:
        return centered(example) | {"mask": np.float32(index < len(part))}

    order = np.concatenate([np.arange(len(part)), np.zeros(padding, np.int64)])
    examples = grain.MapDataset.source(order).map(lambda index: part[index])
    steps = (
        examples.map_with_index(masked)[shard_index::shard_count]
        .batch(batch_size // shard_count, drop_remainder=True)
        .map(_int32_labels)
    )
    return _ahead(steps, part, threads, workers, batch_bytes)


class _Shuffled:
    """Endless sequence of a part's examples, each pass in its own order.

    grain's own shuffle walks the cycles of a permutation of 65,536, which takes 180 µs per example
    for a part of 300.
    """

    def __init__(self, part: Part, seed: int):
        self._part = part
        self._seed = seed

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, position: int) -> Example:
        epoch, index = divmod(position, len(self._part))
        return self._part[_order(self._seed, epoch, len(self._part))[index]]

    def __repr__(self) -> str:
        return f"shuffled {self._part!r}"


# Two passes of each of two parts can be active at once, since batches are made ahead.
@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def _check(
    part: Part, batch_size: int, image_size: int, shard_index: int, shard_count: int
) -> None:
    if not len(part):
        raise ValueError(
            f"part {part.name!r} of {part.spec.name} is empty; load the data set with "
            "held_out greater than 0"
        )
    if batch_size < 1 or image_size < 1:
        raise ValueError(
            f"batch_size is {batch_size} and image_size {image_size}; both must be at least 1"
        )
    if shard_count < 1 or not 0 <= shard_index < shard_count:
        raise ValueError(
            f"shard_index is {shard_index} of shard_count {shard_count}; the index must be at "
            "least 0 and below the count"
        )
    if batch_size % shard_count:
        raise ValueError(
            f"batch_size {batch_size} does not divide among {shard_count} shards; give a multiple"
        )


def _centered(part: Part, size: int) -> Callable[[Example], dict[str, Any]]:
    def centered(example: Example) -> dict[str, Any]:
        with part.records.decoding(example["record"]):
            image = center_crop(example["image"], size, part.spec.eval_fraction)
        return {"image": image, "label": example["label"]}

    return centered


def _augmented(
    part: Part, augmentation: Augmentation, size: int
) -> Callable[[Example, np.random.Generator], dict[str, Any]]:
    def augmented(example: Example, rng: np.random.Generator) -> dict[str, Any]:
        with part.records.decoding(example["record"]):
            image = augmentation(example["image"], size, rng)
        return {"image": image, "label": example["label"]}

    return augmented


def _int32_labels(batch: Batch) -> Batch:
    return {**batch, "label": batch["label"].astype(np.int32)}


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ahead(
    steps: grain.MapDataset, part: Part, threads: int | None, workers: int, batch_bytes: int
) -> grain.DatasetIterator[Batch]:
    if workers:
        return iter(in_processes(steps, workers, batch_bytes))
    if threads is None:
        # Images in memory are so small that the interpreter is the bottleneck, for which a second
        # thread would only contend.
        threads = 1 if part.spec.in_memory else _cores()
    # Those in the making count; grain's default of 500 would be 19 GB at batch 256 and 224 px.
    ahead = min(threads + min(threads, _MOST_WAITING), max(2, int(_MOST_BYTES // batch_bytes)))
    options = grain.ReadOptions(num_threads=min(threads, ahead), prefetch_buffer_size=ahead)
    return iter(steps.to_iter_dataset(options))
