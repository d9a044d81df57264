"""Programs timed in turn: one call of each, round after round, so that drift meets all alike.

A call's time runs until its results are there. Medians with p10 and p90; the interval of a ratio
is over rounds, whose calls are resampled together.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

WARMUP_ROUNDS = 2
_RESAMPLES = 2000


def in_turn(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Times the calls, in the mapping's order, over and over; two rounds before go untimed.

    Args:
      calls: functions that start work and return its results, any tree of arrays.
      rounds: timed calls of each.

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
    """Median, p10 and p90 in ms, and how many there are."""
    median, p10, p90 = np.percentile(times_ms, [50, 10, 90]).tolist()
    return {"median_ms": median, "p10_ms": p10, "p90_ms": p90, "count": len(times_ms)}


def ratio(times_ms: np.ndarray, base_ms: np.ndarray) -> dict[str, float]:
    """The medians' ratio and its 95 % interval, of times taken in the same rounds.

    The interval is the bootstrap's (Efron and Tibshirani 1993, §13.3), by percentiles.
    """
    rounds = np.random.default_rng(0).integers(0, len(base_ms), (_RESAMPLES, len(base_ms)))
    drawn = np.median(times_ms[rounds], 1) / np.median(base_ms[rounds], 1)
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    return {"ratio": float(np.median(times_ms) / np.median(base_ms)), "low": low, "high": high}
