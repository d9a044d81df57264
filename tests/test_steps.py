"""The architecture step whole, against the same composed by loops over networks written out."""

import dataclasses
from typing import NamedTuple

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
)
from jaxnas.batch_norm import BATCH_NORM_GROUP
from jaxnas.finite import Skipped
from jaxnas.latency import LatencyModel
from jaxnas.pixels import from_pixels
from jaxnas.space import Space, staged_space
from tests.conftest import NUM_CLASSES, SMALL, make_table, random_table, same_bits
from tests.kinds import KINDS, hyperparameters

TARGET_MS = 4.0


def naive_gate_gradients(space, state, chosen, batch, group=BATCH_NORM_GROUP):
    """CE and ⟨∂CE/∂y, o_k(x)⟩ of k paths [k, blocks], from networks written out block by block.

    ∂CE/∂y is the gradient of a perturbation added behind a block; o_k(x) is the candidate's own
    module, at its own size, at that block's input. A candidate that is not allowed has 0.
    """
    blocks, skip = len(space.blocks), len(space.candidates) - 1
    allowed = space.allowed[np.arange(blocks), chosen]
    written = allowed & (chosen != skip)  # skip is written out below
    networks = []
    for row, own in zip(chosen, written, strict=True):
        usable = np.where(own, row, space.allowed.argmax(1))  # any convolution
        network = supernet.extract(space, state.params, state.stats, usable, NUM_CLASSES)
        network.train(batch_norm_group=group)
        networks.append(network)

    def forward(perturbations):
        modules = [nnx.clone(network) for network in networks]  # their statistics change inside
        x = modules[0].stem(from_pixels(batch["image"], normalization=space.normalization))
        fixed = len(modules[0].blocks) - blocks
        for first in modules[0].blocks[:fixed]:
            x = first(x)
        outputs = []
        for block in range(blocks):
            each = {
                k: modules[k].blocks[fixed + block](x) if written[k, block] else x
                for k in range(len(chosen))
                if allowed[k, block]
            }
            outputs.append(each)
            x = each[0] + perturbations[block]
        return loss.cross_entropy(modules[0].classifier(x), batch["label"]), outputs

    shapes = [each[0] for each in jax.eval_shape(forward, [0.0] * blocks)[1]]
    zeros = [np.zeros(shape.shape, np.float32) for shape in shapes]
    (ce, outputs), gradients = jax.device_get(
        jax.jit(jax.value_and_grad(forward, has_aux=True))(zeros)
    )
    gates = np.array(
        [
            [np.sum(g * o[k]) if k in o else 0.0 for g, o in zip(gradients, outputs, strict=True)]
            for k in range(len(chosen))
        ]
    )
    return float(ce), gates


def naive_alpha_gradient(space, alpha, logits, chosen, gates, skips_left_alone=True):
    """∂L/∂α_i = Σ_j ∂L/∂g_j p_j (δ_ij − p_i), p the softmax of the chosen logits, loop by loop."""
    gradient = np.zeros_like(alpha)
    for block in range(len(space.blocks)):
        members = [c for c in chosen[:, block] if space.allowed[block, c]]
        if skips_left_alone and space.candidates[members[0]].is_skip:
            continue
        exp = np.exp(logits[block, members] - logits[block, members].max())
        p = exp / exp.sum()
        for i in range(len(members)):
            for j in range(len(members)):
                gradient[block, members[i]] += gates[j, block] * p[j] * ((i == j) - p[i])
    return gradient


def naive_latency(control, ce, expected_ms, weight):
    """∂L/∂CE and ∂L/∂E[LAT]."""
    if control == "mul_log":
        ratio = np.log(expected_ms) / np.log(TARGET_MS)
        return ratio**weight, (
            ce * weight * ratio ** (weight - 1) / (expected_ms * np.log(TARGET_MS))
        )
    return 1.0, weight / TARGET_MS


def step_key(state):
    return jax.random.fold_in(
        jax.random.fold_in(jax.random.wrap_key_data(state.key), 1), state.step
    )


