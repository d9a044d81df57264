import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import budget, sampling
from jaxnas.latency import LatencyModel
from tests.conftest import SMALL, make_table, random_table

ALLOWED = SMALL.allowed


def test_probabilities_are_of_the_allowed_candidates():
    alpha = jnp.zeros(ALLOWED.shape)
    p = np.asarray(sampling.probabilities(alpha, ALLOWED))
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(p[0], [0.25] * 4 + [0], rtol=1e-6)
    np.testing.assert_allclose(p[2], [0.2] * 5, rtol=1e-6)


def test_entropy_literal():
    alpha = jnp.zeros(ALLOWED.shape)
    expected = (2 * np.log(4) + 3 * np.log(5)) / 5
    assert float(sampling.entropy(alpha, ALLOWED)) == pytest.approx(expected, rel=1e-6)
    assert float(sampling.entropy(alpha.at[:, 0].set(200.0), ALLOWED)) == pytest.approx(0, abs=1e-6)


def test_samples_follow_the_probabilities():
    alpha = jax.random.normal(jax.random.key(5), ALLOWED.shape)
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.asarray(jax.vmap(lambda k: sampling.sample_path(k, alpha, ALLOWED))(keys))
    frequency = np.stack([(drawn == i).mean(0) for i in range(5)], 1)
    np.testing.assert_allclose(frequency, sampling.probabilities(alpha, ALLOWED), atol=0.035)
    assert (frequency[~ALLOWED] == 0).all()


def test_pairs_are_drawn_without_replacement_and_made_active_by_the_pairs_softmax():
    alpha = jax.random.normal(jax.random.key(6), ALLOWED.shape)
    keys = jax.random.split(jax.random.key(1), 6000)
    pairs = np.asarray(jax.vmap(lambda k: sampling.sample_pair(k, alpha, ALLOWED))(keys))
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert ALLOWED[np.arange(5), pairs].all()
    p = np.asarray(sampling.probabilities(alpha, ALLOWED), np.float64)[3]
    for i, j in itertools.permutations(range(5), 2):
        both = p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])
        seen = ((pairs[:, 0, 3] == i) & (pairs[:, 1, 3] == j)).mean()
        assert seen == pytest.approx(both * p[i] / (p[i] + p[j]), abs=0.025)


def test_most_probable_path_is_the_argmax_over_what_is_allowed():
    alpha = np.zeros(ALLOWED.shape)
    alpha[:, -1], alpha[:, 2] = 9.0, 1.0
    assert budget.most_probable_path(alpha, ALLOWED).tolist() == [2, 2, 4, 4, 4]


def brute_force(log_p, table, max_ms, min_ms):
    """Returns all paths between the two latencies, the most probable first."""
    rows, found = np.arange(len(ALLOWED)), []
    for path in itertools.product(range(ALLOWED.shape[1]), repeat=ALLOWED.shape[0]):
        if ALLOWED[rows, path].all() and min_ms - 1e-9 <= table.path_ms(path) <= max_ms + 1e-9:
            found.append((log_p[rows, path].sum(), path))
    return [list(path) for _, path in sorted(found, reverse=True)]


@pytest.mark.parametrize("seed", range(6))
def test_best_paths_equal_brute_force(seed):
    table = random_table(SMALL, seed)
    alpha = np.random.default_rng(seed).normal(size=ALLOWED.shape)
    log_p = np.asarray(sampling.log_probabilities(alpha, ALLOWED), np.float64)
    fastest, slowest = table.range_ms
    for share, least in ((0.02, 0.0), (0.3, 0.0), (0.6, 0.0), (1.0, 0.0), (0.5, 0.9), (0.7, 0.98)):
        budget_ms = round(fastest + share * (slowest - fastest), 3)
        expected = brute_force(log_p, table, budget_ms, least * budget_ms)
        mine = budget.budgeted_path(log_p, table, budget_ms, least * budget_ms)
        assert mine.tolist() == expected[0]
        assert table.path_ms(mine) <= budget_ms + 1e-9
        best = budget.k_best_paths(log_p, table, budget_ms, least * budget_ms, 20)
        assert best.dtype == np.int32 and best.tolist() == expected[:20]


def test_best_paths_are_as_many_as_there_are():
    table = random_table(SMALL, 3)
    log_p = np.where(ALLOWED, 0.0, -np.inf)
    fastest, _ = table.range_ms
    expected = brute_force(log_p, table, fastest + 0.3, 0.0)
    best = budget.k_best_paths(log_p, table, fastest + 0.3, 0.0, 1000)
    assert 1 < len(expected) < 1000
    assert sorted(best.tolist()) == sorted(expected)
    with pytest.raises(ValueError, match="0 paths are asked for"):
        budget.k_best_paths(log_p, table, fastest + 0.3, 0.0, 0)


def test_a_budget_beyond_every_path_is_no_more_work():
    """The work grows with the latencies of the space, and not with the budget."""
    table = random_table(SMALL, 3)
    log_p = np.asarray(
        sampling.log_probabilities(np.random.default_rng(3).normal(size=ALLOWED.shape), ALLOWED)
    )
    enough = budget.k_best_paths(log_p, table, table.range_ms[1], 0.0, 5)
    assert budget.k_best_paths(log_p, table, 1e9, 0.0, 5).tolist() == enough.tolist()
    with pytest.raises(ValueError, match="no path takes"):
        budget.k_best_paths(log_p, table, 1e9, 1e8, 5)


def test_all_candidates_are_the_active_one_and_the_others_in_order():
    choices = sampling.all_candidates(jnp.array([2, 0, 4], jnp.int32), 5)
    assert choices.T.tolist() == [[2, 0, 1, 3, 4], [0, 1, 2, 3, 4], [4, 0, 1, 2, 3]]


def test_budgeted_path_never_exceeds_the_budget_by_rounding():
    ms = np.full(ALLOWED.shape, 1.0004)
    ms[:, 1], ms[:, -1] = 0.9996, 0
    table = make_table(SMALL, ms, fixed_ms=0.0)
    log_p = np.log(np.where(ALLOWED, [[0.4, 0.1, 0.2, 0.2, 0.1]], 0) + 1e-300)
    path = budget.budgeted_path(log_p, table, 5.001)
    assert table.path_ms(path) <= 5.001


def test_budget_out_of_reach_names_the_range():
    table = make_table(SMALL, np.where(np.arange(5) == 4, 0.0, np.arange(1.0, 6.0)))
    with pytest.raises(ValueError, match=r"0.000 to 0.500 ms.*from 2.700 to 20.700 ms"):
        budget.budgeted_path(np.zeros(ALLOWED.shape), table, 0.5)


def test_expected_latency_of_a_certain_path_is_the_paths():
    table = random_table(SMALL, 9)
    path = SMALL.random_path(np.random.default_rng(2))
    one_hot = jax.nn.one_hot(path, ALLOWED.shape[1])
    assert float(LatencyModel.of(table).expected_ms(one_hot)) == pytest.approx(
        table.path_ms(path), rel=1e-6
    )
