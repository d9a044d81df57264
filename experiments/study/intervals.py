"""Means and differences of means with their 95 % intervals, by Student's t."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95

Interval = dict[str, float | int | None]


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of independent values and the interval of Student's t about it.

    Returns:
      mean, low, high and count, for JSON; low and high are None for one value, which says nothing
      of its spread.

    Raises:
      ValueError: no values.
    """
    if not len(values):
        raise ValueError("there are no values to take a mean of; give one at least")
    array = np.asarray(values, np.float64)
    if len(array) == 1:
        return _interval(array[0], None, 1)
    error = array.std(ddof=1) / math.sqrt(len(array))
    return _interval(array.mean(), error * _quantile(len(array) - 1), len(array))


def difference_interval(first: Sequence[float], second: Sequence[float]) -> Interval:
    """The difference of two groups' means, first less second, with Welch's interval.

    Welch 1947: the groups may differ in variance and size. `count` is of both together; low and
    high are None where a group has one value.
    """
    a, b = mean_interval(first), mean_interval(second)
    mean = a["mean"] - b["mean"]
    count = a["count"] + b["count"]
    if 1 in (a["count"], b["count"]):
        return _interval(mean, None, count)
    of_a, of_b = (np.var(values, ddof=1) / len(values) for values in (first, second))
    if of_a + of_b == 0:
        return _interval(mean, 0.0, count)
    degrees = (of_a + of_b) ** 2 / (of_a**2 / (len(first) - 1) + of_b**2 / (len(second) - 1))
    return _interval(mean, math.sqrt(of_a + of_b) * _quantile(degrees), count)


def side(interval: Interval, value: float) -> str | None:
    """Where the interval lies: `above` or `below` the value, or None where it says neither."""
    if interval["low"] is None or interval["low"] <= value <= interval["high"]:
        return None
    return "above" if interval["low"] > value else "below"


def _quantile(degrees: float) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, degrees))


def _interval(mean: float, half: float | None, count: int) -> Interval:
    mean = float(mean)
    return {
        "mean": mean,
        "low": None if half is None else mean - float(half),
        "high": None if half is None else mean + float(half),
        "count": count,
    }
