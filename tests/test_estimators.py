import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import estimators, sampling
from tests.conftest import SMALL

BLOCKS, CANDIDATES = SMALL.allowed.shape
SKIP_INDEX = CANDIDATES - 1


def random_pair(seed: int, active_skip_at: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pair = np.stack(
        [rng.choice(np.flatnonzero(row[:-1]), 2, replace=False) for row in SMALL.allowed], 1
    )
    pair[1, 2] = SKIP_INDEX
    if active_skip_at is not None:
        pair[:, active_skip_at] = SKIP_INDEX, 1
    return pair.astype(np.int32)


def naive_gradient(alpha, pair, gate_gradients):
    """∂L/∂α_i = Σ_j ∂L/∂g_j p_j (δ_ij − p_i), loop by loop."""
    gradient = np.zeros_like(alpha)
    for block in range(len(alpha)):
        members = pair[:, block]
        if members[0] == SKIP_INDEX:
            continue
        exp = np.exp(alpha[block, members] - alpha[block, members].max())
        p = exp / exp.sum()
        for i in range(2):
            for j in range(2):
                gradient[block, members[i]] += gate_gradients[j, block] * p[j] * ((i == j) - p[i])
    return gradient


def test_gate_gradient_of_a_pair_equals_the_formula():
    rng = np.random.default_rng(0)
    alpha = rng.normal(size=(BLOCKS, CANDIDATES)).astype(np.float32)
    gates = rng.normal(size=(2, BLOCKS)).astype(np.float32)
    pair = random_pair(1)
    mine = estimators.gate_gradient(jnp.asarray(alpha), pair, gates)
    np.testing.assert_allclose(mine, naive_gradient(alpha, pair, gates), rtol=1e-4, atol=1e-6)


def test_gate_gradient_of_all_is_the_gradient_of_the_expectation():
    """With gates that do not depend on α, Σ p g has the gradient of the formula."""
    rng = np.random.default_rng(1)
    alpha = rng.normal(size=(BLOCKS, CANDIDATES)).astype(np.float32)
    cost = rng.normal(size=(BLOCKS, CANDIDATES)).astype(np.float32)
    expected = jax.grad(lambda a: jnp.sum(sampling.probabilities(a, SMALL.allowed) * cost))(alpha)
    active = SMALL.random_path(rng)
    choices = np.asarray(sampling.all_candidates(jnp.asarray(active), CANDIDATES))
    logits = jnp.where(SMALL.allowed, alpha, -jnp.inf)
    mine = estimators.gate_gradient(logits, choices, cost[np.arange(BLOCKS), choices])
    np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-6)
    assert not np.asarray(mine)[~SMALL.allowed].any()


def linear_problem(cost):
    """A network whose CE is the sum of its candidates' costs."""
    rows = np.arange(BLOCKS)
    return estimators.Problem(
        gates=lambda choices: (jnp.sum(cost[rows, choices[0]]), cost[rows, choices]),
        reward=lambda path: (jnp.float32(0), jnp.sum(cost[rows, path])),
    )


EXTREMES = {
    "plus": np.full((BLOCKS, CANDIDATES), 60.0),
    "minus": np.full((BLOCKS, CANDIDATES), -60.0),
    "one_hot": 60.0 * np.eye(CANDIDATES)[[0, 1, 4, 3, 2]],
    "wide": 120.0 * np.eye(CANDIDATES)[[3, 2, 4, 4, 0]] - 60,
}


