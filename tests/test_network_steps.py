"""One network's training step, against references computed by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas import functional, loss, train_steps
from jaxnas.network import Network, network_of
from jaxnas.pixels import PRECISIONS
from jaxnas.train_steps import Recipe
from tests.conftest import NUM_CLASSES, SMALL, same_bits

SPEC = network_of(SMALL, SMALL.parse("k5e2 k3e2 - - -"), NUM_CLASSES)


PLAIN = Recipe(steps=30, dropout=0.0)
AVERAGED = dataclasses.replace(PLAIN, ema_decay=0.8)


@functools.cache
def steps_of(recipe: Recipe) -> train_steps.NetworkSteps:
    """Each recipe's steps once, since compiling them is what takes time here."""
    return train_steps.make_steps(Network(SPEC, rng=np.random.default_rng(0)), recipe)


@pytest.fixture
def network() -> Network:
    return Network(SPEC, rng=np.random.default_rng(0))


def trained(network, recipe, batch, count):
    """The state after each of `count` steps, as host arrays, the metrics of each, and the steps."""
    steps = steps_of(recipe)
    state = train_steps.init_state(network, recipe, seed=0)
    states, metrics = [], []
    for _ in range(count):
        state, one = steps.train(state, batch)
        states.append(jax.tree.map(np.array, state))
        metrics.append({name: float(value) for name, value in one.items()})
    assert steps.train._cache_size() == 1
    return states, metrics, steps


def test_warmup_rises_evenly_to_the_peak_and_the_cosine_ends_at_zero():
    rate = train_steps.learning_rate(Recipe(steps=12, warmup_steps=4, learning_rate=0.05))
    np.testing.assert_allclose(
        [rate(i) for i in range(5)], [0.01, 0.02, 0.03, 0.04, 0.05], rtol=1e-6
    )
    assert float(rate(8)) == pytest.approx(0.025)  # half-way down
    assert float(rate(12)) == pytest.approx(0, abs=1e-9)
    plain = train_steps.learning_rate(Recipe(steps=12, learning_rate=0.05))
    assert float(plain(0)) == pytest.approx(0.05) and float(plain(6)) == pytest.approx(0.025)
    twice = train_steps.learning_rate(Recipe(steps=12, last_steps=4, learning_rate=0.05))
    np.testing.assert_allclose(
        [twice(i) for i in (0, 4, 8, 10, 12)], [0.05, 0.025, 0.05, 0.025, 0], atol=1e-6
    )


def test_decay_leaves_batch_norm_alone(network):
    _, params, _ = functional.split(network)
    flags = jax.tree_util.tree_flatten_with_path(train_steps.decayed(params))[0]
    spared = {
        jax.tree_util.keystr(path, simple=True, separator="/") for path, yes in flags if not yes
    }
    assert all(name.rsplit("/")[-1] in ("scale", "bias") for name in spared)
    # Stem, the first block's two layers, three of two others, head: a scale and a bias each.
    assert len(spared) == 2 * (1 + 2 + 2 * 3 + 1)
    assert "classifier/head/bias" in spared and "classifier/bias" not in spared


def test_three_steps_of_the_optimizer_are_nesterov_sgd_with_masked_decay():
    recipe = Recipe(steps=3, learning_rate=0.5, momentum=0.9, weight_decay=0.1)
    rng = np.random.default_rng(0)
    params = {
        "layer": {name: rng.normal(size=3) for name in ("kernel", "scale", "bias")},
        "bias": rng.normal(size=3),
    }
    gradients = [jax.tree.map(lambda leaf: rng.normal(size=3), params) for _ in range(3)]
    decays = {"layer": {"kernel": 0.1, "scale": 0.0, "bias": 0.0}, "bias": 0.1}

    expected = params
    trace = jax.tree.map(np.zeros_like, params)
    for step, gradient in enumerate(gradients):
        rate = 0.5 * 0.5 * (1 + np.cos(np.pi * step / 3))
        gradient = jax.tree.map(lambda g, d, p: g + d * p, gradient, decays, expected)
        trace = jax.tree.map(lambda t, g: 0.9 * t + g, trace, gradient)
        expected = jax.tree.map(
            lambda p, t, g, rate=rate: p - rate * (0.9 * t + g), expected, trace, gradient
        )

    optimizer = train_steps.optimizer(recipe)
    found = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    state = optimizer.init(found)
    for gradient in gradients:
        updates, state = optimizer.update(jax.tree.map(jnp.float32, gradient), state, found)
        found = optax.apply_updates(found, updates)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5)


