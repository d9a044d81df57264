import itertools

import numpy as np
import pytest

from jaxnas.evolution import best, evolve
from tests.conftest import SMALL, random_table


def problem(seed: int):
    """A score with terms of single blocks and of neighbors, and paths of at most the median."""
    rng = np.random.default_rng(seed)
    single = rng.normal(size=SMALL.allowed.shape)
    pairs = rng.normal(size=(len(SMALL.blocks) - 1, *[len(SMALL.candidates)] * 2)) / 2
    table = random_table(SMALL, seed)
    drawn = [SMALL.random_path(rng) for _ in range(200)]
    limit_ms = float(np.median([table.path_ms(path) for path in drawn]))
    rows = np.arange(len(SMALL.blocks))

    def score(path):
        return single[rows, path].sum() + pairs[rows[:-1], path[:-1], path[1:]].sum()

    def within(path):
        return table.path_ms(path) <= limit_ms

    return score, within, [path for path in drawn if within(path)]


@pytest.mark.parametrize("seed", range(3))
def test_evolution_finds_one_of_the_best(seed):
    """80 of a thousand paths are scored: one of the best 1 % would be among them half the time."""
    score, within, drawn = problem(seed)
    scores = evolve(score, drawn[:20], within, SMALL, 80, seed)
    assert len(scores) == 80
    assert all(within(np.array(path)) and score(np.array(path)) == scores[path] for path in scores)
    every = itertools.product(*map(np.flatnonzero, SMALL.allowed))
    allowed = sorted((score(p) for p in map(np.array, every) if within(p)), reverse=True)
    assert score(best(scores)) == max(scores.values()) >= allowed[len(allowed) // 100]
    again = evolve(score, drawn[:20], within, SMALL, 80, seed)
    assert [*again.items()] == [*scores.items()]


def test_evolution_ends_where_no_path_is_left():
    allowed = [np.array(path, np.int32) for path in ([0] * 5, [1, 0, 0, 0, 0])]
    names = {tuple(path.tolist()) for path in allowed}
    scores = evolve(
        lambda path: float(path.sum()),
        allowed[:1],
        lambda path: tuple(path.tolist()) in names,
        SMALL,
        50,
        0,
    )
    assert set(scores) == names and best(scores).tolist() == [1, 0, 0, 0, 0]


def test_no_more_than_the_evaluations_are_scored():
    score, within, drawn = problem(0)
    assert len(evolve(score, drawn, within, SMALL, 3, 0)) == 3