@pytest.mark.parametrize("alpha", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("name", estimators.ESTIMATORS)
def test_estimates_are_finite_at_extreme_alpha(name, alpha):
    cost = jnp.asarray(np.random.default_rng(2).normal(size=alpha.shape), jnp.float32)
    estimator = estimators.make_estimator(name, SMALL.allowed, 0.1)
    for seed in range(4):
        estimate = estimator(
            jax.random.key(seed),
            jnp.asarray(alpha, jnp.float32),
            jnp.float32(jnp.nan),
            linear_problem(cost),
        )
        assert np.isfinite(estimate.gradient).all() and np.isfinite(estimate.ce)
        if estimate.pair is not None:
            moved = estimators.rescale_pair(alpha, alpha - estimate.gradient, estimate.pair)
            assert np.isfinite(moved).all()
        assert not np.asarray(estimate.gradient)[~SMALL.allowed].any()


@pytest.mark.parametrize("name", ["two", "full"])
def test_a_block_whose_active_candidate_is_skip_is_left_alone(name):
    alpha = jnp.zeros(SMALL.allowed.shape).at[3, SKIP_INDEX].set(40.0)
    cost = jnp.arange(25.0).reshape(5, 5)
    estimator = estimators.make_estimator(name, SMALL.allowed, 1.0)
    gradient = np.asarray(
        estimator(jax.random.key(0), alpha, jnp.float32(0), linear_problem(cost)).gradient
    )
    assert not gradient[3].any() and gradient[0].any()


def test_full_is_the_exact_gradient_where_no_block_is_left_alone():
    """The loss is linear in the gates: exact whatever was drawn, except for active skips."""
    alpha = jax.random.normal(jax.random.key(1), SMALL.allowed.shape)
    cost = jax.random.normal(jax.random.key(2), SMALL.allowed.shape)
    exact = jax.grad(lambda a: jnp.sum(sampling.probabilities(a, SMALL.allowed) * cost))(alpha)
    estimator = estimators.make_estimator("full", SMALL.allowed, 1.0)
    seen = np.array(
        [
            estimator(jax.random.key(seed), alpha, jnp.float32(0), linear_problem(cost)).gradient
            for seed in range(20)
        ]
    )
    left = ~seen.any(2)
    assert not left[:, :2].any() and left[:, 2:].any()
    np.testing.assert_allclose(
        seen[~left], np.broadcast_to(exact, seen.shape)[~left], rtol=1e-4, atol=1e-6
    )


def test_gumbel_is_the_derivative_of_its_soft_sample():
    """∂/∂α of Σ softmax((log p + G) / τ) · cost, G redrawn from the key; τ itself among it."""
    alpha = jax.random.normal(jax.random.key(1), SMALL.allowed.shape)
    cost = jax.random.normal(jax.random.key(2), SMALL.allowed.shape)
    key, temperature = jax.random.key(3), 0.7

    def soft(alpha):
        noisy = jnp.where(SMALL.allowed, alpha, -jnp.inf) + jax.random.gumbel(key, alpha.shape)
        return jnp.sum(jax.nn.softmax(noisy / temperature, -1) * cost)

    estimate = estimators.make_estimator("gumbel", SMALL.allowed, temperature)(
        key, alpha, jnp.float32(0), linear_problem(cost)
    )
    np.testing.assert_allclose(estimate.gradient, jax.grad(soft)(alpha), rtol=1e-4, atol=1e-6)


def test_gumbel_makes_candidates_active_by_their_probabilities():
    alpha = jax.random.normal(jax.random.key(1), SMALL.allowed.shape)
    estimator = estimators.make_estimator("gumbel", SMALL.allowed, 0.2)

    def active(key):
        marked = estimators.Problem(
            lambda choices: (choices[0].astype(jnp.float32), jnp.zeros(choices.shape)), None
        )
        return estimator(key, alpha, jnp.float32(0), marked).ce

    drawn = np.asarray(jax.vmap(active)(jax.random.split(jax.random.key(0), 4000)))
    frequency = np.stack([(drawn == i).mean(0) for i in range(CANDIDATES)], 1)
    np.testing.assert_allclose(frequency, sampling.probabilities(alpha, SMALL.allowed), atol=0.035)


TWO_BLOCKS = np.array([[True, True, False], [True, True, True]])
ALL_PATHS = np.array(
    [p for p in itertools.product(range(3), repeat=2) if TWO_BLOCKS[[0, 1], p].all()]
)
REWARDS = np.array([0.9, 0.2, 0.5, 0.4, 0.8, 0.1])


def exact_gradient(alpha):
    """Returns the gradient of −E[R] over all paths of two blocks."""

    def expectation(alpha):
        log_p = sampling.log_probabilities(alpha, TWO_BLOCKS)
        return -jnp.sum(jnp.exp(log_p[[0, 1], ALL_PATHS].sum(1)) * REWARDS)

    return jax.grad(expectation)(alpha)


def path_probabilities(alpha):
    return np.exp(
        np.asarray(sampling.log_probabilities(alpha, TWO_BLOCKS))[[0, 1], ALL_PATHS].sum(1)
    )


@pytest.mark.parametrize("baseline", [0.0, 0.6])
def test_score_gradient_in_expectation_is_the_rewards_gradient(baseline):
    alpha = jnp.array([[0.3, -0.5, 9.0], [0.1, 0.8, -0.4]])
    each = [
        estimators.score_gradient(alpha, TWO_BLOCKS, path[None], jnp.array([r - baseline]))
        for path, r in zip(ALL_PATHS, REWARDS, strict=True)
    ]
    mean = np.tensordot(path_probabilities(alpha), np.array(each), 1)
    np.testing.assert_allclose(mean, exact_gradient(alpha), atol=1e-6)


@pytest.mark.parametrize("baseline, kept", [(float("nan"), 1.0), (0.3, 0.99)])
def test_official_baseline_shortens_the_expected_gradient_and_does_not_turn_it(baseline, kept):
    """Over all pairs of paths: it holds 0.99 of the pair's own mean, at first all of it."""
    alpha = jnp.array([[0.3, -0.5, 9.0], [0.1, 0.8, -0.4]])
    p, mean = path_probabilities(alpha), 0.0
    for i, j in itertools.product(range(6), repeat=2):
        rewards = jnp.array([REWARDS[i], REWARDS[j]])
        advantages = rewards - estimators.moved_baseline(jnp.float32(baseline), rewards)
        mean += (
            p[i]
            * p[j]
            * np.asarray(
                estimators.score_gradient(alpha, TWO_BLOCKS, ALL_PATHS[[i, j]], advantages)
            )
        )
    np.testing.assert_allclose(mean, (1 - kept / 2) * exact_gradient(alpha), atol=1e-6)


def test_baseline_moves_as_in_the_official_search():
    rewards = jnp.array([0.2, 0.6])
    assert float(estimators.moved_baseline(jnp.float32(jnp.nan), rewards)) == pytest.approx(0.4)
    assert float(estimators.moved_baseline(jnp.float32(1.4), rewards)) == pytest.approx(0.41)


@pytest.mark.parametrize(
    "name, temperature, match",
    [
        ("three", 1.0, "'three', allowed are two, full, gumbel, reinforce"),
        ("gumbel", 0.0, "temperature is 0.0; give a positive one"),
    ],
)
def test_unknown_estimators_are_refused(name, temperature, match):
    with pytest.raises(ValueError, match=match):
        estimators.make_estimator(name, SMALL.allowed, temperature)


def test_rescaling_leaves_the_other_probabilities():
    rng = np.random.default_rng(4)
    old = rng.normal(size=(BLOCKS, CANDIDATES)).astype(np.float32)
    pair = random_pair(3)
    rows = np.arange(BLOCKS)
    moved = old.copy()
    moved[rows, pair] += rng.normal(size=(2, BLOCKS)).astype(np.float32)
    new = np.asarray(estimators.rescale_pair(jnp.asarray(old), jnp.asarray(moved), pair))
    others = np.ones_like(old, bool)
    others[rows, pair] = False
    before, after = jax.nn.softmax(old, -1), jax.nn.softmax(new, -1)
    assert (new[others] == old[others]).all()
    np.testing.assert_allclose(np.asarray(after)[others], np.asarray(before)[others], rtol=1e-5)
    np.testing.assert_allclose(
        np.exp(new[rows, pair]).sum(0), np.exp(old[rows, pair]).sum(0), rtol=1e-5
    )
    # Within the pair the update is kept: only their common level is shifted.
    np.testing.assert_allclose(
        np.diff(new[rows, pair], axis=0), np.diff(moved[rows, pair], axis=0), atol=1e-5
    )
