"""Means and differences of means with 95 % confidence intervals, by Student's t."""

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from scipy import optimize, stats

LEVEL = 0.95
LEAST_P = 1e-12  # a smaller probability is given as 0


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
    first: Sequence[float], second: Sequence[float], known_variance: float = 0.0
) -> Difference:
    """Returns the mean of `first` minus the mean of `second` with Welch's interval.

    Welch 1947: the groups may differ in variance and size. `count` covers both groups.

    Args:
      first, second: independent values of the groups.
      known_variance: variance of the difference by what all values have in common, such as the
        test pictures; it is added to that of the values.

    Raises:
      ValueError: a group without values.
    """
    parts, freedoms = _variances(first, second)
    mean, count = float(np.mean(first) - np.mean(second)), len(first) + len(second)
    variance = sum(parts)
    spread = sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True) if part)
    freedom = variance**2 / spread if spread else np.inf  # Welch–Satterthwaite
    return _difference(mean, count, variance, 0 if 0 in freedoms else freedom, known_variance)


def paired_interval(
    first: Sequence[float], second: Sequence[float], known_variance: float = 0.0
) -> Difference:
    """Returns the mean of the differences of pairs with Student's interval.

    Args:
      first, second: values in pairs, such as those of one seed each; `count` is that of the pairs.
      known_variance: as in `difference_interval`.

    Raises:
      ValueError: no values, or not as many in one group as in the other.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    (variance,), (freedom,) = _variances(differences)
    mean = float(np.mean(differences))
    return _difference(mean, len(differences), variance, freedom, known_variance)


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


def _difference(
    mean: float, count: int, variance: float, freedom: float, known_variance: float
) -> Difference:
    """Returns a difference with its interval; without a degree of freedom it has none.

    The half-widths of Student's interval, by the values, and of the normal one, by the known
    variance, add in quadrature (Zou, Donner 2008).
    """
    if freedom == 0:
        return {"mean": mean, "low": None, "high": None, "count": count, "p": None}

    def half_width(p: float) -> float:
        student = float(stats.t(freedom).isf(p / 2)) * variance**0.5
        return math.hypot(student, float(stats.norm.isf(p / 2)) * known_variance**0.5)

    half = half_width(1 - LEVEL)
    if mean == 0:
        p = 1.0
    elif half_width(LEAST_P) <= abs(mean):
        p = 0.0
    else:  # its interval ends at zero
        p = float(optimize.brentq(lambda p: half_width(p) - abs(mean), LEAST_P, 1, rtol=1e-9))
    return {"mean": mean, "low": mean - half, "high": mean + half, "count": count, "p": p}


def _half_width(variance: float, freedom: float) -> float | None:
    """Returns half the width of Student's interval; None without a degree of freedom."""
    return float(stats.t(freedom).ppf((1 + LEVEL) / 2)) * variance**0.5 if freedom else None
