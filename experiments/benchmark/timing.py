"""Interleaved timing: one call of each program per repeat, so that drift affects all equally.

The time of a call runs until its results are ready. Figures are medians with p10 and p90. The
interval of a ratio is over repeats: the calls of a repeat are resampled together.
"""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

WARMUP_ROUNDS = 2
_RESAMPLES = 2000

Name = TypeVar("Name", bound=Hashable)


def in_turn(calls: Mapping[Name, Callable[[], Any]], rounds: int) -> dict[Name, np.ndarray]:
    """Times the calls in the mapping's order, repeatedly, after two untimed repeats.

    Args:
      calls: functions that start work and return its results, any pytree of arrays.
      rounds: number of timed repeats.

    Returns:
      Milliseconds of each call by name, float64 [rounds].
    """
    times_ms = {name: np.zeros(rounds) for name in calls}
    for index in range(-WARMUP_ROUNDS, rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if index >= 0:
                times_ms[name][index] = 1e3 * (time.perf_counter() - start)
    return times_ms


def summary(times_ms: np.ndarray) -> dict[str, float]:
    """Returns median, p10 and p90 in ms, and the number of times."""
    median, p10, p90 = np.percentile(times_ms, [50, 10, 90]).tolist()
    return {"median_ms": median, "p10_ms": p10, "p90_ms": p90, "count": len(times_ms)}


def ratio(times_ms: np.ndarray, base_ms: np.ndarray) -> dict[str, float]:
    """Returns the ratio of medians and its 95 % interval, for times from the same repeats.

    The interval is a percentile bootstrap (Efron and Tibshirani 1993, §13.3).
    """
    rounds = np.random.default_rng(0).integers(0, len(base_ms), (_RESAMPLES, len(base_ms)))
    drawn = np.median(times_ms[rounds], 1) / np.median(base_ms[rounds], 1)
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    return {"ratio": float(np.median(times_ms) / np.median(base_ms)), "low": low, "high": high}
