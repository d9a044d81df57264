"""The supernet, with MBConv candidates, fused ones, and both in one block."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnas import (
    loss,
    sampling,
    search_state,
    search_steps,
    supernet,
    supernet_initialization,
    supernet_stacks,
)
from jaxnas.batch_norm import BATCH_NORM_GROUP
from jaxnas.latency import LatencyModel
from jaxnas.pixels import from_pixels
from jaxnas.space import staged_space
from tests.conftest import NUM_CLASSES, random_table, same_bits
from tests.kinds import KINDS, Kind, copy, hyperparameters, state_of, steps_of
from tests.test_steps import naive_gate_gradients

GROUP = 4  # images that are normalized together, half of the batch


@pytest.fixture(scope="module", params=KINDS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def kind(name) -> Kind:
    return KINDS[name]


@pytest.fixture(scope="module")
def steps(name) -> search_steps.Steps:
    return steps_of(name)


@pytest.fixture
def state(name) -> search_state.SearchState:
    return state_of(name)


def gathered(space, state, path):
    return [supernet.gather(space, tree, path) for tree in (state.params, state.stats)]


def step(steps, state, batch, path):
    return steps.weight(copy(state), batch, jnp.asarray(path, jnp.int32), jnp.float32(0.05))


def passes_of(kind, images, batch, group=GROUP):
    """Logits in evaluation, and a loss's gradients with logits: one program each for all paths."""

    def logits(params, stats, path, group=None):
        active = (supernet.gather(kind.space, tree, path) for tree in (params, stats))
        return supernet.apply(kind.space, *active, path, images, group=group)[0]

    def ce(params, stats, path):
        out = logits(params, stats, path, group=group)
        return loss.cross_entropy(out, batch["label"], 0.1), out

    return jax.jit(logits), jax.jit(jax.grad(ce, has_aux=True))


@pytest.fixture(scope="module")
def passes(kind, images, batch):
    return passes_of(kind, images, batch)


