import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnas import loss, sampling, search_steps, supernet
from jaxnas.latency import LatencyModel
from jaxnas.pixels import from_pixels
from tests.conftest import NUM_CLASSES, SMALL, make_table, same_bits

SKIP_INDEX = len(SMALL.candidates) - 1
PATHS = [[0, 1, 2, 3, 0], [3, 3, SKIP_INDEX, 1, 2], [1, 0, SKIP_INDEX, SKIP_INDEX, SKIP_INDEX]]


def copy(state):
    """The steps consume the state they are given."""
    return jax.tree.map(jnp.array, state)


def step(small_steps, state, batch, path, rate=0.05, momentum=0.9):
    return small_steps.weight(
        copy(state), batch, jnp.asarray(path, jnp.int32), jnp.float32(rate), jnp.float32(momentum)
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("train", [True, False])
def test_a_path_computes_what_its_network_computes(small_state, images, path, train):
    path = np.array(path, np.int32)
    network = supernet.extract(SMALL, small_state.params, small_state.stats, path, NUM_CLASSES)
    (network.train if train else network.eval)()
    params, stats = (
        supernet.gather(SMALL, tree, path) for tree in (small_state.params, small_state.stats)
    )
    logits, _ = supernet.apply(SMALL, params, stats, jnp.asarray(path), images, train=train)
    np.testing.assert_allclose(logits, network(images), atol=2e-5)


def test_gradients_of_a_path_are_its_networks(small_state, batch, images):
    """The custom backward pass, against plain differentiation of the network on its own."""
    path = np.array(PATHS[1], np.int32)
    params, stats = (
        supernet.gather(SMALL, tree, path) for tree in (small_state.params, small_state.stats)
    )

    def supernet_loss(params):
        logits, _ = supernet.apply(SMALL, params, stats, jnp.asarray(path), images, train=True)
        return loss.cross_entropy(logits, batch["label"], 0.1)

    mine = jax.jit(jax.grad(supernet_loss))(params)
    network = supernet.extract(SMALL, small_state.params, small_state.stats, path, NUM_CLASSES)
    graph, weights, rest = nnx.split(network, nnx.Param, ...)

    def network_loss(weights):
        logits = nnx.merge(graph, weights, rest, copy=True)(images)
        return loss.cross_entropy(logits, batch["label"], 0.1)

    expected = nnx.to_pure_dict(jax.grad(network_loss)(weights))
    np.testing.assert_allclose(mine["stem"]["kernel"], expected["stem"]["kernel"], atol=1e-5)
    # Block 1 is the first of the second run, candidate k5e3: full size but for the kernel's.
    for part in ("expand", "depthwise", "project"):
        got, want = (
            mine["runs"][1]["mbconv"][part]["kernel"][0],
            expected["blocks"][2][part]["kernel"],
        )
        np.testing.assert_allclose(got[tuple(map(slice, want.shape))], want, atol=1e-5)


def slices(tree, run, block, candidate):
    return jax.tree.map(lambda leaf: leaf[block, candidate], tree["runs"][run]["mbconv"])


def test_what_is_not_sampled_keeps_its_bits(small_steps, small_state, batch):
    # Momentum everywhere, so that decay or momentum of an unsampled candidate would show.
    trace = small_state.momentum[1]._replace(
        trace=jax.tree.map(lambda p: jnp.full_like(p, 0.01), small_state.params)
    )
    state = dataclasses.replace(small_state, momentum=(small_state.momentum[0], trace))
    path = PATHS[1]
    new, _ = step(small_steps, state, batch, path)
    before = (state.params, state.stats, state.momentum[1].trace)
    after = (new.params, new.stats, new.momentum[1].trace)
    changed, kept = 0, 0
    for run, (start, length) in enumerate(SMALL.runs()):
        for block in range(length):
            for candidate in range(SKIP_INDEX):
                at = (run, block, candidate)
                same = [
                    same_bits(slices(a, *at), slices(b, *at))
                    for a, b in zip(before, after, strict=True)
                ]
                if path[start + block] == candidate:
                    assert not any(same)
                    changed += 1
                else:
                    assert all(same)
                    kept += 1
    assert (changed, kept) == (4, 16)


def test_padding_stays_zero(small_steps, small_state, batch):
    state, _ = step(small_steps, small_state, batch, [0, 0, 0, 0, 0])
    kernel = np.asarray(state.params["runs"][1]["mbconv"]["depthwise"]["kernel"][:, 0])
    assert kernel[:, :3, :3, :16].any()
    assert not kernel[:, 3:].any() and not kernel[..., 16:].any()


def test_each_step_compiles_once_for_all_paths(small_steps, small_state, batch):
    rng = np.random.default_rng(0)
    state, latency = copy(small_state), LatencyModel.of(make_table(SMALL, np.ones((5, 5))))
    for _ in range(6):
        state, _ = step(small_steps, state, batch, SMALL.random_path(rng))
        small_steps.arch(state, batch, latency, jnp.float32(4), jnp.float32(0.1))
    # All tests give these shapes, so one program each is all there may be.
    assert small_steps.weight._cache_size() == 1 and small_steps.arch._cache_size() == 1


def test_training_one_path_lowers_its_loss(small_steps, small_state, batch):
    state = small_state
    state, first = step(small_steps, state, batch, PATHS[0])
    for _ in range(40):
        state, last = step(small_steps, state, batch, PATHS[0])
    assert float(last["ce"]) < 0.75 * float(first["ce"])


def test_recalibration_gives_the_mean_of_the_batches_statistics(small_steps, small_state, batch):
    path = jnp.asarray(PATHS[0], jnp.int32)
    rng = np.random.default_rng(8)
    batches = [
        batch | {"image": rng.integers(0, 80 * (1 + i), (8, 16, 16, 3), np.uint8)} for i in range(3)
    ]
    state = copy(small_state)
    for i, one in enumerate(batches):
        state, _ = step(small_steps, state, one, path, rate=0.0, momentum=i / (i + 1))
    params, stats = (
        supernet.gather(SMALL, tree, path) for tree in (small_state.params, small_state.stats)
    )
    seen = [
        supernet.apply(SMALL, params, stats, path, from_pixels(one["image"]), train=True)[1]
        for one in batches
    ]
    expected = jax.tree.map(lambda *s: np.mean(s, 0), *seen)
    got = supernet.gather(SMALL, state.stats, path)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), got, expected)
    assert same_bits(state.params, small_state.params)


