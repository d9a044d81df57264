"""Evolution of paths within a budget, by a score such as accuracy with the supernet's weights.

Guo et al. 2020 (Single Path One-Shot), §3.4: parents are the best networks so far, children their
crossovers and mutations that meet the constraint.
"""

from collections.abc import Callable, Sequence

import numpy as np

from jaxnas.space import Space

PARENTS = 10
MUTATION = 0.1  # probability that a block of a mutated path changes
_MOST_TRIES = 1000  # to find one more path that is new and within the budget

Path = tuple[int, ...]


def evolve(
    score: Callable[[np.ndarray], float],
    start: Sequence[np.ndarray],
    within: Callable[[np.ndarray], bool],
    space: Space,
    evaluations: int,
    seed: int,
) -> dict[Path, float]:
    """Returns the scores of the paths that evolution scores, in their order.

    It ends early where no further path is found.

    Args:
      score: returns the score of a path, greater is better.
      start: paths int32 [blocks] to begin with, which are within the budget.
      within: returns whether a path is within the budget.
      space: search space of the paths.
      evaluations: number of paths to score, the first ones included.
      seed: seed of crossover and mutation.
    """
    rng = np.random.default_rng(seed)
    scores: dict[Path, float] = {}
    for path in start[:evaluations]:
        scores.setdefault(_key(path), score(path))
    while len(scores) < evaluations:
        child = _child(scores, within, space, rng)
        if child is None:
            break
        scores[_key(child)] = score(child)
    return scores


def best(scores: dict[Path, float]) -> np.ndarray:
    """Returns the path of the greatest score, int32 [blocks]; of equal ones the first."""
    return np.array(max(scores, key=lambda path: scores[path]), np.int32)


def _key(path: np.ndarray) -> Path:
    return tuple(map(int, path))


def _child(
    scores: dict[Path, float],
    within: Callable[[np.ndarray], bool],
    space: Space,
    rng: np.random.Generator,
) -> np.ndarray | None:
    """Returns a new path within the budget, by mutation or crossover; None if none is found."""
    parents = np.array(sorted(scores, key=lambda path: -scores[path])[:PARENTS], np.int32)
    for _ in range(_MOST_TRIES):
        one, other = parents[rng.integers(len(parents), size=2)]
        if rng.random() < 0.5:
            child = np.where(rng.random(len(one)) < 0.5, one, other)
        else:
            child = np.where(rng.random(len(one)) < MUTATION, space.random_path(rng), one)
        if _key(child) not in scores and within(child):
            return child
    return None
