"""Estimators of the gradient of α, chosen by name; each is a pure function of the same signature.

Three of them put gates g on candidates and take ∂L/∂g from the network. With p a softmax over the
computed candidates, they share one formula:

    ∂L/∂α_i = Σ_j ∂L/∂g_j · p_j · (δ_ij − p_i)          i, j computed; 0 elsewhere.

L is the whole loss: a gate's gradient is (∂L/∂CE) ⟨∂CE/∂y, o_j(x)⟩ + (∂L/∂E[LAT]) latency_j, since
E[LAT] = Σ_j g_j · latency_j + terms independent of these gates. Cross-entropy and latency thus use
one formula and keep the ratio that the loss sets.

- `two`, the default: the two-path estimator of ProxylessNAS (§3.2.1), p over the pair. It costs
  two forward passes and one backward for any number of candidates, and keeps two outputs per block.
- `full`: all candidates, p over all (BinaryConnect's estimator, ProxylessNAS §3.2). It costs one
  forward pass per candidate and keeps all their outputs (`supernet.apply_gated` states their size).
  Every α moves in a step. For short searches on small images.
- `gumbel`: all candidates, straight-through Gumbel-softmax (Jang et al. 2017). The active candidate
  is the arg max of α + Gumbel noise, p the softmax of the same over the temperature. It costs as
  much as `full`; its gradient belongs to the candidate that was drawn.
- `reinforce`: the score function (Williams 1992) on the accuracy of ten networks, each with its own
  latency (ProxylessNAS, §3.3.1). It needs no backward pass and no differentiable loss. Its steps
  are the noisiest, so it needs the long published schedule.

As in the official search, `two` and `full` change neither a block's α nor its optimizer state where
the active candidate is skip, not even by its latency; this shortens the expected gradient.
`reinforce` and `gumbel`, which is not in the official search, do change them: their gradients
belong to the draw, and omitting draws would change their direction.
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
# As in the official search: networks per update, and the fraction by which the baseline moves to
# the mean reward before it is subtracted.
REINFORCE_NETWORKS = 10
REINFORCE_BASELINE_RATE = 0.99


class Problem(NamedTuple):
    """Functions of the supernet on the batch of an α step.

    Attributes:
      gates: (paths int32 [k, blocks], the active one first) → (CE [], ∂L/∂g float32 [k, blocks]).
      reward: (path int32 [blocks]) → (CE [], reward []) of that path's network.
    """

    gates: Callable[[Array], tuple[Array, Array]]
    reward: Callable[[Array], tuple[Array, Array]]


class Estimate(NamedTuple):
    """Estimate of the gradient of α in one step.

    Attributes:
      gradient: gradient of α, [blocks, candidates].
      ce: cross-entropy of the drawn network, or the mean over several.
      baseline: baseline of the rewards, updated by `reinforce` and unchanged by the others.
      moves: bool [blocks], whether a block's α and its optimizer state change.
      pair: int32 [2, blocks], the pair whose Σ exp α the update of α has to preserve, or None.
      metrics: further metrics of this estimator to log.
    """

    gradient: Array
    ce: Array
    baseline: Array
    moves: Array
    pair: Array | None
    metrics: dict[str, Array]


Estimator = Callable[[Array, Array, Array, Problem], Estimate]


def make_estimator(name: str, allowed: np.ndarray, temperature: float) -> Estimator:
    """Returns the estimator (key, α, baseline, problem) → Estimate.

    Args:
      name: one of ESTIMATORS.
      allowed: valid mask, bool [blocks, candidates]; the last candidate is skip.
      temperature: temperature of `gumbel`.

    Raises:
      ValueError: the name is unknown, or the temperature is not positive.
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
    """Returns the gradient of `logits` float32 [blocks, candidates] by the formula above.

    Args:
      logits: logits of p, a softmax over the choices; -inf where not allowed.
      choices: int32 [k, blocks], different candidates of each block.
      gate_gradients: ∂L/∂g [k, blocks].
    """
    rows = jnp.arange(logits.shape[0])
    p = jax.nn.softmax(logits[rows, choices], 0)
    mean = jnp.sum(p * gate_gradients, 0)
    return jnp.zeros_like(logits).at[rows, choices].set(p * (gate_gradients - mean))


def score_gradient(alpha: Array, allowed: Array, drawn: Array, advantages: Array) -> Array:
    """Returns the gradient of −mean(advantage · log p(path)), float32 [blocks, candidates].

    Args:
      drawn: int32 [n, blocks], paths drawn from softmax(α).
      advantages: float32 [n], rewards minus their baseline.
    """
    score = jax.nn.one_hot(drawn, alpha.shape[1]) - sampling.probabilities(alpha, allowed)
    return -jnp.tensordot(advantages, score, 1) / len(drawn)


def moved_baseline(baseline: Array, rewards: Array) -> Array:
    """Returns the baseline updated by rewards [n]; NaN means no baseline yet.

    As in the official search, it moves to the rewards' mean by 0.99 of the distance, so Σ (R − b)
    ∇log p / n is in expectation 1 − 0.99 / n times the gradient of E[R]: shorter, same direction.
    """
    mean = jnp.mean(rewards)
    return jnp.where(
        jnp.isnan(baseline), mean, baseline + REINFORCE_BASELINE_RATE * (mean - baseline)
    )


def rescale_pair(old: Array, new: Array, pair: Array) -> Array:
    """Returns the `new` α with each pair shifted so that its Σ exp α is that of `old`.

    The probabilities of candidates outside the pair then do not change (ProxylessNAS, §3.2.1).

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
    moves = _is_not_skip(pair[0], alpha)
    gradient = jnp.where(moves[:, None], gate_gradient(alpha, pair, gates), 0.0)
    return Estimate(gradient, ce, baseline, moves, pair, {})


def _full(allowed, key, alpha, baseline, problem) -> Estimate:
    choices = sampling.all_candidates(sampling.sample_path(key, alpha, allowed), alpha.shape[1])
    ce, gates = problem.gates(choices)
    gradient = gate_gradient(jnp.where(allowed, alpha, -jnp.inf), choices, gates)
    moves = _is_not_skip(choices[0], alpha)
    gradient = jnp.where(moves[:, None], gradient, 0.0)
    return Estimate(gradient, ce, baseline, moves, None, {})


def _gumbel(allowed, temperature, key, alpha, baseline, problem) -> Estimate:
    noisy = sampling.log_probabilities(alpha, allowed) + jax.random.gumbel(key, alpha.shape)
    choices = sampling.all_candidates(noisy.argmax(1).astype(jnp.int32), alpha.shape[1])
    ce, gates = problem.gates(choices)
    gradient = gate_gradient(noisy / temperature, choices, gates) / temperature
    return Estimate(gradient, ce, baseline, _all_move(alpha), None, {})


def _reinforce(allowed, key, alpha, baseline, problem) -> Estimate:
    keys = jax.random.split(key, REINFORCE_NETWORKS)
    drawn = jax.vmap(lambda key: sampling.sample_path(key, alpha, allowed))(keys)
    ce, rewards = jax.lax.map(problem.reward, drawn)
    baseline = moved_baseline(baseline, rewards)
    gradient = score_gradient(alpha, allowed, drawn, rewards - baseline)
    metrics = {"reward": jnp.mean(rewards), "baseline": baseline}
    return Estimate(gradient, jnp.mean(ce), baseline, _all_move(alpha), None, metrics)


def _is_not_skip(active: Array, alpha: Array) -> Array:
    return active != alpha.shape[1] - 1


def _all_move(alpha: Array) -> Array:
    return jnp.ones(alpha.shape[0], bool)
