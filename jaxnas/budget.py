"""Derivation of paths from α, in NumPy: the paper's rule, and the top-k paths within a budget.

A path is int32 [blocks], the index of each block's candidate.
"""

import numpy as np

from jaxnas.latency import LatencyTable

RESOLUTION_MS = 0.001


def most_probable_path(alpha: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Returns the path of the paper's rule: the candidate with the greatest α of each block."""
    return np.where(allowed, alpha, -np.inf).argmax(1).astype(np.int32)


def budgeted_path(
    log_p: np.ndarray, table: LatencyTable, max_ms: float, min_ms: float = 0.0
) -> np.ndarray:
    """Returns the most probable path between min_ms and max_ms, int32 [blocks]."""
    return k_best_paths(log_p, table, max_ms, min_ms, 1)[0]


def k_best_paths(
    log_p: np.ndarray, table: LatencyTable, max_ms: float, min_ms: float, k: int
) -> np.ndarray:
    """Returns the k paths of greatest Σ log p whose latency lies between min_ms and max_ms.

    Dynamic programming over the latency in steps of 1 µs keeps, for each exact latency, the k best
    paths through the blocks so far. Entries are rounded up to the step, so no result exceeds the
    budget. The result is exact for the rounded table, whose sums are at most 1 µs per block, and
    1 µs for the fixed layers, above the true ones.

    Args:
      log_p: [blocks, candidates]; -inf where not allowed.
      table: latency table of the same space.
      max_ms: the budget.
      min_ms: lower bound of the latency, so that the paths use the budget.
      k: number of paths, 1 or more.

    Returns:
      int32 [n, blocks], different paths, the most probable first; n < k if only n paths exist.

    Raises:
      ValueError: k is below 1, or no path lies between the bounds; the message names the range of
        the space.
    """
    if k < 1:
        raise ValueError(f"{k} paths are asked for; ask for 1 or more")
    steps, fixed = _steps(table.candidate_ms), _steps(sum(table.fixed_ms.values()))
    most = int(np.where(np.isfinite(table.candidate_ms), steps, 0).max(1).sum())
    limit = min(int(np.floor(max_ms / RESOLUTION_MS + 1e-9)) - fixed, most)
    lowest = max(0, int(np.ceil(min_ms / RESOLUTION_MS)) - fixed)
    if lowest <= limit:
        # best[rank, s]: Σ log p of the blocks so far at exactly s steps.
        best = np.full((1, limit + 1), -np.inf)
        best[0, 0] = 0.0
        origins = []
        for log_row, step_row in zip(np.asarray(log_p, np.float64), steps, strict=True):
            best, origin = _extended(best, log_row, step_row, k)
            origins.append(origin)
        order = np.argsort(-best[:, lowest:].T, axis=None, kind="stable")[:k]
        ends = [(lowest + int(i) // len(best), int(i) % len(best)) for i in order]
        reached = [end for end in ends if best[end[1], end[0]] > -np.inf]
        if reached:
            return np.array([_traced(origins, steps, *end) for end in reached], np.int32)
    fastest, slowest = table.range_ms
    raise ValueError(
        f"no path takes {min_ms:.3f} to {max_ms:.3f} ms: the space ranges from "
        f"{fastest:.3f} to {slowest:.3f} ms on {table.device}"
    )


def _extended(
    best: np.ndarray, log_row: np.ndarray, step_row: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `best` with one more block, and each entry's origin: candidate · ranks + rank."""
    ranks, length = best.shape
    reached = np.full((len(log_row), ranks, length), -np.inf)
    for index, (score, step) in enumerate(zip(log_row, step_row, strict=True)):
        if step < length and score > -np.inf:
            reached[index, :, step:] = best[:, : length - step] + score
    # The ranks of each candidate are in order, so the next best is the head of one of them. The
    # first of equal ones wins.
    heads, rank = reached[:, 0].copy(), np.zeros((len(log_row), length), np.int32)
    count = min(k, len(log_row) * ranks)
    extended, origin = np.empty((count, length)), np.empty((count, length), np.int32)
    at = np.arange(length)
    for row in range(count):
        head = heads.argmax(0)
        extended[row], origin[row] = heads[head, at], head * ranks + rank[head, at]
        rank[head, at] += 1
        following = rank[head, at]
        is_left = following < ranks
        heads[head, at] = np.where(
            is_left, reached[head, np.where(is_left, following, 0), at], -np.inf
        )
    return extended, origin


def _traced(origins: list[np.ndarray], steps: np.ndarray, at: int, rank: int) -> list[int]:
    """Returns the path that ends at this latency and rank, traced back from the last block."""
    path = []
    for block in reversed(range(len(origins))):
        ranks = len(origins[block - 1]) if block else 1
        candidate, rank = divmod(int(origins[block][rank, at]), ranks)
        at -= int(steps[block, candidate])
        path.append(candidate)
    return path[::-1]


def _steps(ms):
    """Returns ms in whole steps, rounded up except for float error; infinity becomes 1e9 ms."""
    steps = np.ceil(np.where(np.isfinite(ms), ms, 1e9) / RESOLUTION_MS - 1e-6)
    return steps.astype(np.int64) if steps.ndim else int(steps)
