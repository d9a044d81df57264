"""Estimators of the gradient of α.

`two_path_gradient` is ProxylessNAS's (§3.2.1): of the pair drawn, with gates g and p = softmax over
the pair's α,

    ∂L/∂α_i = Σ_j ∂L/∂g_j · p_j · (δ_ij − p_i)          i, j in the pair; 0 elsewhere.

L is all of the loss: a gate's gradient is ⟨∂CE/∂y, o_j(x)⟩ + λ/LAT_T · latency_j, since within the
pair E[LAT] = Σ_j g_j · latency_j + what the pair cannot change. Cross-entropy and latency so enter
by one formula and keep the proportion that λ sets.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def two_path_gradient(alpha: Array, pair: Array, gate_gradients: Array, skip: int) -> Array:
    """The gradient of α float32 [blocks, candidates].

    Args:
      alpha: [blocks, candidates].
      pair: int32 [2, blocks], the active candidates first.
      gate_gradients: ∂L/∂g [2, blocks].
      skip: index of the skip candidate. Where it is the active one the block's gradient is zero,
        as in the official search.
    """
    rows = jnp.arange(alpha.shape[0])
    p = jax.nn.softmax(alpha[rows, pair], 0)
    mean = jnp.sum(p * gate_gradients, 0)
    gradient = jnp.where(pair[0] == skip, 0.0, p * (gate_gradients - mean))
    return jnp.zeros_like(alpha).at[rows, pair].set(gradient)


def rescale_pair(old: Array, new: Array, pair: Array) -> Array:
    """`new` α with the pair shifted so that its Σ exp α is what it was in `old`.

    The probabilities of the candidates that were not drawn then do not move (ProxylessNAS,
    §3.2.1).

    Args:
      old, new: α [blocks, candidates] before and after the update.
      pair: int32 [2, blocks].
    """
    rows = jnp.arange(old.shape[0])
    shift = jax.nn.logsumexp(old[rows, pair], 0) - jax.nn.logsumexp(new[rows, pair], 0)
    return new.at[rows, pair].add(shift)
