"""The loss of the search: cross-entropy and the device's latency."""

import jax
import jax.numpy as jnp
import optax

Array = jax.Array


def cross_entropy(logits: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """Mean softmax cross-entropy in nats, float32 [].

    Args:
      logits: [batch, classes].
      labels: int32 [batch].
      smoothing: label smoothing (Szegedy et al. 2016, §7).
    """
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return jnp.mean(optax.softmax_cross_entropy(logits.astype(jnp.float32), targets))


def latency_term(expected_ms: Array, target_ms: Array, weight: Array) -> Array:
    """λ · (E[LAT] − LAT_T) / LAT_T, the latency's part of L; dimensionless.

    Its slope does not depend on where E[LAT] stands: it pulls towards faster networks by λ and
    does not settle at the target by itself.
    """
    return weight * (expected_ms - target_ms) / target_ms
