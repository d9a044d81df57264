"""Fused and MBConv candidates in one block: through supernet, steps, export, space files."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnas import export, loss, search_steps, supernet
from jaxnas.latency import LatencyModel
from jaxnas.network import Network, network_of
from jaxnas.space import format_arch, staged_space
from jaxnas.space_file import find_space
from tests.conftest import NUM_CLASSES, random_table, same_bits
from tests.test_steps import naive_gate_gradients

# Runs of one block and of two, with candidates of all kinds; no block allows all.
MIXED = staged_space(
    "mixed",
    stem=4,
    first=4,
    widths=(6, 6),
    counts=(1, 2),
    strides=(2, 1),
    head=8,
    candidates=[["f3e1", "f5e2", "k3e2"], ["k3e2", "f3e1", "f3e3", "k5e3", "f5e1"]],
    first_block="f3e1",
)
INDEX = {str(candidate): i for i, candidate in enumerate(MIXED.candidates)}
TEXTS = ["f5e2 f3e1 k5e3", "k3e2 f3e3 f5e1", "f3e1 k3e2 -"]
PATHS = [MIXED.path(MIXED.parse(text)) for text in TEXTS]


@pytest.fixture(scope="module")
def steps() -> search_steps.Steps:
    return search_steps.make_steps(MIXED, search_steps.Hyperparameters(alpha_learning_rate=0.05))


@pytest.fixture
def state() -> search_steps.SearchState:
    hyper = search_steps.Hyperparameters(initialisation="independent")
    return search_steps.init_state(MIXED, NUM_CLASSES, hyper, 0)


def gathered(state, path):
    return [supernet.gather(MIXED, tree, path) for tree in (state.params, state.stats)]


def test_blocks_allow_what_their_stage_does():
    assert list(INDEX) == ["f3e1", "f5e2", "k3e2", "f3e3", "k5e3", "f5e1", "-"]
    assert MIXED.allowed.tolist() == [
        [True, True, True, False, False, False, False],
        [True, False, True, True, True, True, True],
        [True, False, True, True, True, True, True],
    ]
    for text in TEXTS:
        assert format_arch(MIXED.parse(text)) == text
    with pytest.raises(ValueError, match="block00: f3e3 is not allowed in this block, .* f3e1 f5"):
        MIXED.parse("f3e3 f3e1 -")
    with pytest.raises(ValueError, match="block01: unknown token 'f7e2'"):
        MIXED.parse("f3e1 f7e2 -")


@pytest.fixture(scope="module")
def passes(images, batch):
    """Logits in either mode and a loss's gradients, each one program for all paths."""

    def logits(params, stats, path, train):
        active = supernet.gather(MIXED, params, path), supernet.gather(MIXED, stats, path)
        return supernet.apply(MIXED, *active, path, images, train=train)[0]

    def ce(params, stats, path):
        return loss.cross_entropy(logits(params, stats, path, True), batch["label"])

    return jax.jit(logits, static_argnums=3), jax.jit(jax.grad(ce))


