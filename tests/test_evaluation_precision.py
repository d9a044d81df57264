"""Evaluation is float32 on every platform, in the programs as they are lowered.

By default a TPU multiplies float32 in bfloat16, and an A100 in TF32.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnas import (
    functional,
    parity,
    search_state,
    search_steps,
    supernet_initialization,
    train_steps,
)
from jaxnas.network import Network, network_of
from tests.conftest import NUM_CLASSES, SMALL

PLATFORMS = ("cpu", "cuda", "tpu")
PATH = np.array([3, 0, 4, 2, 1], np.int32)
IMAGES = jax.ShapeDtypeStruct((8, 16, 16, 3), jnp.uint8)
BATCH = {
    "image": IMAGES,
    "label": jax.ShapeDtypeStruct((8,), jnp.int32),
    "mask": jax.ShapeDtypeStruct((8,), jnp.float32),
}


def products(step, platform: str, *arguments) -> list[str]:
    """The lines of the lowered program that multiply matrices or convolve."""
    text = step.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    return re.findall(r"^.*stablehlo\.(?:dot_general|convolution).*$", text, re.MULTILINE)


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(network_of(SMALL, SMALL.arch(PATH), NUM_CLASSES), rng=np.random.default_rng(0))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_evaluation_and_parity_are_float32(network, platform):
    _, params, stats = functional.split(network, None)
    trained = train_steps.make_steps(network, train_steps.Recipe(steps=10))
    searched = search_steps.make_steps(SMALL, search_state.Hyperparameters())
    graph, state = nnx.split(network)
    programs = {
        "network": products(trained.evaluate, platform, params, stats, BATCH),
        "supernet": products(
            searched.evaluate,
            platform,
            *supernet_initialization.init(SMALL, NUM_CLASSES, 0),
            PATH,
            BATCH,
        ),
        "parity": products(parity._float32_logits, platform, graph, state, IMAGES),
    }
    for name, lines in programs.items():
        assert len(lines) > 5, name
        for line in lines:
            assert line.count("HIGHEST") == 2, (name, line)


def test_training_is_left_to_the_platform(network):
    recipe = train_steps.Recipe(steps=10)
    state = train_steps.init_state(network, recipe, 0)
    batch = {key: BATCH[key] for key in ("image", "label")}
    lines = products(train_steps.make_steps(network, recipe).train, "tpu", state, batch)
    assert lines and not any("HIGHEST" in line for line in lines)
