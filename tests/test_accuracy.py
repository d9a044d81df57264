import numpy as np
import pytest

from experiments.runs.accuracy import Scores, wilson


def scores(values, labels) -> Scores:
    return Scores(np.float32(values), np.array(labels), 10.0)


@pytest.mark.parametrize(
    ("correct", "examples", "low", "high"),
    [
        # Newcombe 1998, table I: methods 3 (score, without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_wilson_s(correct, examples, low, high):
    assert wilson(correct, examples) == pytest.approx((low, high), abs=5e-5)


def test_top_k_counts_labels_among_the_highest_scores():
    values = [[9, 5, 1, 0, 2, 3], [0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [0, 9, 1, 1, 1, 1]]
    one = scores(values, [0, 0, 1, 1])
    assert one.answers.tolist() == [0, 5, 0, 1]
    assert [one.top(k) for k in (1, 2, 6)] == [2, 3, 4]
    figures = one.figures()
    assert figures["top1"] == 0.5 and figures["top5"] == 0.75
    assert (figures["top1_low"], figures["top1_high"]) == wilson(2, 4)


def test_of_equal_scores_the_first_counts_and_what_is_no_number_is_never_right():
    nan = np.nan
    tied = scores([[1, 3, 3], [1, 3, 3], [2, 2, 2], [nan, 1, 0], [nan, 1, 0]], [1, 2, 2, 0, 1])
    assert tied.answers.tolist() == [1, 1, 0, 0, 0]
    # As `answers` has it, but for the label whose score is no number.
    assert [tied.top(k) for k in (1, 2)] == [1, 3]


def test_top_5_of_five_classes_is_left_out():
    assert set(scores(np.eye(5), range(5)).figures()) == {"top1", "top1_low", "top1_high"}


def test_the_most_frequent_confusions_come_first():
    answers = np.eye(3)[[0, 1, 1, 2, 0, 0, 0]]
    one = scores(answers, [0, 0, 0, 0, 1, 1, 1])
    assert one.confusions(("cat", "dog", "fox"), 2) == [
        {"class": "dog", "answered": "cat", "count": 3},
        {"class": "cat", "answered": "dog", "count": 2},
    ]
    assert scores(np.eye(3), range(3)).confusions(("a", "b", "c"), 5) == []