@pytest.mark.parametrize("path", PATHS, ids=TEXTS)
def test_a_path_computes_and_learns_what_its_network_does(path, passes, state, batch, images):
    """Logits in both modes; every weight's gradient, against plain differentiation."""
    logits, gradients = passes
    network = supernet.extract(MIXED, state.params, state.stats, path, NUM_CLASSES)
    for train in (False, True):
        (network.train if train else network.eval)()
        graph, weights, rest = nnx.split(network, nnx.Param, ...)

        def alone(weights, rest, graph=graph):
            return nnx.merge(graph, weights, rest, copy=True)(images)

        mine = logits(state.params, state.stats, jnp.asarray(path), train)
        np.testing.assert_allclose(mine, jax.jit(alone)(weights, rest), atol=2e-5)

    def network_loss(weights):
        return loss.cross_entropy(alone(weights, rest), batch["label"])

    expected = jax.tree.leaves(jax.jit(jax.grad(network_loss))(weights))
    mine = gradients(state.params, state.stats, jnp.asarray(path))
    # As a network of gradients: every leaf of the path, at its own size.
    got = supernet.extract(MIXED, mine, state.stats, path, NUM_CLASSES)
    leaves = jax.tree.leaves(nnx.state(got, nnx.Param))
    assert len(leaves) == len(expected) > 15
    for a, b in zip(leaves, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    total = sum(float(jnp.sum(abs(leaf))) for leaf in jax.tree.leaves(mine))
    assert total == pytest.approx(sum(float(jnp.sum(abs(b))) for b in expected), rel=1e-4)


def test_what_is_not_sampled_keeps_its_bits_and_one_program_serves_all_paths(steps, state, batch):
    trace = jax.tree.map(lambda p: jnp.full_like(p, 0.01), state.params)
    momentum = state.momentum[1]._replace(trace=trace)
    state = dataclasses.replace(state, momentum=(state.momentum[0], momentum))
    latency = LatencyModel.of(random_table(MIXED, 0))
    for path in PATHS:
        before = jax.tree.map(jnp.array, (state.params, state.stats, state.momentum[1].trace))
        rates = jnp.float32(0.05), jnp.float32(0.9)
        state, _ = steps.weight(state, batch, jnp.asarray(path), *rates)
        changes, _ = steps.arch(state, batch, latency, jnp.float32(4.0), jnp.float32(0.1))
        state = dataclasses.replace(state, **changes)
        after = (state.params, state.stats, state.momentum[1].trace)
        for tree, new in zip(before, after, strict=True):
            # What the path's slices do not cover is as it was, to the bit.
            undone = supernet.scatter(MIXED, new, supernet.gather(MIXED, tree, path), path)
            assert same_bits(undone, tree) and not same_bits(new, tree)
    assert steps.weight._cache_size() == 1 and steps.arch._cache_size() == 1


@pytest.mark.parametrize("count", [2, len(MIXED.candidates)])
def test_gates_have_the_gradients_of_networks_written_out(count, state, batch, images):
    chosen = np.array([PATHS[1], PATHS[2]])
    if count > 2:  # the active one first, then the others in order; skip is last
        others = [[i for i in range(len(MIXED.candidates)) if i != active] for active in PATHS[1]]
        chosen = np.vstack([PATHS[1], np.array(others).T]).astype(np.int32)
    params, stats = gathered(state, chosen)

    @jax.jit
    def ce(gates):
        logits = supernet.apply_gated(MIXED, params, stats, jnp.asarray(chosen), gates, images)
        return loss.cross_entropy(logits, batch["label"])

    value, gradient = jax.value_and_grad(ce)(jnp.zeros(chosen.shape))
    expected, gates = naive_gate_gradients(MIXED, state, chosen, batch)
    assert float(value) == pytest.approx(expected, abs=1e-5)
    allowed = MIXED.allowed[np.arange(3), chosen]  # of the others the gradient is not used
    np.testing.assert_allclose(np.where(allowed, gradient, 0), gates, atol=2e-5)


def test_memory_is_of_one_candidate_and_not_of_all():
    images = jax.ShapeDtypeStruct((64, 32, 32, 3), jnp.float32)
    params, stats = supernet.init(MIXED, NUM_CLASSES, 0)
    path = MIXED.path(MIXED.parse("f5e2 f3e3 f3e3"))
    network = supernet.extract(MIXED, params, stats, path, NUM_CLASSES)
    graph, weights, rest = nnx.split(network, nnx.Param, ...)

    def through_the_switch(params, stats, path, images):
        return jnp.sum(supernet.apply(MIXED, params, stats, path, images, train=True)[0] ** 2)

    def alone(weights, rest, images):
        return jnp.sum(nnx.merge(graph, weights, rest, copy=True)(images) ** 2)

    active = supernet.gather(MIXED, params, path), supernet.gather(MIXED, stats, path)
    switch, plain = (
        jax.jit(jax.grad(function)).lower(*arguments, images).compile().memory_analysis()
        for function, arguments in (
            (through_the_switch, (*active, jnp.asarray(path))),
            (alone, (weights, rest)),
        )
    )
    assert switch.temp_size_in_bytes < 1.5 * plain.temp_size_in_bytes


def test_shared_initialisation_makes_the_candidates_of_a_kind_one_function(passes):
    params, stats = supernet.init(MIXED, NUM_CLASSES, 0, "shared")

    def of(text):
        return passes[0](params, stats, jnp.asarray(MIXED.path(MIXED.parse(text))), True)

    # Blocks 1 and 2 have shortcuts: all their candidates, of any kind, start as the identity.
    for stem in ("k3e2", "f3e1"):
        for one in ("f3e1 k5e3", "f5e1 f3e3", "k3e2 -"):
            np.testing.assert_allclose(of(f"{stem} - -"), of(f"{stem} {one}"), atol=1e-4)
    assert float(jnp.abs(of("f3e1 - -") - of("f5e2 - -")).max()) > 1e-4
    drawn = params["runs"][1]["mbconv"]
    assert float(jnp.abs(drawn["project"]["kernel"]).max()) > 0.1
    drawn["project"]["scale"] = jnp.ones_like(drawn["project"]["scale"])
    np.testing.assert_allclose(of("k3e2 k3e2 -"), of("k3e2 k5e3 -"), atol=1e-4)


def test_a_mixed_network_is_exported_with_its_names(tmp_path):
    spec = network_of(MIXED, MIXED.parse(TEXTS[0]), NUM_CLASSES)
    network = Network(spec, rng=np.random.default_rng(0))
    model = export.to_onnx(network, 32)
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert names == [
        "stem/conv",
        "first/dense",
        "block00/dense",
        "block00/project",
        "block01/dense",
        "block02/expand",
        "block02/depthwise",
        "block02/project",
        "head/conv",
    ]
    export.save(model, tmp_path / "m.onnx", tmp_path / "m.xml")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    assert export.parity(network, tmp_path / "m.onnx", tmp_path / "m.xml", pixels).holds


STAGES = {"stem": 4, "first": 4, "widths": [6, 6], "counts": [1, 2], "strides": [2, 1], "head": 8}
CANDIDATES = [["f3e1", "f5e2", "k3e2"], ["k3e2", "f3e1", "f3e3", "k5e3", "f5e1"]]


def test_a_json_file_gives_candidates_by_stage(tmp_path):
    file = tmp_path / "mixed.json"
    document = {**STAGES, "candidates": CANDIDATES, "first_block": "f3e1"}
    file.write_text(json.dumps(document))
    assert dataclasses.replace(find_space(str(file)), name="mixed") == MIXED
    file.write_text(json.dumps({**STAGES, "candidates": [["k5e6", "f3e4"]]}))
    found = find_space(str(file))
    assert format_arch(found.candidates) == "k5e6 f3e4 -" and str(found.first) == "k3e1"
    assert found.allowed.sum() == 3 * 2 + 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": [["f3e4"]] * 3}, "candidates are given for 3 stages of 2"),
        ({"candidates": [["f4e2"]]}, "'f4e2' has kernel 4"),
        ({"candidates": [["k3e1"]]}, "'k3e1' has kernel 3 and expansion 1"),
        ({"candidates": [["f3e0"]]}, "'f3e0' has kernel 3 and expansion 0"),
        ({"candidates": [["k3e6", "-"]]}, "a stage's candidates are k3e6 -"),
        ({"candidates": [["k3e6", "k3e6"]]}, "give each candidate once"),
        ({"candidates": [[]]}, "a stage's candidates are none"),
        ({"candidates": [["mb3"]]}, "'mb3' is no candidate: give k and f"),
        ({"candidates": ["k3e6"]}, "candidates is .'k3e6'.; give first_block as text"),
        ({"candidates": [[3]]}, "candidates is"),
        ({"candidates": []}, "candidates are given for 0 stages"),
        ({"candidates": [["k3e6"]], "kernels": [3]}, "has candidates beside kernels"),
        ({"first_block": "f3e4"}, "the first block is 'f3e4'; give one of k3e1, f3e1"),
        ({"first_block": 3}, "first_block is 3"),
    ],
)
def test_refuses_candidates_that_make_no_space(change, message, tmp_path):
    file = tmp_path / "space.json"
    file.write_text(json.dumps({**STAGES, **change}))
    with pytest.raises(ValueError, match=message):
        find_space(str(file))
