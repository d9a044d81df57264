"""Intervals and differences of a study, by hand and against SciPy."""

import numpy as np
import pytest
from scipy import stats

from experiments.study import comparison, intervals
from experiments.study.random_networks import Draw
from jaxnas import zoo


def test_intervals_are_student_s_and_welch_s():
    # t of 0.975 at 2 degrees is 4.3027; the standard error of 1, 2, 3 is 1/√3.
    one = intervals.mean_interval([1, 2, 3])
    assert one == {
        "mean": 2,
        "low": pytest.approx(2 - 2.4841, abs=1e-4),
        "high": pytest.approx(2 + 2.4841, abs=1e-4),
        "count": 3,
    }
    assert intervals.mean_interval([5]) == {"mean": 5, "low": None, "high": None, "count": 1}
    # Two groups of three with variance 1 each: 4 degrees, t 2.7764, error √(2/3).
    two = intervals.difference_interval([1, 2, 3], [4, 5, 6])
    assert two["mean"] == -3 and two["high"] == pytest.approx(-3 + 2.2669, abs=1e-4)
    assert two["p"] == pytest.approx(0.0213, abs=1e-4)
    # With a variance of 1/3 that is known, whose half-width is 1.9600 · √(1/3) = 1.1316.
    shared = intervals.difference_interval([1, 2, 3], [4, 5, 6], 1 / 3)
    assert shared["high"] == pytest.approx(-3 + (2.2669**2 + 1.1316**2) ** 0.5, abs=1e-4)
    p = shared["p"]  # of the interval that ends at 0
    ends = stats.t(4).isf(p / 2) ** 2 * 2 / 3 + stats.norm.isf(p / 2) ** 2 / 3
    assert 0.02 < p < 0.05 and ends**0.5 == pytest.approx(3)
    # Differences of pairs: -3, -1, -2, with an error of 1/√3 and 2 degrees.
    pairs = [1, 2, 3], [4, 3, 5]
    paired, by_scipy = intervals.paired_interval(*pairs), stats.ttest_rel(*pairs)
    expected = (*by_scipy.confidence_interval(0.95), by_scipy.pvalue)
    assert (paired["low"], paired["high"], paired["p"]) == pytest.approx(expected)
    assert paired["mean"] == -2 and paired["count"] == 3
    assert intervals.paired_interval(*pairs, 1.0)["high"] == pytest.approx(
        -2 + (2.4841**2 + 1.9600**2) ** 0.5, abs=1e-3
    )
    certain = intervals.difference_interval([1, 1], [0, 0], 1e-6)
    assert certain["p"] == 0 and certain["high"] == pytest.approx(1.00196)
    first, second = [1, 2, 3, 4, 9], [2, 9]
    unequal, by_scipy = (
        intervals.difference_interval(first, second),
        stats.ttest_ind(first, second, equal_var=False),
    )
    expected = (*by_scipy.confidence_interval(0.95), by_scipy.pvalue)
    assert (unequal["low"], unequal["high"], unequal["p"]) == pytest.approx(expected)
    same = intervals.difference_interval([2, 2], [2, 2, 2])
    assert same == {"mean": 0, "low": 0, "high": 0, "count": 5, "p": 1}
    alone = intervals.difference_interval([2], [1, 3])
    assert alone == {"mean": 0, "low": None, "high": None, "count": 3, "p": None}
    assert intervals.side(two, 0) == "below" and intervals.side(two, -3) is None
    assert intervals.side(intervals.mean_interval([5]), 0) is None
    with pytest.raises(ValueError, match="no values"):
        intervals.mean_interval([])
    with pytest.raises(ValueError, match="no values"):
        intervals.difference_interval([1, 2], [])


def test_differences_vary_by_networks_and_by_test_pictures():
    """Four pictures: both found networks are right on all, of the random ones each on other two."""
    spec = zoo.find_network("mobilenet_v2", 10)

    def contender(group, number):
        return comparison.Contender(f"{group}{number}", group, number, "", None, spec, 1.0)

    def trained(bits):
        return [comparison.Trained(0, bits.count("1") / 4, 0.5, 1, f"{int(bits, 2) << 4:02x}")]

    runs = [("found", "1111"), ("found", "1111"), ("random", "1100"), ("random", "1010")]
    document = comparison.document(
        [(contender(group, i), trained(bits)) for i, (group, bits) in enumerate(runs)],
        224,
        17.2,
        Draw(np.zeros((0, 1)), 0, 0),
        4,
    )
    difference = document["groups"][1]["difference"]
    # Right on 1, 0.5, 0.5 and 0 of the random networks: differences of 0, 0.5, 0.5 and 1.
    expected = intervals.difference_interval(
        [1, 1], [0.5, 0.5], np.var([0, 0.5, 0.5, 1], ddof=1) / 4
    )
    assert difference == expected and difference["high"] - 0.5 == pytest.approx(
        1.96 * (1 / 24) ** 0.5, rel=1e-3
    )
    assert document["groups"][1]["first_is"] == "above" and difference["p"] == pytest.approx(
        0.0143, abs=1e-4
    )
    assert "right" not in document["networks"][0]["runs"][0]


def test_groups_that_have_the_same_seeds_are_compared_seed_by_seed():
    """The pictures of the second seed are harder for all, which the differences leave out."""
    spec = zoo.find_network("mobilenet_v2", 10)
    right = {
        "found": [(0, "1111"), (1, "1000")],
        # Two networks a seed, whose mean counts, in another order.
        "random": [(1, "1000"), (0, "1110"), (1, "0000"), (0, "1110")],
    }
    document = comparison.document(
        [
            (
                comparison.Contender(f"{group}{number}", group, number, "", None, spec, 1.0),
                [comparison.Trained(seed, bits.count("1") / 4, 0.5, 1, f"{int(bits, 2) << 4:02x}")],
            )
            for group, runs in right.items()
            for number, (seed, bits) in enumerate(runs)
        ],
        224,
        17.2,
        Draw(np.zeros((0, 1)), 0, 0),
        4,
        by_seed=True,
    )
    first, second = document["groups"]
    assert first["top1"]["mean"] == 0.625 and second["top1"]["mean"] == 0.4375
    known = np.var([0.25, 0, 0, 0.5], ddof=1) / 4
    assert second["difference"] == intervals.paired_interval([1, 0.25], [0.75, 0.125], known)
    assert second["difference"]["count"] == 2


def test_several_differences_are_corrected_by_holm():
    """The smallest counts for all, the next for one less, and none for less than one before it."""
    assert intervals.holm([0.03, None, 0.01, 0.02]) == pytest.approx([0.04, None, 0.03, 0.04])
    assert intervals.holm([0.5, 0.6]) == [1.0, 1.0] and intervals.holm([None]) == [None]
