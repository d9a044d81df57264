"""Parts `pipeline` and `photographs`: waiting time of the search's loop, and images per second."""

import contextlib
import io
import itertools
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from PIL import Image

from experiments.benchmark.workload import Supernet, Workload
from jaxnas import data

ARCH_EVERY, LOG_EVERY = 2, 10
_PHOTOGRAPH = (500, 375)  # width and height in px


def pipeline(supernet: Supernet, workload: Workload, steps: int, part: data.Part) -> dict[str, Any]:
    """Measures the share of its time that a search's loop waits in `next(batches)`.

    As in a search, every second weight step is followed by an α step on a batch of its own, paths
    change, and the loop waits for the device only at every tenth step. Waiting for the first batch
    of each kind belongs to the start and is not counted.

    Args:
      supernet: supernet of the workload; its batch is replaced with the part's examples.
      workload: batch size, image size and space.
      steps: number of weight steps.
      part: examples of both kinds of steps.
    """
    sizes = {"batch_size": workload.batch_size, "image_size": workload.image_size}
    paths = workload.random_paths(steps)
    batches = {
        name: data.batches(part, seed=seed, **sizes)
        for seed, name in enumerate(("weights", "alpha"))
    }
    taken = {name: next(batches[name]) for name in batches}
    supernet.batch = taken["weights"]
    jax.block_until_ready((supernet.weight_step(paths[0]), supernet.arch_step()))
    waited_ms = np.zeros(steps)
    start = time.perf_counter()
    for step, path in enumerate(paths):
        names = ("weights", "alpha") if step % ARCH_EVERY else ("weights",)
        for name in names:
            requested = time.perf_counter()
            supernet.batch = next(batches[name])
            waited_ms[step] += 1e3 * (time.perf_counter() - requested)
            result = supernet.weight_step(path) if name == "weights" else supernet.arch_step()
        if step % LOG_EVERY == LOG_EVERY - 1:
            jax.block_until_ready(result)
    jax.block_until_ready(supernet.state)
    wall_ms = 1e3 * (time.perf_counter() - start)
    alone = _batches_per_s(batches["weights"], steps)
    for iterator in batches.values():
        iterator.close()
    pictures = workload.batch_size * (steps + steps // ARCH_EVERY)
    return {
        "dataset": part.spec.name,
        **sizes,
        "steps": steps,
        "step_ms": wall_ms / steps,
        "waited_share": float(waited_ms.sum() / wall_ms),
        "waited_ms": {"median": float(np.median(waited_ms)), "max": float(waited_ms.max())},
        "pictures_per_s_in_loop": 1e3 * pictures / wall_ms,
        "pictures_per_s_alone": workload.batch_size * alone,
    }


def photographs(count: int = 256, size: int = 224) -> dict[str, Any]:
    """Measures photographs per second on one core: training pipeline, and Pillow decoding alone.

    The photographs are synthetic JPEGs in memory, smooth with some noise, 500 x 375 px like the
    average of ImageNet. The augmentation is ImageNet's.

    Args:
      count: number of timed photographs, taken from 32 different ones.
      size: image size in px that the pipeline outputs.
    """
    part = photographs_part(32)
    batches = data.batches(part, batch_size=16, image_size=size, seed=0, threads=1)
    pipeline_per_s = 16 * _batches_per_s(batches, count // 16)
    batches.close()
    start = time.perf_counter()
    for index in range(count):
        part.records[index % len(part)]["image"].load()
    pillow_per_s = count / (time.perf_counter() - start)
    return {
        "pixels": _PHOTOGRAPH,
        "size": size,
        "pipeline_per_s": pipeline_per_s,
        "pillow_per_s": pillow_per_s,
    }


def photographs_part(count: int) -> data.Part:
    """Returns synthetic photographs that are augmented as ImageNet's are."""
    spec = data.SPECS["imagenet2012"]
    records: Any = _Photographs(count)  # stands in for a split's records
    return data.Part("weights", spec, records, np.arange(count), spec.augmentation)


class _Photographs:
    """Synthetic JPEGs with the part of the interface of a split's records that batches use."""

    def __init__(self, count: int):
        rng = np.random.default_rng(0)
        self._files = []
        for _ in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
            smooth = np.asarray(coarse.resize(_PHOTOGRAPH, Image.Resampling.BICUBIC), np.float32)
            noisy = np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
            stream = io.BytesIO()
            Image.fromarray(noisy).save(stream, format="JPEG", quality=90)
            self._files.append(stream.getvalue())

    def __len__(self) -> int:
        return len(self._files)

    def decoding(self, record: int) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()  # these JPEGs are valid

    def __getitem__(self, record: int) -> dict[str, Any]:
        return {"image": Image.open(io.BytesIO(self._files[record])), "label": 0, "record": record}


def _batches_per_s(batches: Iterator[data.Batch], count: int) -> float:
    """Returns batches per second without other work; prefetched batches are discarded first."""
    for _ in itertools.islice(batches, 4):
        pass
    start = time.perf_counter()
    for _ in itertools.islice(batches, count):
        pass
    return count / (time.perf_counter() - start)
