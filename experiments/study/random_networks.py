"""Random networks that use a budget: the random baseline of a search."""

import dataclasses

import numpy as np

from jaxnas.latency import LatencyTable
from jaxnas.space import Space

MAX_DRAWS = 200_000_000
_CHUNK = 1 << 20
_BLOCKS_PER_GROUP = 5  # 7⁵ paths: their sums fit in a processor's cache


@dataclasses.dataclass(frozen=True)
class Draw:
    """Networks drawn independently and uniformly from those that use the budget.

    Attributes:
      paths: int32 [networks, blocks].
      drawn: number of paths drawn from the whole space to find them.
      accepted: number of drawn paths that use the budget; at least the number of `paths`.
    """

    paths: np.ndarray
    drawn: int
    accepted: int


def draw_within_budget(
    space: Space, table: LatencyTable, min_ms: float, max_ms: float, networks: int, seed: int
) -> Draw:
    """Draws paths uniformly from the space and keeps those that take min_ms to max_ms.

    With the same seed, n networks are the first n of any larger number.

    Raises:
      ValueError: fewer than `networks` in MAX_DRAWS draws; names the range of the space.
    """
    rng = np.random.default_rng(seed)
    groups = _groups(space, table)
    fixed_ms = sum(table.fixed_ms.values())
    fastest, slowest = table.range_ms
    kept: list[np.ndarray] = []
    drawn = 0
    while fastest <= max_ms and min_ms <= slowest and len(kept) < networks and drawn < MAX_DRAWS:
        choices = [rng.integers(0, len(ms), _CHUNK, np.int32) for _, ms in groups]
        total = fixed_ms + sum(ms[chosen] for (_, ms), chosen in zip(groups, choices, strict=True))
        drawn += _CHUNK
        for hit in np.flatnonzero((total >= min_ms) & (total <= max_ms)):
            kept.append(
                np.concatenate(
                    [paths[chosen[hit]] for (paths, _), chosen in zip(groups, choices, strict=True)]
                )
            )
    if len(kept) < networks:
        raise ValueError(
            f"{len(kept)} of {networks} random networks of the {space.name} space that take "
            f"{min_ms:.3f} to {max_ms:.3f} ms on {table.device} found in {drawn} draws: networks "
            f"of the space take {fastest:.2f} to {slowest:.2f} ms; give a target well between "
            f"them, or ask for fewer networks"
        )
    return Draw(np.array(kept[:networks]), drawn, len(kept))


def _groups(space: Space, table: LatencyTable) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns, per group of blocks, all paths int32 [n, blocks] and their ms float64 [n]."""
    groups = []
    for start in range(0, len(space.blocks), _BLOCKS_PER_GROUP):
        rows = range(start, min(start + _BLOCKS_PER_GROUP, len(space.blocks)))
        choices = [np.flatnonzero(space.allowed[row]) for row in rows]
        paths = np.stack(np.meshgrid(*choices, indexing="ij"), -1).reshape(-1, len(rows))
        ms = table.candidate_ms[np.array(rows), paths].sum(1)
        groups.append((paths.astype(np.int32), ms))
    return groups