def first_adam_step(alpha, gradient, rate=0.05):
    """β = (0, 0.999): the gradient over its own root mean square."""
    return alpha - rate * gradient / (np.abs(gradient) + 1e-8)


# Each of the estimators and each of the controls, in three compilations beside the common one; and
# the common ones on the other kinds of blocks.
COMBINATIONS = [
    (SMALL, "two", "fixed"),
    (SMALL, "full", "dual"),
    (SMALL, "gumbel", "mul_log"),
    (SMALL, "reinforce", "fixed"),
    (KINDS["fused"].space, "two", "fixed"),
    (KINDS["mixed"].space, "two", "fixed"),
]


class Combination(NamedTuple):
    """An estimator and a latency control in a space, compiled, with a new search's state."""

    space: Space
    estimator: str
    control: str
    steps: search_steps.Steps
    state: search_state.SearchState


@pytest.fixture(
    scope="module",
    params=COMBINATIONS,
    ids=[f"{space.name}-{estimator}-{control}" for space, estimator, control in COMBINATIONS],
)
def combination(request, small_steps) -> Combination:
    space, estimator, control = request.param
    hyper = hyperparameters(estimator=estimator, latency_control=control, gumbel_temperature=0.7)
    return Combination(
        *request.param,
        small_steps if request.param == COMBINATIONS[0] else search_steps.make_steps(space, hyper),
        search_state.init_state(space, NUM_CLASSES, hyper, 0),
    )


def arch(compiled, state, batch, table, weight):
    return compiled.arch(
        state, batch, LatencyModel.of(table), jnp.float32(TARGET_MS), jnp.float32(weight)
    )


def drawn_by(space, estimator, state):
    """The candidates of the step, the active ones first, and the logits of their p."""
    key, alpha = step_key(state), np.asarray(state.alpha, np.float64)
    if estimator == "two":
        return np.asarray(sampling.sample_pair(key, state.alpha, space.allowed)), alpha
    if estimator == "full":
        active, logits = np.asarray(sampling.sample_path(key, state.alpha, space.allowed)), alpha
    else:
        noise = np.asarray(jax.random.gumbel(key, alpha.shape), np.float64)
        logits = alpha + noise
        active = np.where(space.allowed, logits, -np.inf).argmax(1)
    others = [[c for c in range(len(space.candidates)) if c != a] for a in active]
    return np.concatenate([active[None], np.array(others).T]), logits


def naive_reinforce(space, state, batch, table, weight):
    """The gradient and the mean reward of ten networks, one at a time."""
    gradient, rewards, scores = np.zeros(state.alpha.shape), [], []
    p = np.asarray(sampling.probabilities(state.alpha, space.allowed), np.float64)
    for key in jax.random.split(step_key(state), 10):
        path = np.asarray(sampling.sample_path(key, state.alpha, space.allowed))
        network = supernet.extract(space, state.params, state.stats, path, NUM_CLASSES)
        network.train()
        logits = np.asarray(network(from_pixels(batch["image"], normalization=space.normalization)))
        top1 = np.mean(logits.argmax(1) == batch["label"])
        rewards.append(top1 * (TARGET_MS / table.path_ms(path)) ** weight)
        scores.append(np.eye(len(space.candidates))[path] - p)
    for reward, score in zip(rewards, scores, strict=True):
        gradient -= (reward - np.mean(rewards)) * score / 10
    return gradient, np.mean(rewards)


