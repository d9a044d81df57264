"""Estimators of the gradient of α, chosen by name; each is a pure function of one shape.

Three of them put gates g on candidates and ask the network for ∂L/∂g. One formula follows: with p a
softmax over the candidates that were computed,

    ∂L/∂α_i = Σ_j ∂L/∂g_j · p_j · (δ_ij − p_i)          i, j computed; 0 elsewhere.

L is all of the loss: a gate's gradient is (∂L/∂CE) ⟨∂CE/∂y, o_j(x)⟩ + (∂L/∂E[LAT]) latency_j, since
E[LAT] = Σ_j g_j · latency_j + what those gates cannot change. Cross-entropy and latency so enter by
one formula and keep the proportion that the loss sets.

- `two`, the default: the pair of ProxylessNAS (§3.2.1), p over the pair. It costs two forward
  passes and one backward, whatever the number of candidates, and keeps two outputs a block.
- `full`: all candidates, p over all (BinaryConnect's estimator, ProxylessNAS §3.2). A forward pass
  for each candidate, whose outputs are kept too (`supernet.apply_gated` counts them), and every
  α moves at every step; for short searches on small images.
- `gumbel`: all candidates, straight-through Gumbel-softmax (Jang et al. 2017): the active candidate
  is the arg max of α + Gumbel noise, p the softmax of the same over the temperature. As dear as
  `full`; with a gradient that belongs to the candidate that was drawn.
- `reinforce`: the score function (Williams 1992) on the accuracy of ten networks, each with its own
  latency (ProxylessNAS, §3.3.1). No backward pass, and no differentiable loss is needed; the most
  noise a step, so that it wants the long published schedule.

What the official search does and these do too: where the active candidate is skip, `two` and `full`
leave the block's α alone, the latency's part included; the expected gradient is shorter for it.
`reinforce` does not, nor does `gumbel`, which is not among the official ones: their gradients
belong to what was drawn, and leaving draws out would turn them.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import sampling

Array = jax.Array

ESTIMATORS = ("two", "full", "gumbel", "reinforce")
# The official search's: networks an update, and the share of the way that the baseline goes towards
# the mean reward before it is subtracted.
REINFORCE_NETWORKS = 10
REINFORCE_BASELINE_RATE = 0.99


class Problem(NamedTuple):
    """What an architecture step asks of the supernet on its batch.

    Attributes:
      gates: (paths int32 [k, blocks], the active first) → (CE [], ∂L/∂g float32 [k, blocks]).
      reward: (path int32 [blocks]) → (CE [], reward []), of that path's network alone.
    """

    gates: Callable[[Array], tuple[Array, Array]]
    reward: Callable[[Array], tuple[Array, Array]]


class Estimate(NamedTuple):
    """One estimate.

    Attributes:
      gradient: of α, [blocks, candidates].
      ce: cross-entropy of what was drawn; the mean where there were several.
      baseline: of rewards, moved on by `reinforce`; as given by the others.
      pair: int32 [2, blocks], whose Σ exp α the update of α has to keep; None: there is none.
      metrics: what is worth logging of this estimator alone.
    """

    gradient: Array
    ce: Array
    baseline: Array
    pair: Array | None
    metrics: dict[str, Array]


Estimator = Callable[[Array, Array, Array, Problem], Estimate]


def make_estimator(name: str, allowed: np.ndarray, temperature: float) -> Estimator:
    """The estimator (key, α, baseline, problem) → Estimate.

    Args:
      name: one of ESTIMATORS.
      allowed: bool [blocks, candidates], the last candidate being skip.
      temperature: of `gumbel`.

    Raises:
      ValueError: another name, or a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"the temperature is {temperature}; give a positive one")
    if name not in ESTIMATORS:
        raise ValueError(f"unknown estimator {name!r}, allowed are {', '.join(ESTIMATORS)}")
    return {
        "two": functools.partial(_two, allowed),
        "full": functools.partial(_full, allowed),
        "gumbel": functools.partial(_gumbel, allowed, temperature),
        "reinforce": functools.partial(_reinforce, allowed),
    }[name]