def test_memory_is_of_one_candidate_and_not_of_all(batch):
    """XLA's own count of temporaries: a path through the switch against the largest network."""
    images = jax.ShapeDtypeStruct((64, 32, 32, 3), jnp.float32)
    params, stats = supernet.init(SMALL, NUM_CLASSES, 0)
    largest = np.full(5, SKIP_INDEX - 1, np.int32)
    network = supernet.extract(SMALL, params, stats, largest, NUM_CLASSES)
    graph, weights, rest = nnx.split(network, nnx.Param, ...)

    def through_the_switch(params, stats, path, images):
        return jnp.sum(supernet.apply(SMALL, params, stats, path, images, train=True)[0] ** 2)

    def alone(weights, rest, images):
        return jnp.sum(nnx.merge(graph, weights, rest, copy=True)(images) ** 2)

    active = supernet.gather(SMALL, params, largest), supernet.gather(SMALL, stats, largest)
    switch, plain = (
        jax.jit(jax.grad(function))
        .lower(*arguments, images)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for function, arguments in (
            (through_the_switch, (*active, jnp.asarray(largest))),
            (alone, (weights, rest)),
        )
    )
    assert switch < 1.25 * plain, (switch, plain)


def test_architecture_step_moves_alpha_alone_and_only_of_the_pair(small_steps, small_state, batch):
    latency = LatencyModel.of(make_table(SMALL, np.arange(25.0).reshape(5, 5)))
    changes, metrics = small_steps.arch(
        small_state, batch, latency, jnp.float32(4), jnp.float32(0.1)
    )
    assert set(changes) == {"alpha", "alpha_adam", "multiplier", "baseline"}
    alpha = changes["alpha"]
    moved = np.asarray(alpha != small_state.alpha)
    assert (moved.sum(1) <= 2).all() and moved.any()
    p = sampling.probabilities(alpha, SMALL.allowed)
    assert float(metrics["expected_ms"]) == pytest.approx(float(latency.expected_ms(p)), rel=1e-6)
    assert float(metrics["latency_term"]) == pytest.approx(
        0.1 * (float(metrics["expected_ms"]) - 4) / 4, rel=1e-5
    )


def test_shared_initialisation_makes_all_candidates_one_function(images):
    params, stats = supernet.init(SMALL, NUM_CLASSES, 0, "shared")

    @jax.jit
    def logits(path):
        active = supernet.gather(SMALL, params, path), supernet.gather(SMALL, stats, path)
        return supernet.apply(SMALL, *active, path, images, train=True)[0]

    reference = logits(jnp.zeros(5, jnp.int32))
    for path in [[3, 3, 3, 3, 3], [1, 2, 0, 3, 1], [2, 1, SKIP_INDEX, 2, SKIP_INDEX]]:
        np.testing.assert_allclose(logits(jnp.asarray(path, jnp.int32)), reference, atol=1e-4)
    assert float(jnp.std(reference)) > 1e-3


def test_the_same_seed_gives_the_same_supernet():
    hyper = search_steps.Hyperparameters()
    first, second = (search_steps.init_state(SMALL, NUM_CLASSES, hyper, 7) for _ in range(2))
    other = search_steps.init_state(SMALL, NUM_CLASSES, hyper, 8)
    assert same_bits(first, second)
    assert not same_bits(first.params, other.params)