def test_architecture_step_is_the_formulas_composed(combination, batch):
    """Sampling, gates, latency, α's gradient, Adam's first step and rescaling, all at once."""
    space, estimator, control, compiled, state = combination
    table, weight = random_table(space, 1), 0.3
    changes, metrics = arch(compiled, state, batch, table, weight)
    old = np.asarray(state.alpha, np.float64)
    p = np.asarray(sampling.probabilities(state.alpha, space.allowed), np.float64)
    finite_ms = np.where(space.allowed, table.candidate_ms, 0)
    if estimator == "reinforce":
        gradient, reward = naive_reinforce(space, state, batch, table, weight)
        assert float(metrics["reward"]) == pytest.approx(reward, rel=1e-5)
        assert float(changes["baseline"]) == pytest.approx(reward, rel=1e-5)
        expected = first_adam_step(old, gradient)
    else:
        chosen, logits = drawn_by(space, estimator, state)
        ce, gates = naive_gate_gradients(space, state, chosen, batch)
        expected_ms = sum(table.fixed_ms.values()) + (p * finite_ms).sum()
        excess = (expected_ms - TARGET_MS) / TARGET_MS
        if control == "dual":
            weight += loss.DUAL_DAMPING * np.clip(excess, -loss.DUAL_BAND, loss.DUAL_BAND)
        by_ce, by_ms = naive_latency(control, ce, expected_ms, weight)
        gates = by_ce * gates + by_ms * finite_ms[np.arange(len(space.blocks)), chosen]
        temperature = 0.7 if estimator == "gumbel" else 1.0
        gradient = (
            naive_alpha_gradient(
                space, old, logits / temperature, chosen, gates, estimator != "gumbel"
            )
            / temperature
        )
        expected = first_adam_step(old, gradient)
        if estimator == "two":
            for block, members in enumerate(chosen.T):
                expected[block, members] += np.log(
                    np.exp(old[block, members]).sum() / np.exp(expected[block, members]).sum()
                )
        assert float(metrics["arch_ce"]) == pytest.approx(ce, rel=1e-5)
        assert float(metrics["latency_weight"]) == pytest.approx(weight, rel=1e-5)
    # A gradient of nearly 0 has a sign that rounding decides.
    sure = np.abs(gradient) > 1e-4 * np.abs(gradient).max()
    np.testing.assert_allclose(np.asarray(changes["alpha"])[sure], expected[sure], atol=2e-5)
    assert sure.sum() > len(space.blocks)
    assert (np.abs(changes["alpha"] - old).max(1) > 0.01).sum() > len(space.blocks) // 2


def test_a_block_s_alpha_has_an_adam_of_its_own_that_rests_where_skip_is_active(
    small_steps, small_state, batch
):
    """As in the official code, where each block's α is a parameter that then has no gradient."""
    table, state, rate = random_table(SMALL, 1), small_state, 0.05
    square, steps = np.zeros(state.alpha.shape), np.zeros(len(SMALL.blocks), int)
    for step in range(12):
        state = dataclasses.replace(state, step=jnp.int32(step))  # which draws the pair
        pair = np.asarray(sampling.sample_pair(step_key(state), state.alpha, SMALL.allowed))
        changes, _ = arch(small_steps, state, batch, table, 0.1)
        gradients = np.asarray(changes["alpha_adam"][0].mu, np.float64)  # β₁ is 0
        for block, (active, other) in enumerate(pair.T):
            old, new = (np.asarray(a[block], np.float64) for a in (state.alpha, changes["alpha"]))
            if SMALL.candidates[active].is_skip:
                np.testing.assert_array_equal(new, old)
                continue
            steps[block] += 1
            square[block] = 0.999 * square[block] + 0.001 * gradients[block] ** 2
            mean = square[block] / (1 - 0.999 ** steps[block])
            expected = old - rate * gradients[block] / (np.sqrt(mean) + 1e-8)
            both = [active, other]
            expected[both] += np.log(np.exp(old[both]).sum() / np.exp(expected[both]).sum())
            np.testing.assert_allclose(new, expected, atol=2e-5)
        state = dataclasses.replace(state, **changes)
    assert np.asarray(state.alpha_adam[0].count)[:, 0].tolist() == steps.tolist()
    assert steps.min() < steps.max() == 12  # a block that allows no skip always moves


