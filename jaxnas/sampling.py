"""Architecture parameters α and the paths drawn from them.

α is float32 [blocks, candidates]. It is ignored where the valid mask `allowed` is False, for skip
in a block that may not skip. A path is int32 [blocks], the index of each block's candidate.
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Mask = jax.Array | np.ndarray  # bool [blocks, candidates]


def init_alpha(key: Array, allowed: Mask) -> Array:
    """Draws α with mean 0 and standard deviation 1e-3, as the official search does."""
    return 1e-3 * jax.random.normal(key, allowed.shape)


def log_probabilities(alpha: Array, allowed: Mask) -> Array:
    """Returns log softmax(α) over each block's allowed candidates; -inf where not allowed."""
    return jax.nn.log_softmax(jnp.where(allowed, alpha, -jnp.inf), -1)


def probabilities(alpha: Array, allowed: Mask) -> Array:
    """Returns softmax(α) over each block's allowed candidates; 0 where not allowed."""
    return jax.nn.softmax(jnp.where(allowed, alpha, -jnp.inf), -1)


def entropy(alpha: Array, allowed: Mask) -> Array:
    """Returns the mean over blocks of the entropy of softmax(α), in nats."""
    p = probabilities(alpha, allowed)
    return -jnp.mean(jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1)), -1))


def sample_path(key: Array, alpha: Array, allowed: Mask) -> Array:
    """Draws a path, each block's candidate from softmax(α)."""
    return jax.random.categorical(key, log_probabilities(alpha, allowed)).astype(jnp.int32)


def sample_pair(key: Array, alpha: Array, allowed: Mask) -> Array:
    """Draws two different candidates per block, int32 [2, blocks]; the first is the active one.

    The pair is drawn without replacement from softmax(α) (Gumbel top-2). The active one is then
    drawn from a softmax over the pair (ProxylessNAS, §3.2.1).
    """
    pair_key, active_key = jax.random.split(key)
    noisy = log_probabilities(alpha, allowed) + jax.random.gumbel(pair_key, alpha.shape)
    pair = jax.lax.top_k(noisy, 2)[1]
    pair_alpha = jnp.take_along_axis(alpha, pair, 1)
    active = jax.random.categorical(active_key, pair_alpha)
    first = jnp.take_along_axis(pair, active[:, None], 1)[:, 0]
    return jnp.stack([first, pair.sum(1) - first]).astype(jnp.int32)


def all_candidates(active: Array, candidates: int) -> Array:
    """Returns all candidates of each block, int32 [candidates, blocks], the active one first.

    The others follow in order, so that a skip that is not active comes last.

    Args:
      active: int32 [blocks].
    """
    index = jnp.arange(candidates)
    return jnp.argsort(jnp.where(index[:, None] == active, -1, index[:, None]), 0).astype(jnp.int32)
