"""Means and differences of means with 95 % confidence intervals, by Student's t."""

from collections.abc import Sequence
from typing import TypedDict

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


class Difference(Interval):
    """A difference of means with its confidence interval.

    Attributes:
      p: probability of a difference as great if there is none, two-sided; None without an interval.
    """

    p: float | None


def mean_interval(values: Sequence[float]) -> Interval:
    """Returns the mean of independent values with Student's interval.

    Raises:
      ValueError: no values.
    """
    (variance,), (freedom,) = _variances(values)
    mean, count = float(np.mean(values)), len(values)
    half = _half_width(variance, freedom)
    if half is None:
        return {"mean": mean, "low": None, "high": None, "count": count}
    return {"mean": mean, "low": mean - half, "high": mean + half, "count": count}


def difference_interval(
    first: Sequence[float], second: Sequence[float], shared_variance: float = 0.0
) -> Difference:
    """Returns the mean of `first` minus the mean of `second` with Welch's interval.

    Welch 1947: the groups may differ in variance and size. `count` covers both groups.

    Args:
      first, second: independent values of the groups.
      shared_variance: variance of the difference by what all values have in common, such as the
        test pictures; it is added to that of the values and counts as known.

    Raises:
      ValueError: a group without values.
    """
    parts, freedoms = _variances(first, second)
    mean, count = float(np.mean(first) - np.mean(second)), len(first) + len(second)
    if 0 in freedoms:
        return {"mean": mean, "low": None, "high": None, "count": count, "p": None}
    variance = sum(parts) + shared_variance
    spread = sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True))
    freedom = variance**2 / spread if spread else np.inf  # Welch–Satterthwaite
    half = _half_width(variance, freedom)
    assert half is not None  # as both groups have several values
    p = 2 * float(stats.t(freedom).sf(abs(mean) / variance**0.5)) if variance else float(mean == 0)
    return {"mean": mean, "low": mean - half, "high": mean + half, "count": count, "p": p}


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Returns p-values corrected for their number (Holm 1979); None stays None and is not counted.

    If all those below 0.05 are called significant, the chance of any error is at most 5 %.
    """
    known = sorted((p, index) for index, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    greatest = 0.0
    for rank, (p, index) in enumerate(known):
        greatest = max(greatest, min(1.0, p * (len(known) - rank)))
        corrected[index] = greatest
    return corrected


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


def _variances(*groups: Sequence[float]) -> tuple[list[float], list[int]]:
    """Returns the variance of each group's mean (0 of one value), and its degrees of freedom."""
    if not all(map(len, groups)):
        raise ValueError("there are no values to take a mean of; give at least one")
    return (
        [float(np.var(group, ddof=1)) / len(group) if len(group) > 1 else 0.0 for group in groups],
        [len(group) - 1 for group in groups],
    )


def _half_width(variance: float, freedom: float) -> float | None:
    """Returns half the width of Student's interval; None without a degree of freedom."""
    return float(stats.t(freedom).ppf((1 + LEVEL) / 2)) * variance**0.5 if freedom else None