@pytest.mark.parametrize("height", [60.0, -60.0])
def test_architecture_step_is_finite_at_extreme_alpha(combination, batch, height):
    space, _, control, compiled, new = combination
    table, path = random_table(space, 2), space.random_path(np.random.default_rng(0))
    for shape in (np.ones(space.allowed.shape), np.eye(len(space.candidates))[path]):
        state = dataclasses.replace(new, alpha=jnp.asarray(height * shape, jnp.float32))
        for _ in range(2):
            changes, metrics = arch(compiled, state, batch, table, 0.1)
            state = dataclasses.replace(state, **changes)
            assert np.isfinite(state.alpha).all() and np.isfinite(state.multiplier)
            assert all(np.isfinite(value) for value in metrics.values()), metrics


def test_an_architecture_step_that_is_not_finite_is_left_out_and_counted(combination, batch):
    """The count in a row is the weights' alone."""
    space, _, _, compiled, new = combination
    table = random_table(space, 2)
    counts = Skipped(jnp.int32(3), jnp.int32(2))
    state = dataclasses.replace(new, skipped=counts)
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), state.params)
    changes, metrics = arch(compiled, dataclasses.replace(state, params=broken), batch, table, 0.1)
    assert [int(count) for count in changes["skipped"]] == [4, 2]
    assert [int(metrics[name]) for name in Skipped._fields] == [4, 2]
    np.testing.assert_array_equal(changes["alpha"], state.alpha)
    changes, _ = arch(compiled, state, batch, table, 0.1)
    assert [int(count) for count in changes["skipped"]] == [3, 2]
    assert not np.array_equal(changes["alpha"], state.alpha)


def test_architecture_step_compiles_once_and_repeats_to_the_bit(combination, batch):
    space, _, _, compiled, state = combination
    table = random_table(space, 3)
    for _ in range(3):
        first, second = (arch(compiled, state, batch, table, 0.1)[0] for _ in range(2))
        assert same_bits(first, second)
        state = dataclasses.replace(state, **first)
    assert compiled.arch._cache_size() == 1


def test_architecture_steps_after_one_weight_step_draw_other_candidates(
    small_steps, small_state, batch
):
    """The first draws what it did alone."""
    table = LatencyModel.of(random_table(SMALL, 3))
    constants = (table, jnp.float32(4), jnp.float32(0.1))
    alone = small_steps.arch(small_state, batch, *constants)[0]["alpha"]
    drawn = [
        small_steps.arch(small_state, batch, *constants, jnp.int32(draw))[0]["alpha"]
        for draw in range(4)
    ]
    assert same_bits(drawn[0], alone)
    moved = {tuple(np.flatnonzero(alpha - small_state.alpha)) for alpha in drawn}
    assert len(moved) > 1


def test_gates_of_more_candidates_keep_their_outputs_and_no_more():
    """XLA's count of temporaries: an output a block for each, and not the candidate's insides."""
    space = staged_space(
        "two_blocks",
        stem=4,
        first=4,
        widths=(4,),
        counts=(2,),
        strides=(1,),
        head=8,
        kernels=(3,),
        expansions=(5, 6),
    )
    images = jax.ShapeDtypeStruct((64, 32, 32, 3), jnp.float32)
    params, stats = supernet_initialization.init(space, NUM_CLASSES, 0)
    temporaries = []
    for k in (2, 3):
        choices = sampling.all_candidates(jnp.zeros(2, jnp.int32), 3)[:k]

        def logits(gates, images, choices=choices):
            active = (supernet.gather(space, tree, choices) for tree in (params, stats))
            return jnp.sum(
                supernet.apply_gated(space, *active, choices, gates, images, group=BATCH_NORM_GROUP)
                ** 2
            )

        program = jax.jit(jax.grad(logits)).lower(jnp.zeros(choices.shape), images).compile()
        temporaries.append(program.memory_analysis().temp_size_in_bytes)
    output_of_both_blocks = 4 * 64 * 16 * 16 * 4 * 2
    added = temporaries[1] - temporaries[0]
    assert 0.9 * output_of_both_blocks < added < 1.6 * output_of_both_blocks, temporaries


