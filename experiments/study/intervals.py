"""Means and differences of means with 95 % confidence intervals, by Student's t."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np
from scipy import stats

LEVEL = 0.95


class Interval(TypedDict):
    """A value with its confidence interval, for JSON.

    Attributes:
      mean: the estimate.
      low, high: bounds of the interval; None where a group of one value gives no spread.
      count: number of values.
    """

    mean: float
    low: float | None
    high: float | None
    count: int


def mean_interval(values: Sequence[float]) -> Interval:
    """Returns the mean of independent values with Student's interval.

    Raises:
      ValueError: no values.
    """
    return _interval(stats.ttest_1samp, values, popmean=0)


def difference_interval(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Returns the mean of `first` minus the mean of `second` with Welch's interval.

    Welch 1947: the groups may differ in variance and size. `count` covers both groups.

    Raises:
      ValueError: a group without values.
    """
    return _interval(stats.ttest_ind, first, second, equal_var=False)


def side(interval: Interval, value: float) -> str | None:
    """Returns `above` or `below`, the side of the value where the interval lies, or None."""
    low, high = interval["low"], interval["high"]
    if low is None or high is None or low <= value <= high:
        return None
    return "above" if low > value else "below"


def text(
    value: Interval, *, percent: bool = False, sign: bool = False, digits: int | None = None
) -> str:
    """Returns `12.3 ± 1.2`, or `12.3 (±?)` without an interval; `percent` scales by 100."""
    scale, usual = (100, 1) if percent else (1, 2)
    digits = usual if digits is None else digits
    mean = f"{scale * value['mean']:{'+' if sign else ''}.{digits}f}"
    if value["low"] is None or value["high"] is None:
        return f"{mean} (±?)"
    return f"{mean} ± {scale * (value['high'] - value['low']) / 2:.{digits}f}"


def _interval(test: Callable[..., Any], *groups: Sequence[float], **options: object) -> Interval:
    sizes = [len(group) for group in groups]
    if not all(sizes):
        raise ValueError("there are no values to take a mean of; give at least one")
    first, *others = (float(np.mean(group)) for group in groups)
    mean = first - sum(others)
    if 1 in sizes:
        return {"mean": mean, "low": None, "high": None, "count": sum(sizes)}
    with warnings.catch_warnings():
        # SciPy warns where all values are equal; the interval then has no width, as it should.
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = test(*groups, **options).confidence_interval(LEVEL)
    return {"mean": mean, "low": float(low), "high": float(high), "count": sum(sizes)}
