"""The loss of the search: cross-entropy and the device's latency.

    L = CE + term(CE, E[LAT])

What the term is, `--latency_control` says:

- `fixed`: λ · (E[LAT] − LAT_T) / LAT_T, the poster's. Its slope does not depend on where E[LAT]
  stands, so it trades latency against accuracy at the rate λ and does not settle at the target by
  itself. For a known exchange rate, or where the budget is met by derivation alone.
- `dual`: the same, with λ driven by the constraint, so that E[LAT] comes to LAT_T during the search
  and α learns which network to be *there*. For a budget. It wants some hundred architecture steps
  at α's rate 0.05, in proportion more at lower rates.
- `mul_log`: CE · (ln E[LAT] / ln LAT_T)^β, the official repository's default. Its slope grows with
  CE and falls with E[LAT], and it does not settle at the target either; the logarithms are of
  milliseconds, so both must be above 1 ms. For comparison with published searches.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

Array = jax.Array
Control = Literal["fixed", "dual", "mul_log"]
LATENCY_CONTROLS = ("fixed", "dual", "mul_log")
# Of `dual`, chosen by simulating α's dynamics on the MyriadX table with gate gradients as large and
# as uneven over blocks as a search on digits has them, and a hundredth to three times that.
DUAL_RATE = 16.0
DUAL_TRAVEL = 3.0
DUAL_STEP = 0.1
DUAL_BOUND = 10.0
DUAL_DAMPING = 20.0
DUAL_BAND = 0.03


def cross_entropy(logits: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """Mean softmax cross-entropy in nats, float32 [].

    Args:
      logits: [batch, classes].
      labels: int32 [batch].
      smoothing: label smoothing (Szegedy et al. 2016, §7).
    """
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return jnp.mean(optax.softmax_cross_entropy(logits.astype(jnp.float32), targets))


def latency_term(
    control: Control, ce: Array, expected_ms: Array, target_ms: Array, weight: Array
) -> Array:
    """The latency's part of L, float32 []; what CE is added to.

    Args:
      control: which term; see above.
      ce: cross-entropy in nats; only `mul_log` uses it.
      weight: λ of `fixed` and `dual`, β of `mul_log`.
    """
    if control == "mul_log":
        return ce * ((jnp.log(expected_ms) / jnp.log(target_ms)) ** weight - 1)
    return weight * (expected_ms - target_ms) / target_ms


def reward(top1: Array, latency_ms: Array, target_ms: Array, weight: Array) -> Array:
    """top1 · (LAT_T / LAT)^w, which `reinforce` maximizes (ProxylessNAS, §3.3.1)."""
    return top1 * (target_ms / latency_ms) ** weight


def dual_weight(multiplier: Array, expected_ms: Array, target_ms: Array, weight: Array) -> Array:
    """λ of a `dual` step: where it starts, what ascent has added, and a damping near the target.

    Args:
      multiplier: float32 [], what `dual_ascent` gave so far; 0 at first.
      expected_ms: E[LAT] before the step.
      weight: where λ starts.
    """
    near = jnp.clip(_excess(expected_ms, target_ms), -DUAL_BAND, DUAL_BAND)
    return weight + multiplier + DUAL_DAMPING * near


def dual_ascent(
    multiplier: Array,
    before_ms: Array,
    after_ms: Array,
    target_ms: Array,
    alpha_learning_rate: float,
) -> Array:
    """`dual`: one bounded step of ascent on the constraint c = (E[LAT] − LAT_T) / LAT_T.

        multiplier += DUAL_RATE · (alpha_learning_rate · c + DUAL_TRAVEL · (c − c before))

    Plain ascent, the first term alone, integrates what α integrates already, and swings about the
    target without end. The second term is damping (a PI controller: Stooke et al. 2020, "Responsive
    Safety in Reinforcement Learning by PID Lagrangian Methods"): λ grows only as long as c decays
    slower than over DUAL_TRAVEL / alpha_learning_rate steps, the time in which Adam takes α that
    far. So λ stays about as small as will do, and cross-entropy is heard from the first step.

    λ may become negative. The budget is there to be spent, and E[LAT] has to come up to it also
    where cross-entropy, or a space that starts below the target, does not ask for more: with λ
    projected to λ ≥ 0 such simulated searches ended 11 to 29 % short of it.

    Args:
      multiplier: float32 [].
      before_ms, after_ms: E[LAT] before and after α's update.
      alpha_learning_rate: of α's Adam.
    """
    excess = _excess(after_ms, target_ms)
    change = DUAL_RATE * (
        alpha_learning_rate * excess + DUAL_TRAVEL * (excess - _excess(before_ms, target_ms))
    )
    return jnp.clip(multiplier + jnp.clip(change, -DUAL_STEP, DUAL_STEP), -DUAL_BOUND, DUAL_BOUND)


def check_control(control: str, estimator: str) -> None:
    """Raises ValueError for an unknown latency control, and for one that does not fit."""
    if control not in LATENCY_CONTROLS:
        raise ValueError(
            f"unknown latency control {control!r}, allowed are {', '.join(LATENCY_CONTROLS)}"
        )
    if estimator == "reinforce" and control != "fixed":
        raise ValueError(
            f"the estimator reinforce has latency in its reward, which the latency "
            f"control {control} does not reach; take fixed, or another estimator"
        )


def _excess(expected_ms: Array, target_ms: Array) -> Array:
    return (expected_ms - target_ms) / target_ms
