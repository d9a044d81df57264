"""Architecture parameters α and the paths drawn or derived from them.

α is float32 [blocks, candidates]; where a block may not skip, `allowed` is False and α is ignored.
A path is int32 [blocks], the index of each block's candidate.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.latency import LatencyTable

Array = jax.Array
RESOLUTION_MS = 0.001


def init_alpha(key: Array, allowed: np.ndarray) -> Array:
    """α ~ N(0, 1e-3), as the official search starts."""
    return 1e-3 * jax.random.normal(key, allowed.shape)


def log_probabilities(alpha: Array, allowed: Array) -> Array:
    """log softmax(α) over each block's allowed candidates; -inf where not allowed."""
    return jax.nn.log_softmax(jnp.where(allowed, alpha, -jnp.inf), -1)


def probabilities(alpha: Array, allowed: Array) -> Array:
    """softmax(α) [blocks, candidates] over each block's allowed candidates; 0 where not allowed."""
    return jax.nn.softmax(jnp.where(allowed, alpha, -jnp.inf), -1)


def entropy(alpha: Array, allowed: Array) -> Array:
    """Mean over blocks of the entropy of softmax(α), in nats."""
    p = probabilities(alpha, allowed)
    return -jnp.mean(jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1)), -1))


def sample_path(key: Array, alpha: Array, allowed: Array) -> Array:
    """One path, each block's candidate drawn from softmax(α)."""
    return jax.random.categorical(key, log_probabilities(alpha, allowed)).astype(jnp.int32)


def sample_pair(key: Array, alpha: Array, allowed: Array) -> Array:
    """Two different candidates a block, int32 [2, blocks]; the first is the active one.

    The pair is drawn without replacement from softmax(α) (Gumbel top-2); then one of the pair is
    made active with the probabilities that a softmax over the pair gives (ProxylessNAS, §3.2.1).
    """
    pair_key, active_key = jax.random.split(key)
    noisy = (log_probabilities(alpha, allowed)
             + jax.random.gumbel(pair_key, alpha.shape))
    pair = jax.lax.top_k(noisy, 2)[1]
    pair_alpha = jnp.take_along_axis(alpha, pair, 1)
    active = jax.random.categorical(active_key, pair_alpha)
    first = jnp.take_along_axis(pair, active[:, None], 1)[:, 0]
    return jnp.stack([first, pair.sum(1) - first]).astype(jnp.int32)


def likeliest_path(alpha: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """The paper's rule: each block's candidate of greatest α."""
    return np.where(allowed, alpha, -np.inf).argmax(1).astype(np.int32)


def budgeted_path(log_p: np.ndarray, table: LatencyTable, max_ms: float,
                  min_ms: float = 0.0) -> np.ndarray:
    """The path of greatest Σ log p whose latency lies between min_ms and max_ms.

    Dynamic programming over the latency spent, in steps of 1 µs. Entries are rounded up to it, so
    the answer never exceeds the budget; it is exact for the rounded table, whose sums are at most
    1 µs a layer above the true ones.

    Args:
      log_p: [blocks, candidates]; -inf where not allowed.
      table: of the same space.
      max_ms: the budget.
      min_ms: the least of the budget that is to be spent.

    Raises:
      ValueError: no path lies between the two; names the range of the space.
    """
    steps = _steps(table.candidate_ms)
    limit = int(np.floor(max_ms / RESOLUTION_MS + 1e-9)) - _steps(sum(table.fixed_ms.values()))
    if limit >= 0:
        # best[s]: greatest Σ log p of the blocks so far at exactly s steps.
        best = np.full(limit + 1, -np.inf)
        best[0] = 0.0
        choices = []
        for log_row, step_row in zip(np.asarray(log_p, np.float64), steps, strict=True):
            longer, choice = np.full(limit + 1, -np.inf), np.zeros(limit + 1, np.int32)
            for index, (score, step) in enumerate(zip(log_row, step_row, strict=True)):
                if step > limit or score == -np.inf:
                    continue
                reached = best[:limit + 1 - step] + score
                better = reached > longer[step:]
                longer[step:][better] = reached[better]
                choice[step:][better] = index
            best = longer
            choices.append(choice)
        lowest = max(0, int(np.ceil(min_ms / RESOLUTION_MS)) - _steps(sum(table.fixed_ms.values())))
        if lowest <= limit and best[lowest:].max() > -np.inf:
            at = lowest + int(best[lowest:].argmax())
            path = np.zeros(len(choices), np.int32)
            for block in reversed(range(len(choices))):
                path[block] = choices[block][at]
                at -= steps[block][path[block]]
            return path
    fastest, slowest = table.range_ms
    raise ValueError(f"no path takes {min_ms:.3f} to {max_ms:.3f} ms: the space reaches from "
                     f"{fastest:.3f} to {slowest:.3f} ms on {table.device}")


def _steps(ms):
    """Milliseconds as whole steps, rounded up (but for float error); huge where infinite."""
    steps = np.ceil(np.where(np.isfinite(ms), ms, 1e9) / RESOLUTION_MS - 1e-6)
    return steps.astype(np.int64) if steps.ndim else int(steps)