def assert_learns_as_its_network(path, group, gradients, kind, stats, state, images, batch):
    """Every weight's gradient, against plain differentiation of the extracted network."""
    network = supernet.extract(kind.space, state.params, stats, path, NUM_CLASSES)
    if group is None:
        network.eval()
    else:
        network.train(batch_norm_group=group)
    graph, weights, rest = nnx.split(network, nnx.Param, ...)

    def network_loss(weights):
        logits = nnx.merge(graph, weights, rest, copy=True)(images)
        return loss.cross_entropy(logits, batch["label"], 0.1), logits

    expected, logits = jax.jit(jax.grad(network_loss, has_aux=True))(weights)
    mine, my_logits = gradients(state.params, stats, jnp.asarray(path))
    np.testing.assert_allclose(my_logits, logits, atol=2e-5)
    # As a network of gradients: every leaf of the path, at its own size.
    got = supernet.extract(kind.space, mine, stats, path, NUM_CLASSES)
    leaves, expected = jax.tree.leaves(nnx.state(got, nnx.Param)), jax.tree.leaves(expected)
    assert len(leaves) == len(expected) > 15
    for a, b in zip(leaves, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    total = sum(float(jnp.sum(abs(leaf))) for leaf in jax.tree.leaves(mine))
    assert total == pytest.approx(sum(float(jnp.sum(abs(b))) for b in expected), rel=1e-4)


@pytest.mark.parametrize("index", range(3))
def test_a_path_computes_and_learns_what_its_network_does(
    index, kind, passes, state, batch, images
):
    """Logits in evaluation, and what is learned with the statistics of groups."""
    evaluated, gradients = passes
    path = kind.paths[index]
    network = supernet.extract(kind.space, state.params, state.stats, path, NUM_CLASSES)
    network.eval()
    mine = evaluated(state.params, state.stats, jnp.asarray(path))
    np.testing.assert_allclose(mine, network(images), atol=2e-5)
    assert_learns_as_its_network(path, GROUP, gradients, kind, state.stats, state, images, batch)


def test_a_path_learns_what_its_network_does_with_running_statistics(kind, state, batch, images):
    _, gradients = passes_of(kind, images, batch, group=None)
    rng = np.random.default_rng(0)
    stats = jax.tree.map(lambda leaf: leaf + rng.uniform(0.1, 0.5, leaf.shape), state.stats)
    for path in kind.paths:
        assert_learns_as_its_network(path, None, gradients, kind, stats, state, images, batch)


def test_statistics_that_are_kept_are_kept_to_the_bit(batch):
    """Weights and α learn beside them."""
    kind, state = KINDS["mbconv"], state_of("mbconv")
    steps = search_steps.make_steps(kind.space, hyperparameters(batch_norm_group=None))
    latency = LatencyModel.of(random_table(kind.space, 0))
    changes, metrics = steps.arch(state, batch, latency, jnp.float32(3.0), jnp.float32(0.1))
    assert np.isfinite(metrics["arch_ce"]) and np.any(changes["alpha"] != state.alpha)
    after, metrics = step(steps, state, batch, kind.paths[0])
    assert np.isfinite(metrics["ce"])
    assert same_bits(after.stats, state.stats)
    assert not same_bits(after.params, state.params)


def test_what_is_not_sampled_keeps_its_bits_and_one_program_serves_all_paths(
    kind, steps, state, batch
):
    # Momentum everywhere, so that decay or momentum of an unsampled candidate would show.
    space = kind.space
    trace = jax.tree.map(lambda p: jnp.full_like(p, 0.01), state.params)
    momentum = state.momentum[1]._replace(trace=trace)
    state = dataclasses.replace(state, momentum=(state.momentum[0], momentum))
    latency = LatencyModel.of(random_table(space, 0))
    for path in kind.paths:
        before = jax.tree.map(jnp.array, (state.params, state.stats, state.momentum[1].trace))
        state, _ = step(steps, state, batch, path)
        changes, _ = steps.arch(state, batch, latency, jnp.float32(4.0), jnp.float32(0.1))
        state = dataclasses.replace(state, **changes)
        after = (state.params, state.stats, state.momentum[1].trace)
        for tree, new in zip(before, after, strict=True):
            # What the path's slices do not cover is as it was, to the bit; what they do is not.
            old = supernet.gather(space, tree, path)
            assert same_bits(supernet.scatter(space, new, old, path), tree)
            for block, candidate in enumerate(path):
                if not space.candidates[candidate].is_skip:
                    one, other = (slices_of(space, t, block, candidate) for t in (tree, new))
                    assert not same_bits(one, other)
    assert steps.weight._cache_size() == 1 and steps.arch._cache_size() == 1


def slices_of(space, tree, block, candidate):
    """A candidate's own slices, found without `gather`."""
    run, start = next(
        (i, start)
        for i, (start, length) in enumerate(space.runs())
        if start <= block < start + length
    )
    shape = dataclasses.replace(space.blocks[block], name="")
    stack = supernet_stacks.stack_of(space.candidates[candidate])
    place = supernet_stacks.stacks(shape)[stack].index(space.candidates[candidate])
    return jax.tree.map(lambda leaf: leaf[block - start, place], tree["runs"][run][stack])


def test_padding_stays_zero(kind, steps, state, batch):
    space, padded = kind.space, 0
    for path in kind.paths:
        state, _ = step(steps, state, batch, path)
    for block, shape in enumerate(space.blocks):
        for index in np.flatnonzero(space.allowed[block]):
            candidate = space.candidates[index]
            if candidate.is_skip:
                continue
            slices = slices_of(space, state.params, block, index)
            true = supernet_stacks.split_of(dataclasses.replace(shape, name=""), candidate)[1]
            for leaf, like in zip(jax.tree.leaves(slices), jax.tree.leaves(true), strict=True):
                inside = np.zeros(leaf.shape, bool)
                inside[tuple(map(slice, like.shape))] = True
                assert not np.asarray(leaf)[~inside].any()
                padded += (~inside).sum()
    assert padded > 100


def test_training_one_path_lowers_its_loss(kind, steps, state, batch):
    path = kind.paths[0]
    state, first = step(steps, state, batch, path)
    for _ in range(40):
        state, last = step(steps, state, batch, path)
    assert float(last["ce"]) < 0.85 * float(first["ce"])


def test_recalibration_gives_the_mean_of_the_batches_statistics(kind, steps, state, batch):
    space, path = kind.space, jnp.asarray(kind.paths[0])
    rng = np.random.default_rng(8)
    batches = [
        batch | {"image": rng.integers(0, 80 * (1 + i), (8, 16, 16, 3), np.uint8)} for i in range(3)
    ]
    after = state.stats
    for i, one in enumerate(batches):
        after = steps.recalibrate(state.params, after, path, one, jnp.float32(i / (i + 1)))
    params, stats = gathered(space, state, path)

    @jax.jit
    def statistics(images):
        return supernet.apply(space, params, stats, path, images, group=BATCH_NORM_GROUP)[1]

    seen = [
        statistics(from_pixels(one["image"], normalization=space.normalization)) for one in batches
    ]
    places = supernet.gather(space, after, path)
    # Of the stacks that the path's candidates are in: what else was gathered, nothing reads.
    got, expected = (
        supernet.extract(space, state.params, supernet.scatter(space, after, t, path), path, 5)
        for t in (places, jax.tree.map(lambda *s: jnp.mean(jnp.stack(s), 0), *seen))
    )
    for a, b in zip(
        *(jax.tree.leaves(nnx.state(n, nnx.BatchStat)) for n in (got, expected)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)


def test_memory_is_of_one_candidate_and_not_of_all(name, kind):
    """XLA's own count of temporaries: a path through the switch against the largest network."""
    space, path = kind.space, kind.path(kind.largest)
    images = jax.ShapeDtypeStruct((64, 32, 32, 3), jnp.float32)
    params, stats = supernet_initialization.init(space, NUM_CLASSES, 0)
    network = supernet.extract(space, params, stats, path, NUM_CLASSES)
    graph, weights, rest = nnx.split(network, nnx.Param, ...)

    def through_the_switch(params, stats, path, images):
        return jnp.sum(supernet.apply(space, params, stats, path, images, group=GROUP)[0] ** 2)

    def alone(weights, rest, images):
        return jnp.sum(nnx.merge(graph, weights, rest, copy=True)(images) ** 2)

    active = [supernet.gather(space, tree, path) for tree in (params, stats)]
    switch, plain = (
        jax.jit(jax.grad(function))
        .lower(*arguments, images)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for function, arguments in (
            (through_the_switch, (*active, jnp.asarray(path))),
            (alone, (weights, rest)),
        )
    )
    assert switch < (1.25 if name == "mbconv" else 1.5) * plain, (switch, plain)


def test_architecture_step_moves_alpha_alone_and_only_of_the_pair(kind, steps, state, batch):
    table = random_table(kind.space, 1)
    latency = LatencyModel.of(table)
    changes, metrics = steps.arch(state, batch, latency, jnp.float32(4), jnp.float32(0.1))
    assert set(changes) == {"alpha", "alpha_adam", "multiplier", "baseline", "skipped"}
    assert same_bits(changes["skipped"], state.skipped)
    alpha = changes["alpha"]
    moved = np.asarray(alpha != state.alpha)
    assert (moved.sum(1) <= 2).all() and moved.any() and kind.space.allowed[moved].all()
    p = sampling.probabilities(alpha, kind.space.allowed)
    assert float(metrics["expected_ms"]) == pytest.approx(float(latency.expected_ms(p)), rel=1e-6)
    assert float(metrics["latency_term"]) == pytest.approx(
        0.1 * (float(metrics["expected_ms"]) - 4) / 4, rel=1e-5
    )


@pytest.mark.parametrize("name", ["fused", "mixed"])  # MBConv's are in test_steps.py
@pytest.mark.parametrize("all_candidates", [False, True])
def test_gates_have_the_gradients_of_networks_written_out(all_candidates, name, state, batch):
    kind = KINDS[name]
    space, count = kind.space, len(kind.space.candidates)
    chosen = np.array(kind.paths[1:])
    if all_candidates:  # the active one first, then the others in order; skip is last
        others = [[i for i in range(count) if i != active] for active in chosen[0]]
        chosen = np.vstack([chosen[0], np.array(others).T]).astype(np.int32)
    params, stats = gathered(space, state, chosen)
    images = from_pixels(batch["image"], normalization=space.normalization)

    @jax.jit
    def ce(gates):
        logits = supernet.apply_gated(
            space, params, stats, jnp.asarray(chosen), gates, images, group=GROUP
        )
        return loss.cross_entropy(logits, batch["label"])

    value, gradient = jax.value_and_grad(ce)(jnp.zeros(chosen.shape))
    expected, gates = naive_gate_gradients(space, state, chosen, batch, GROUP)
    assert float(value) == pytest.approx(expected, abs=1e-5)
    # Of the others the gradient is not used.
    allowed = space.allowed[np.arange(len(space.blocks)), chosen]
    np.testing.assert_allclose(np.where(allowed, gradient, 0), gates, atol=2e-5)


def test_shared_initialisation_makes_all_mbconvs_one_function(images, batch):
    kind = KINDS["mbconv"]
    params, stats = supernet_initialization.init(kind.space, NUM_CLASSES, 0, "shared")
    _, passes = passes_of(kind, images, batch)
    reference, *others = (
        passes(params, stats, jnp.asarray(kind.path(text)))[1]
        for text in (
            "k3e2 k3e2 k3e2",
            "k5e3 k5e3 k5e3",
            "k3e3 k5e2 k5e3",
            "k5e2 - k3e3",
        )
    )
    for other in others:
        np.testing.assert_allclose(other, reference, atol=1e-4)
    assert float(jnp.std(reference)) > 1e-3


def test_shared_initialisation_makes_the_candidates_of_a_kind_one_function(images, batch):
    kind = KINDS["mixed"]
    params, stats = supernet_initialization.init(kind.space, NUM_CLASSES, 0, "shared")
    _, passes = passes_of(kind, images, batch)

    def of(text):
        return passes(params, stats, jnp.asarray(kind.path(text)))[1]

    # Blocks 1 and 2 have shortcuts: all their candidates, of any kind, start as the identity.
    for stem in ("k3e2", "f3e1"):
        for one in ("f3e1 k5e3", "f5e1 f3e3", "k3e2 -"):
            np.testing.assert_allclose(of(f"{stem} - -"), of(f"{stem} {one}"), atol=1e-4)
    assert float(jnp.abs(of("f3e1 - -") - of("f5e2 - -")).max()) > 1e-4
    drawn = params["runs"][1]["mbconv"]
    assert float(jnp.abs(drawn["project"]["kernel"]).max()) > 0.1
    drawn["project"]["scale"] = jnp.ones_like(drawn["project"]["scale"])
    np.testing.assert_allclose(of("k3e2 k3e2 -"), of("k3e2 k5e3 -"), atol=1e-4)


def test_shared_initialisation_makes_candidates_of_all_kinds_nearly_one_function(images, batch):
    """Without it, the outputs of two kinds at a block that changes the shape are unrelated."""
    kind = KINDS["mixed"]
    _, passes = passes_of(kind, images, batch, BATCH_NORM_GROUP)

    def correlations(initialisation, seed):
        weights = supernet_initialization.init(kind.space, NUM_CLASSES, seed, initialisation)
        logits = np.array(
            [
                passes(*weights, jnp.asarray(kind.path(f"{one} - -")))[1]
                for one in ("f3e1", "f5e2", "k3e2")
            ]
        )
        centered = (logits - logits.mean(1, keepdims=True)).reshape(3, -1)
        return np.corrcoef(centered)[np.triu_indices(3, 1)]

    shared, independent = (
        np.mean([correlations(one, seed) for seed in range(24)], 0)  # one varies by 0.2
        for one in ("shared", "independent")
    )
    assert shared.min() > 0.3 and abs(independent).max() < 0.3


def test_an_update_that_is_not_finite_changes_nothing_and_is_counted(kind, steps, state, batch):
    """A weight step and an α step from an infinite bias, whose losses and gradients are NaN."""
    bias = state.params["classifier"]["bias"]
    spoilt = dataclasses.replace(
        state,
        params=state.params
        | {"classifier": state.params["classifier"] | {"bias": jnp.full_like(bias, jnp.inf)}},
    )
    path = kind.paths[0]
    after, metrics = step(steps, spoilt, batch, path)
    again, metrics = step(steps, after, batch, path)
    for name in ("params", "stats", "momentum"):
        assert same_bits(getattr(again, name), getattr(spoilt, name))
    assert not np.isfinite(metrics["ce"])
    assert (again.step, metrics["skipped"], metrics["skipped_in_a_row"]) == (2, 2, 2)
    healed, metrics = step(steps, dataclasses.replace(again, params=state.params), batch, path)
    assert np.isfinite(metrics["ce"])
    assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (2, 0)
    latency = LatencyModel.of(random_table(kind.space, 1))
    changes, _ = steps.arch(spoilt, batch, latency, jnp.float32(3), jnp.float32(0.1))
    assert changes.pop("skipped") == (1, 0)
    for name, value in changes.items():
        assert same_bits(value, getattr(spoilt, name))


def test_the_same_seed_gives_the_same_supernet(kind):
    first, second, other = (
        search_state.init_state(kind.space, NUM_CLASSES, hyperparameters(), seed)
        for seed in (7, 7, 8)
    )
    assert same_bits(first, second)
    assert not same_bits(first.params, other.params)


def test_candidates_take_over_what_the_smallest_of_their_structure_has_learned(images):
    space = staged_space(
        "mixed",
        stem=4,
        first=4,
        widths=(6,),
        counts=(2,),
        strides=(2,),
        head=8,
        candidates=[["f5e1", "f3e1", "f3e2", "f5e3", "k5e3", "k3e2", "k3e3"]],
    )
    smallest = supernet_initialization.smallest(space)
    chosen = [[str(space.candidates[i]) for i in np.flatnonzero(row)] for row in smallest]
    assert chosen == [["f3e1", "f3e2", "k3e2"], ["-"]]

    rng = np.random.default_rng(0)
    params, stats = supernet_initialization.init(space, NUM_CLASSES, 0, "independent")
    # As if trained: statistics and biases as well. Padding is 0 and stays so.
    params, stats = jax.tree.map(
        lambda leaf: leaf * rng.uniform(0.5, 2, leaf.shape), (params, stats)
    )
    for stack in params["runs"][0]:
        for part, layer in params["runs"][0][stack].items():
            layer["bias"] = 0.3 * layer["scale"] * rng.standard_normal(layer["scale"].shape)
            layer = stats["runs"][0][stack][part]
            layer["mean"] = 0.3 * layer["variance"] * rng.standard_normal(layer["mean"].shape)
    shared = supernet_initialization.share(space, params, stats)
    assert same_bits(shared[0]["runs"][1], params["runs"][1])

    def outputs(weights, text):
        path = space.path(space.parse(text))
        network = supernet.extract(space, *weights, path, NUM_CLASSES)
        network.eval()
        running = network(images)
        network.train(batch_norm_group=GROUP)
        return running, network(images)

    for donor, others in (("f3e1", ["f5e1"]), ("f3e2", ["f5e3"]), ("k3e2", ["k5e3", "k3e3"])):
        learned = outputs((params, stats), f"{donor} -")
        np.testing.assert_array_equal(outputs(shared, f"{donor} -"), learned)
        for other in others:
            assert not np.allclose(outputs((params, stats), f"{other} -"), learned, atol=0.01)
            np.testing.assert_allclose(outputs(shared, f"{other} -"), learned, atol=1e-4)


def test_a_space_may_have_its_smallest_kernel_in_a_wide_candidate_alone(images):
    space = staged_space(
        "crossed",
        stem=4,
        first=4,
        widths=(6,),
        counts=(1,),
        strides=(2,),
        head=8,
        candidates=[["k5e2", "k3e3", "f5e2", "f3e3", "f5e1"]],
    )
    weights = supernet_initialization.init(space, NUM_CLASSES, 0, "shared")

    def logits(params, stats, text):
        path = space.path(space.parse(text))
        return supernet.extract(space, params, stats, path, NUM_CLASSES)(images)

    assert np.asarray(logits(*weights, "k5e2")).std() > 1e-3
    for one, other in (("k5e2", "k3e3"), ("f5e2", "f3e3")):
        np.testing.assert_allclose(logits(*weights, one), logits(*weights, other), atol=1e-4)
    shared = supernet_initialization.share(space, *weights)
    np.testing.assert_allclose(logits(*shared, "k3e3"), logits(*weights, "k5e2"), atol=1e-4)
