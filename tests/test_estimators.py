import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnas import estimators, loss, paths, supernet
from jaxnas.latency import LatencyModel
from tests.conftest import NUM_CLASSES, SMALL, random_table

BLOCKS, CANDIDATES = SMALL.allowed.shape
SKIP_INDEX = CANDIDATES - 1


def random_pair(seed: int, active_skip_at: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pair = np.stack([rng.choice(np.flatnonzero(row[:-1]), 2, replace=False)
                     for row in SMALL.allowed], 1)
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


def test_two_path_gradient_equals_the_formula():
    rng = np.random.default_rng(0)
    alpha = rng.normal(size=(BLOCKS, CANDIDATES)).astype(np.float32)
    gates = rng.normal(size=(2, BLOCKS)).astype(np.float32)
    pair = random_pair(1, active_skip_at=3)
    mine = estimators.two_path_gradient(jnp.asarray(alpha), pair, gates, SKIP_INDEX)
    np.testing.assert_allclose(mine, naive_gradient(alpha, pair, gates), rtol=1e-4, atol=1e-6)
    assert not np.asarray(mine)[3].any()


@pytest.mark.parametrize("scale", [0.0, 1.0, 300.0])
def test_two_path_gradient_is_finite_at_extreme_alpha(scale):
    alpha = jnp.float32(scale) * jax.random.normal(jax.random.key(0), (BLOCKS, CANDIDATES))
    gradient = estimators.two_path_gradient(alpha, random_pair(2), np.ones((2, BLOCKS)), SKIP_INDEX)
    assert np.isfinite(gradient).all()


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
    np.testing.assert_allclose(np.exp(new[rows, pair]).sum(0), np.exp(old[rows, pair]).sum(0),
                               rtol=1e-5)
    # Within the pair the update is kept: only their common level is shifted.
    np.testing.assert_allclose(np.diff(new[rows, pair], axis=0), np.diff(moved[rows, pair], axis=0),
                               atol=1e-5)


def naive_gate_gradients(state, pair, images, labels, latency, target_ms, weight):
    """⟨∂CE/∂y, o_k(x)⟩ + λ/T · latency_k, from networks written out block by block.

    ∂CE/∂y is the gradient of a perturbation added behind a block; o_k(x) is the candidate's own
    module, at its own size, at that block's input.
    """
    networks = []
    for row in pair:
        usable = np.where(row == SKIP_INDEX, 0, row)  # any convolution: skip is written out below
        network = supernet.extract(SMALL, state.params, state.stats, usable, NUM_CLASSES)
        network.train()
        networks.append(network)

    def forward(perturbations):
        modules = [nnx.clone(network) for network in networks]  # their statistics change inside
        x = modules[0].blocks[0](modules[0].stem(images))
        outputs = []
        for block in range(BLOCKS):
            both = [x if pair[k, block] == SKIP_INDEX else modules[k].blocks[block + 1](x)
                    for k in range(2)]
            outputs.append(both)
            x = both[0] + perturbations[block]
        return loss.cross_entropy(modules[0].classifier(x), labels), outputs

    zeros = [jnp.zeros_like(both[0]) for both in forward([0.0] * BLOCKS)[1]]
    gradients, outputs = jax.grad(forward, has_aux=True)(zeros)
    ce = np.array([[float(jnp.sum(g * o[k])) for g, o in zip(gradients, outputs, strict=True)]
                   for k in range(2)])
    entries = np.where(np.isfinite(latency), latency, 0)
    return ce + weight / target_ms * entries[np.arange(BLOCKS), pair]


def test_architecture_step_is_the_formulas_composed(small_steps, small_state, batch):
    """Sampling, gates, latency, α's gradient, Adam's first step and rescaling, all at once."""
    table, target_ms, weight, rate = random_table(SMALL, 1), 4.0, 0.3, 0.05
    key = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(small_state.key), 1), 0)
    pair = np.asarray(paths.sample_pair(key, small_state.alpha, SMALL.allowed))
    gates = naive_gate_gradients(small_state, pair, batch["image"], batch["label"],
                                 table.candidate_ms, target_ms, weight)
    old = np.asarray(small_state.alpha, np.float64)
    gradient = naive_gradient(old, pair, gates)
    # Adam with β = (0, 0.999), first step: the gradient over its own root mean square.
    expected = old - rate * gradient / (np.abs(gradient) + 1e-8)
    for block, members in enumerate(pair.T):
        shift = np.log(np.exp(old[block, members]).sum() / np.exp(expected[block, members]).sum())
        expected[block, members] += shift
    alpha, _, _ = small_steps.arch(small_state, batch, LatencyModel.of(table),
                                   jnp.float32(target_ms), jnp.float32(weight))
    np.testing.assert_allclose(alpha, expected, atol=1e-5)
    assert (np.abs(alpha - old).max(1) > 0.01).sum() >= 3


@pytest.mark.parametrize("active_skip_at", [None, 3])
def test_gate_gradients_of_the_supernet_equal_the_naive_reference(small_state, batch,
                                                                   active_skip_at):
    pair = random_pair(5, active_skip_at)
    table = random_table(SMALL, 1)
    target_ms, weight = 4.0, 0.3
    params = tuple(supernet.gather(SMALL, small_state.params, p) for p in jnp.asarray(pair))
    stats = tuple(supernet.gather(SMALL, small_state.stats, p) for p in jnp.asarray(pair))

    def objective(gates):
        logits = supernet.apply_two_paths(SMALL, params, stats, jnp.asarray(pair), gates,
                                          batch["image"])
        expected_ms = jnp.sum(gates * LatencyModel.of(table).candidate_ms[np.arange(BLOCKS), pair])
        return (loss.cross_entropy(logits, batch["label"])
                + loss.latency_term(expected_ms, target_ms, weight))

    mine = jax.jit(jax.grad(objective))(jnp.zeros(pair.shape))
    expected = naive_gate_gradients(small_state, pair, batch["image"], batch["label"],
                                    table.candidate_ms, target_ms, weight)
    np.testing.assert_allclose(mine, expected, rtol=2e-4, atol=2e-5)