def test_average_is_the_weighted_mean_of_all_weights_and_statistics(network, batch):
    decay = AVERAGED.ema_decay
    states, _, steps = trained(network, AVERAGED, batch, 3)
    weights = np.array([decay**2, decay, 1.0]) / (1 + decay + decay**2)
    for part, found in zip(
        ("params", "stats"), steps.delivered(jax.tree.map(jnp.asarray, states[-1])), strict=True
    ):
        expected = jax.tree.map(
            lambda *leaves: sum(w * leaf for w, leaf in zip(weights, leaves, strict=True)),
            *(getattr(state, part) for state in states),
        )
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_learning_rate_goes_on_where_an_update_is_skipped(network, batch):
    """After a batch that is not finite the next step is the one of its number."""
    steps = steps_of(PLAIN)
    state = train_steps.init_state(network, PLAIN, seed=0)
    spoilt = dataclasses.replace(
        state, stats=jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), state.stats)
    )
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), state.params)
    skipped, metrics = steps.train(dataclasses.replace(spoilt, params=broken), batch)
    assert metrics["skipped"] == 1 and int(skipped.step) == 1
    counts = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(skipped.optimizer)
        if jax.tree_util.keystr(path).endswith(".count")
    ]
    assert [int(count) for count in counts] == [1]


def test_without_an_average_the_weights_are_delivered_as_they_are(network):
    state = train_steps.init_state(network, PLAIN, seed=0)
    assert same_bits(steps_of(PLAIN).delivered(state), (state.params, state.stats))


def test_loss_without_dropout_is_the_network_s_own(network, batch, images):
    _, metrics, _ = trained(network, AVERAGED, batch, 1)
    network.train()
    expected = loss.cross_entropy(network(images), batch["label"], 0.1)
    assert metrics[0]["ce"] == pytest.approx(float(expected), rel=1e-5)


def test_dropout_is_drawn_anew_each_step_and_keeps_the_mean(network, batch):
    """With no learning all steps see the same weights; what differs is what was dropped."""
    _, (plain, *_), _ = trained(network, AVERAGED, batch, 1)
    with_dropout = dataclasses.replace(PLAIN, steps=200, learning_rate=0.0, dropout=0.5)
    _, first, _ = trained(network, with_dropout, batch, 40)
    _, again, _ = trained(network, with_dropout, batch, 2)
    losses = [one["ce"] for one in first]
    assert len(set(losses)) == len(losses)
    assert [one["ce"] for one in again] == losses[:2]
    # Logits are near 0 at the start, where the loss is nearly linear in them.
    assert np.mean(losses) == pytest.approx(plain["ce"], abs=4 * np.std(losses) / 40**0.5)


def test_bf16_learns_as_f32_does_and_keeps_a_float32_state(network, batch):
    losses = {}
    for precision in PRECISIONS:
        recipe = dataclasses.replace(AVERAGED, precision=precision, steps=60)
        states, metrics, _ = trained(network, recipe, batch, 60)
        losses[precision] = [one["ce"] for one in metrics]
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states[-1]))
        trees = (states[-1].params, states[-1].stats, states[-1].average.ema)
        assert {leaf.dtype for leaf in jax.tree.leaves(trees)} == {np.dtype(np.float32)}
    assert losses["bf16"] != losses["f32"]
    assert losses["bf16"][0] == pytest.approx(losses["f32"][0], rel=0.01)
    for values in losses.values():
        assert values[-1] < 0.8 * values[0]


def test_evaluation_leaves_padding_out(network, batch, images):
    steps = steps_of(PLAIN)
    _, params, stats = functional.split(network, None)
    mask = np.array([1, 1, 0, 1, 0, 0, 1, 1], np.float32)
    answers = steps.evaluate(params, stats, {**batch, "mask": mask})
    network.eval()
    hits = np.asarray(network(images)).argmax(-1) == batch["label"]
    assert np.asarray(answers).tolist() == np.where(mask == 1, hits, -1).tolist()
