"""Control of the latency: terms of the loss, λ's ascent, and searches simulated with a table."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas import estimators, loss, sampling, search_steps
from jaxnas.builtin_spaces import PROXYLESS
from jaxnas.latency import LatencyModel, LatencyTable
from tests.conftest import SMALL
from tests.kinds import hyperparameters
from tests.programs import ROOT


def test_latency_terms_literal():
    ce, e, t = jnp.float32(2.0), jnp.float32(np.exp(3)), jnp.float32(np.exp(2))
    for control in ("fixed", "dual"):
        assert float(loss.latency_term(control, ce, 20.0, 16.0, 0.1)) == pytest.approx(0.025)
    assert float(loss.latency_term("mul_log", ce, e, t, 2.0)) == pytest.approx(2 * (1.5**2 - 1))
    assert float(loss.latency_term("mul_log", ce, t, t, 0.3)) == pytest.approx(0, abs=1e-6)
    assert float(loss.reward(0.5, 8.0, 2.0, 0.5)) == pytest.approx(0.25)


def test_dual_ascends_by_bounded_steps_in_both_directions():
    ascent = [
        float(loss.dual_ascent(jnp.float32(start), before, after, 10.0, 0.05))
        for start, before, after in (
            (0, 10.1, 10.1),
            (0, 9.9, 9.9),
            (0, 20.0, 20.0),
            (0, 20.0, 5.0),
            (10, 20.0, 20.0),
            (0, 10.2, 10.15),
        )
    ]
    np.testing.assert_allclose(ascent, [0.008, -0.008, 0.1, -0.1, 10, -0.1], atol=1e-5)
    weights = [float(loss.dual_weight(jnp.float32(0.2), e, 10.0, 0.1)) for e in (10.0, 10.1, 20.0)]
    np.testing.assert_allclose(weights, [0.3, 0.5, 0.9], atol=1e-5)


@pytest.mark.parametrize(
    "control, estimator, match",
    [
        ("double", "two", "'double', allowed are fixed, dual, mul_log"),
        ("dual", "reinforce", "control dual does not affect; use fixed"),
        ("mul_log", "reinforce", "control mul_log does not affect; use fixed"),
    ],
)
def test_controls_that_make_no_sense_are_refused(control, estimator, match):
    with pytest.raises(ValueError, match=match):
        search_steps.make_steps(
            SMALL, hyperparameters(latency_control=control, estimator=estimator)
        )


# Gate gradients' root mean square at the blocks of a search on digits: large where shapes change.
GATE_NOISE = np.array(
    [
        0.072,
        0.009,
        0.007,
        0.009,
        0.067,
        0.004,
        0.004,
        0.005,
        0.054,
        0.002,
        0.002,
        0.002,
        0.036,
        0.001,
        0.001,
        0.001,
        0.029,
        0.0003,
        0.0003,
        0.0003,
        0.023,
    ]
)


@pytest.fixture(scope="module")
def simulated_searches():
    """E[LAT] / LAT_T over 330 architecture steps: [control, target, signal, seed, step].

    α's own dynamics (the estimator `two`, Adam at 0.05) on the MyriadX table, with noise for the
    gate gradients of cross-entropy and a preference for dear candidates of `signal` times it.
    """
    table = LatencyTable.load(
        ROOT / "profiling/shipped_tables/myriadx_compiler_proxyless_224.json", PROXYLESS
    )
    latency, allowed = LatencyModel.of(table), PROXYLESS.allowed
    estimator = estimators.make_estimator("two", allowed, 1.0)
    adam = optax.adam(0.05, b1=0.0, b2=0.999)
    sizes = latency.candidate_ms / latency.candidate_ms.max(1, keepdims=True)
    rows = jnp.arange(len(allowed))[None]

    def expected_ms(alpha):
        return latency.expected_ms(sampling.probabilities(alpha, allowed))

    def search(control, target_ms, noise, signal, seed):
        def step(carry, key):
            alpha, moments, multiplier = carry
            before_ms = expected_ms(alpha)
            weight = jnp.where(
                control, loss.dual_weight(multiplier, before_ms, target_ms, 0.1), 0.1
            )
            size = GATE_NOISE[:, None] * noise
            gates = (
                size * (jax.random.normal(key, alpha.shape) - signal * sizes)
                + weight / target_ms * latency.candidate_ms
            )
            problem = estimators.Problem(lambda pair: (0.0, gates[rows, pair]), None)
            estimate = estimator(jax.random.fold_in(key, 1), alpha, jnp.float32(0), problem)
            updates, moments = adam.update(estimate.gradient, moments, alpha)
            alpha = estimators.rescale_pair(alpha, alpha + updates, estimate.pair)
            after_ms = expected_ms(alpha)
            multiplier = loss.dual_ascent(multiplier, before_ms, after_ms, target_ms, 0.05)
            return (alpha, moments, multiplier), after_ms / target_ms

        alpha = sampling.init_alpha(jax.random.key(seed), allowed)
        return jax.lax.scan(
            step,
            (alpha, adam.init(alpha), jnp.float32(0)),
            jax.random.split(jax.random.key(seed), 330),
        )[1]

    for axes in (
        (None, None, None, None, 0),
        (None, None, 0, 0, None),
        (None, 0, None, None, None),
        (0, None, None, None, None),
    ):
        search = jax.vmap(search, axes)
    return np.asarray(
        jax.jit(search)(
            jnp.array([False, True]),
            jnp.array([14, 17.2, 22]),
            jnp.array([0.0, 0.3, 1.0, 1.0, 3.0, 1.0]),
            jnp.array([0.0, 0.0, 0.0, 1.0, 1.0, -3.0]),
            jnp.arange(3),
        )
    )


def test_dual_brings_expected_latency_to_the_target(simulated_searches):
    """It comes within 3 % and stays.

    Without any signal, with noise alone, and with preferences for slow candidates and for fast
    ones, where λ has to become negative.
    """
    dual = simulated_searches[1]
    assert np.abs(dual[..., -1] - 1).max() < 0.03
    assert np.ptp(dual[..., -40:], -1).max() < 0.06


def test_fixed_does_not_settle_at_the_target(simulated_searches):
    fixed = simulated_searches[0]
    assert (np.abs(fixed[..., -1] - 1) > 0.03).mean() > 0.8