def gate_gradient(logits: Array, choices: Array, gate_gradients: Array) -> Array:
    """The formula above: the gradient of `logits` float32 [blocks, candidates].

    Args:
      logits: whose softmax over the choices is p; -inf where not allowed.
      choices: int32 [k, blocks], different candidates of each block.
      gate_gradients: ∂L/∂g [k, blocks].
    """
    rows = jnp.arange(logits.shape[0])
    p = jax.nn.softmax(logits[rows, choices], 0)
    mean = jnp.sum(p * gate_gradients, 0)
    return jnp.zeros_like(logits).at[rows, choices].set(p * (gate_gradients - mean))


def score_gradient(alpha: Array, allowed: Array, drawn: Array, advantages: Array) -> Array:
    """The gradient of −mean of advantage · log p(path), float32 [blocks, candidates].

    Args:
      drawn: int32 [n, blocks], paths drawn from softmax(α).
      advantages: float32 [n], rewards less their baseline.
    """
    score = jax.nn.one_hot(drawn, alpha.shape[1]) - sampling.probabilities(alpha, allowed)
    return -jnp.tensordot(advantages, score, 1) / len(drawn)


def moved_baseline(baseline: Array, rewards: Array) -> Array:
    """The baseline after rewards [n] were seen; NaN stands for none so far.

    It holds 0.99 of their own mean, as the official search has it. Σ (R − b) ∇log p / n is then the
    gradient of E[R] times 1 − 0.99 / n: shorter, and in the same direction.
    """
    mean = jnp.mean(rewards)
    return jnp.where(
        jnp.isnan(baseline), mean, baseline + REINFORCE_BASELINE_RATE * (mean - baseline)
    )


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


def _two(allowed, key, alpha, baseline, problem) -> Estimate:
    pair = sampling.sample_pair(key, alpha, allowed)
    ce, gates = problem.gates(pair)
    gradient = _unless_skip(gate_gradient(alpha, pair, gates), pair[0])
    return Estimate(gradient, ce, baseline, pair, {})


def _full(allowed, key, alpha, baseline, problem) -> Estimate:
    choices = sampling.all_candidates(sampling.sample_path(key, alpha, allowed), alpha.shape[1])
    ce, gates = problem.gates(choices)
    gradient = gate_gradient(jnp.where(allowed, alpha, -jnp.inf), choices, gates)
    return Estimate(_unless_skip(gradient, choices[0]), ce, baseline, None, {})


def _gumbel(allowed, temperature, key, alpha, baseline, problem) -> Estimate:
    noisy = sampling.log_probabilities(alpha, allowed) + jax.random.gumbel(key, alpha.shape)
    choices = sampling.all_candidates(noisy.argmax(1).astype(jnp.int32), alpha.shape[1])
    ce, gates = problem.gates(choices)
    gradient = gate_gradient(noisy / temperature, choices, gates) / temperature
    return Estimate(gradient, ce, baseline, None, {})


def _reinforce(allowed, key, alpha, baseline, problem) -> Estimate:
    keys = jax.random.split(key, REINFORCE_NETWORKS)
    drawn = jax.vmap(lambda key: sampling.sample_path(key, alpha, allowed))(keys)
    ce, rewards = jax.lax.map(problem.reward, drawn)
    baseline = moved_baseline(baseline, rewards)
    gradient = score_gradient(alpha, allowed, drawn, rewards - baseline)
    return Estimate(
        gradient, jnp.mean(ce), baseline, None, {"reward": jnp.mean(rewards), "baseline": baseline}
    )


def _unless_skip(gradient: Array, active: Array) -> Array:
    skip = gradient.shape[1] - 1
    return jnp.where((active == skip)[:, None], 0.0, gradient)
