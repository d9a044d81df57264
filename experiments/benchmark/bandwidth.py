"""Part `bandwidth`: memory copy rate of all cores together, by the size of the copy.

Each operation of a step reads and writes whole tensors. Tensors that fit in the processor's
last-level cache are as fast as it; with larger ones, a step grows faster than its batch.
"""

import concurrent.futures
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmark.timing import in_turn, summary

SIZES_MB = (1, 4, 16, 64, 256)
_COPIED_MB = 1000  # at least, per timed repeat: a single copy can be too short to time


def bandwidth(rounds: int) -> dict[str, Any]:
    """Measures GB/s read and written by copies of each size in `SIZES_MB`."""
    threads = os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        times_ms = in_turn({mb: _copies(pool, threads, mb) for mb in SIZES_MB}, rounds)
    return {
        "threads": threads,
        "points": [
            {"mb": mb, "gb_per_s": 2 * mb * _times(mb) / summary(times_ms[mb])["median_ms"]}
            for mb in SIZES_MB
        ],
    }


def _times(mb: int) -> int:
    return max(1, _COPIED_MB // mb)


def _copies(pool: concurrent.futures.Executor, threads: int, mb: int) -> Callable[[], object]:
    size = mb * 1_000_000 // threads
    pairs = [(np.ones(size, np.uint8), np.zeros(size, np.uint8)) for _ in range(threads)]

    def copy(pair: tuple[np.ndarray, np.ndarray]) -> None:
        for _ in range(_times(mb)):
            np.copyto(pair[1], pair[0])

    return lambda: list(pool.map(copy, pairs))