def test_bf16_searches_as_f32_does_and_keeps_a_float32_state(batch):
    space = staged_space(
        "two",
        stem=4,
        first=4,
        widths=(8,),
        counts=(3,),
        strides=(2,),
        head=8,
        kernels=(3, 5),
        expansions=(2,),
    )
    path = jnp.asarray(space.random_path(np.random.default_rng(0)))
    latency = LatencyModel.of(random_table(space, 0))
    losses, arch_ce = {}, {}
    for name in ("f32", "bf16"):
        compiled = search_steps.make_steps(space, hyperparameters(precision=name))
        state = search_state.init_state(space, NUM_CLASSES, search_state.Hyperparameters(), 0)
        changes, metrics = compiled.arch(
            state, batch, latency, jnp.float32(TARGET_MS), jnp.float32(0.1)
        )
        arch_ce[name], state = float(metrics["arch_ce"]), dataclasses.replace(state, **changes)
        values = []
        for _ in range(30):
            state, metrics = compiled.weight(state, batch, path, jnp.float32(0.05))
            values.append(float(metrics["ce"]))
        losses[name] = values
        trees = (state.params, state.stats, state.momentum, state.alpha)
        assert {leaf.dtype for leaf in jax.tree.leaves(trees)} == {np.dtype(np.float32)}
    assert losses["bf16"] != losses["f32"]
    assert losses["bf16"][0] == pytest.approx(losses["f32"][0], rel=0.01)
    assert arch_ce["bf16"] == pytest.approx(arch_ce["f32"], rel=0.01)
    for values in losses.values():
        assert values[-1] < 0.9 * values[0]


def test_gates_in_bf16_have_nearly_float32_s_gradient(batch):
    space = staged_space(
        "gates",
        stem=4,
        first=4,
        widths=(4,),
        counts=(2,),
        strides=(1,),
        head=8,
        kernels=(3,),
        expansions=(2, 3),
    )
    choices = np.array([[0, 1], [1, 0]], np.int32)
    slices = [
        supernet.gather(space, tree, choices)
        for tree in supernet_initialization.init(space, NUM_CLASSES, 0, "independent")
    ]

    @jax.jit
    def gradient(images):
        return jax.grad(
            lambda gates: loss.cross_entropy(
                supernet.apply_gated(
                    space, *slices, choices, gates, images, group=BATCH_NORM_GROUP
                ),
                batch["label"],
            )
        )(jnp.zeros(choices.shape))

    exact, rounded = (
        np.asarray(gradient(from_pixels(jnp.asarray(batch["image"]), dtype)))
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert rounded.dtype == np.float32 and np.any(rounded != exact)
    assert np.linalg.norm(rounded - exact) < 0.25 * np.linalg.norm(exact)


@pytest.mark.parametrize("dear_kernel", [3, 5])
def test_the_latency_term_makes_the_search_faster(small_steps, small_state, batch, dear_kernel):
    """λ = 0 against the default λ, same seed, with tables that prefer opposite kernels."""
    ms = np.array(
        [[0.0 if c.is_skip else 3.0 if c.kernel == dear_kernel else 0.3 for c in SMALL.candidates]]
        * len(SMALL.blocks)
    )
    table = make_table(SMALL, ms)
    latency = LatencyModel.of(table)
    ends = {}
    for weight in (0.0, 0.1):
        state = jax.tree.map(jnp.array, small_state)
        for _ in range(60):
            state, _ = small_steps.weight(
                state, batch, small_steps.sample(state), jnp.float32(0.01)
            )
            changes, _ = small_steps.arch(
                state, batch, latency, jnp.float32(4.0), jnp.float32(weight)
            )
            state = dataclasses.replace(state, **changes)
        p = sampling.probabilities(state.alpha, SMALL.allowed)
        ends[weight] = float(latency.expected_ms(p))
    assert ends[0.1] < 0.9 * ends[0.0], ends
