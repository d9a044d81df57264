"""Parts `pipeline` and `photographs`: whether a search's loop waits, and pictures a second."""

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

DATASET = "digits"
ARCH_EVERY, LOG_EVERY = 2, 10
_PHOTOGRAPH = (500, 375)


def pipeline(supernet: Supernet, workload: Workload, steps: int) -> dict[str, Any]:
    """The loop of a search on the digits: what of its time it waited in `next(batches)`.

    As in a search every second weight step is followed by an architecture step on a batch of its
    own, paths change, and the loop waits for the device at every tenth step alone. Waiting for the
    first batch of either kind is start, not step, and not counted.

    Args:
      supernet: of the workload; it is left with a batch of digits.
      steps: weight steps.
    """
    parts = data.load(DATASET, data_dir=None, seed=0)
    sizes = {"batch_size": workload.batch_size, "image_size": workload.image_size}
    paths = workload.random_paths(steps)
    batches = {
        name: data.batches(getattr(parts, name), seed=0, **sizes) for name in ("weights", "alpha")
    }
    taken = {name: next(batches[name]) for name in batches}
    supernet.batch = taken["weights"]
    jax.block_until_ready((supernet.weight_step(paths[0]), supernet.arch_step()))
    waited_ms = np.zeros(steps)
    start = time.perf_counter()
    for step, path in enumerate(paths):
        names = ("weights", "alpha") if step % ARCH_EVERY else ("weights",)
        for name in names:
            asked = time.perf_counter()
            supernet.batch = next(batches[name])
            waited_ms[step] += 1e3 * (time.perf_counter() - asked)
            result = supernet.weight_step(path) if name == "weights" else supernet.arch_step()
        if step % LOG_EVERY == LOG_EVERY - 1:
            jax.block_until_ready(result)
    jax.block_until_ready(supernet.state)
    wall_ms = 1e3 * (time.perf_counter() - start)
    alone = _alone(batches["weights"], steps)
    for iterator in batches.values():
        iterator.close()
    pictures = workload.batch_size * (steps + steps // ARCH_EVERY)
    return {
        "dataset": DATASET,
        **sizes,
        "steps": steps,
        "step_ms": wall_ms / steps,
        "waited_share": float(waited_ms.sum() / wall_ms),
        "waited_ms": {"median": float(np.median(waited_ms)), "max": float(waited_ms.max())},
        "pictures_per_s_in_loop": 1e3 * pictures / wall_ms,
        "pictures_per_s_alone": workload.batch_size * alone,
    }


def photographs(count: int = 256, size: int = 224) -> dict[str, Any]:
    """Photographs a second by one core: through a training's pipeline, and Pillow's decoding alone.

    They are made, 500 x 375 px as ImageNet's are on average, smooth but for some noise, and lie in
    memory as JPEG; the augmentation is ImageNet's.

    Args:
      count: of them; each is taken once before and once by the clock.
      size: of the pictures that the pipeline gives, in px.
    """
    spec = data.SPECS["imagenet2012"]
    records = _Photographs(32)
    part = data.Part("weights", spec, records, np.arange(len(records)), spec.augmentation)
    batches = data.batches(part, batch_size=16, image_size=size, seed=0, threads=1)
    pipeline_per_s = 16 * _alone(batches, count // 16)
    batches.close()
    start = time.perf_counter()
    for index in range(count):
        records[index % len(records)]["image"].load()
    pillow_per_s = count / (time.perf_counter() - start)
    return {
        "pixels": _PHOTOGRAPH,
        "size": size,
        "pipeline_per_s": pipeline_per_s,
        "pillow_per_s": pillow_per_s,
    }


class _Photographs:
    """Made JPEGs, in place of a split's records."""

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
        return contextlib.nullcontext()  # those that were made here can be decoded

    def __getitem__(self, record: int) -> dict[str, Any]:
        return {"image": Image.open(io.BytesIO(self._files[record])), "label": 0, "record": record}


def _alone(batches: Iterator[data.Batch], count: int) -> float:
    """Batches a second with nobody else at work; those made ahead are taken before."""
    for _ in itertools.islice(batches, 4):
        pass
    start = time.perf_counter()
    for _ in itertools.islice(batches, count):
        pass
    return count / (time.perf_counter() - start)
