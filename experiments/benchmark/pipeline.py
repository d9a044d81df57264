"""Part `pipeline`: whether the search's loop waits for its pictures, at the quick start's size."""

import itertools
import time
from collections.abc import Iterator

import jax
import numpy as np

from experiments.benchmark.workload import Supernet, Workload
from jaxnas import data

DATASET = "digits"
ARCH_EVERY, LOG_EVERY = 2, 10


def pipeline(supernet: Supernet, workload: Workload, steps: int) -> dict[str, object]:
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
    batches = {name: data.batches(getattr(parts, name), seed=0, **sizes)
               for name in ("weights", "alpha")}
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
    return {"dataset": DATASET, **sizes, "steps": steps, "step_ms": wall_ms / steps,
            "waited_share": float(waited_ms.sum() / wall_ms),
            "waited_ms": {"median": float(np.median(waited_ms)), "max": float(waited_ms.max())},
            "pictures_per_s_in_loop": 1e3 * pictures / wall_ms,
            "pictures_per_s_alone": workload.batch_size * alone}


def _alone(batches: Iterator[data.Batch], count: int) -> float:
    """Batches a second with nobody else at work; those made ahead are taken before."""
    for _ in itertools.islice(batches, 4):
        pass
    start = time.perf_counter()
    for _ in itertools.islice(batches, count):
        pass
    return count / (time.perf_counter() - start)
