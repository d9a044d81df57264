"""Loss of the search: cross-entropy plus a term of the device's latency; right answers.

    L = CE + term(CE, E[LAT])

`--latency_control` selects the term:

- `fixed`: λ · (E[LAT] − LAT_T) / LAT_T, the poster's. Its slope does not depend on E[LAT], so it
  trades latency against accuracy at the rate λ, and E[LAT] does not converge to the target by
  itself. For a known exchange rate, or where derivation alone meets the budget.
- `dual`: the same, with λ driven by the constraint, so that E[LAT] reaches LAT_T during the search
  and α learns which network to be *at that latency*. For a budget. It needs some hundred α steps at
  an α learning rate of 0.05, and proportionally more at lower rates.
- `mul_log`: L = CE · (ln E[LAT] / ln LAT_T)^β, the official repository's default up to a constant
  factor. Its slope grows with CE and falls with E[LAT], and E[LAT] does not converge to the target
  either. The logarithms are of milliseconds, so both must be above 1 ms. For comparison with
  published searches.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

Array = jax.Array
Control = Literal["fixed", "dual", "mul_log"]
LATENCY_CONTROLS = ("fixed", "dual", "mul_log")
# Constants of `dual`, chosen by simulating α's dynamics on the MyriadX table, with gate gradients a
# hundredth to three times as large as in a search on digits, and as uneven across blocks.
DUAL_RATE = 16.0
DUAL_TRAVEL = 3.0
DUAL_STEP = 0.1
DUAL_BOUND = 10.0
DUAL_DAMPING = 20.0
DUAL_BAND = 0.03


def cross_entropy(logits: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """Returns the mean softmax cross-entropy in nats, float32 [].

    Args:
      logits: [batch, classes].
      labels: int32 [batch].
      smoothing: label smoothing (Szegedy et al. 2016, §7).
    """
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return jnp.mean(optax.softmax_cross_entropy(logits.astype(jnp.float32), targets))


def top1(logits: Array, labels: Array) -> Array:
    """Returns the fraction of examples whose greatest logit is the label's, float32 [].

    Args:
      logits: [batch, classes].
      labels: int32 [batch].
    """
    return jnp.mean(logits.argmax(-1) == labels)


def right_answers(logits: Array, labels: Array, mask: Array) -> Array:
    """Returns int32 [batch]: 1 where the greatest logit is the label's, else 0, -1 for padding.

    Args:
      logits: [batch, classes].
      labels: int32 [batch].
      mask: float32 [batch], 0 for padding.
    """
    right = (logits.argmax(-1) == labels).astype(jnp.int32)
    return jnp.where(mask > 0, right, -1)


def latency_term(
    control: Control, ce: Array, expected_ms: Array, target_ms: Array, weight: Array
) -> Array:
    """Returns the latency term of L, float32 [], to be added to CE.

    Args:
      control: latency control; see above.
      ce: cross-entropy in nats; only `mul_log` uses it.
      weight: λ of `fixed` and `dual`, β of `mul_log`.
    """
    if control == "mul_log":
        return ce * ((jnp.log(expected_ms) / jnp.log(target_ms)) ** weight - 1)
    return weight * (expected_ms - target_ms) / target_ms


def reward(top1: Array, latency_ms: Array, target_ms: Array, weight: Array) -> Array:
    """Returns top1 · (LAT_T / LAT)^w, which `reinforce` maximizes (ProxylessNAS, §3.3.1)."""
    return top1 * (target_ms / latency_ms) ** weight


def dual_weight(multiplier: Array, expected_ms: Array, target_ms: Array, weight: Array) -> Array:
    """Returns λ of a `dual` step: initial value, result of the ascent, and damping near the target.

    Args:
      multiplier: float32 [], latest result of `dual_ascent`; 0 at first.
      expected_ms: E[LAT] before the step.
      weight: initial λ.
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
    """Returns the multiplier after a bounded ascent on the constraint c = (E[LAT] − LAT_T) / LAT_T.

        multiplier += DUAL_RATE · (alpha_learning_rate · c + DUAL_TRAVEL · (c − c before))

    Plain ascent, the first term alone, integrates what α already integrates, and oscillates about
    the target without end. The second term is damping (a PI controller: Stooke et al. 2020,
    "Responsive Safety in Reinforcement Learning by PID Lagrangian Methods"): λ grows only while c
    decays more slowly than over DUAL_TRAVEL / alpha_learning_rate steps, the time in which Adam
    moves α by DUAL_TRAVEL. So λ stays about as small as suffices, and cross-entropy takes effect
    from the first step.

    λ may become negative. The budget is to be used, so E[LAT] must also rise to it if neither
    cross-entropy nor the space's start requires more. With λ projected to λ ≥ 0, such simulated
    searches ended 11 to 29 % below it.

    Args:
      multiplier: float32 [].
      before_ms, after_ms: E[LAT] before and after α's update.
      alpha_learning_rate: learning rate of α's Adam.
    """
    excess = _excess(after_ms, target_ms)
    change = DUAL_RATE * (
        alpha_learning_rate * excess + DUAL_TRAVEL * (excess - _excess(before_ms, target_ms))
    )
    return jnp.clip(multiplier + jnp.clip(change, -DUAL_STEP, DUAL_STEP), -DUAL_BOUND, DUAL_BOUND)


def check_control(control: str, estimator: str) -> None:
    """Raises ValueError for an unknown latency control, or one that does not fit the estimator."""
    if control not in LATENCY_CONTROLS:
        raise ValueError(
            f"unknown latency control {control!r}, allowed are {', '.join(LATENCY_CONTROLS)}"
        )
    if estimator == "reinforce" and control != "fixed":
        raise ValueError(
            f"the estimator reinforce has latency in its reward, which the latency "
            f"control {control} does not affect; use fixed, or another estimator"
        )


def _excess(expected_ms: Array, target_ms: Array) -> Array:
    return (expected_ms - target_ms) / target_ms
