"""Spaces of each kind of block, small enough to compile in seconds, and their compiled steps."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np

from jaxnas import search_state, search_steps
from jaxnas.pixels import Normalization
from jaxnas.space import Space, staged_space
from tests.conftest import NUM_CLASSES


class Kind(NamedTuple):
    """A space, three of its paths in which every candidate is sampled, and its largest path."""

    space: Space
    texts: tuple[str, ...]
    largest: str

    @property
    def paths(self) -> list[np.ndarray]:
        return [self.path(text) for text in self.texts]

    def path(self, text: str) -> np.ndarray:
        return self.space.path(self.space.parse(text))


# One run of three equal blocks, each of which may be skipped: one block to compile.
one_run = functools.partial(
    staged_space, stem=4, first=4, widths=(4,), counts=(3,), strides=(1,), head=8
)
KINDS = {
    "mbconv": Kind(
        one_run("mbconv", kernels=(3, 5), expansions=(2, 3)),
        ("k3e2 k3e3 k5e2", "k5e3 - k3e3", "k3e3 - -"),
        "k5e3 k5e3 k5e3",
    ),
    "fused": Kind(
        one_run("fused", candidates=[["f3e2", "f3e1", "f5e3", "f1e1"]], first_block="f3e1"),
        ("f3e1 f3e2 f5e3", "f5e3 - f1e1", "f3e2 f1e1 f3e1"),
        "f5e3 f5e3 f5e3",
    ),
    # Runs of one block and of two, with candidates of all kinds; no block allows all. Not the usual
    # first layers, padding and normalization, and ReLU.
    "mixed": Kind(
        dataclasses.replace(
            staged_space(
                "mixed",
                stem=4,
                first=4,
                widths=(6, 6),
                counts=(1, 2),
                strides=(2, 1),
                head=8,
                candidates=[["f3e1", "f5e2", "k3e2"], ["k3e2", "f3e1", "f3e3", "k5e3", "f5e1"]],
                first_block="-",
                stem_stride=1,
                activation="relu",
                padding="same",
            ),
            normalization=Normalization(127, 128),
        ),
        ("f5e2 f3e1 k5e3", "k3e2 f3e3 f5e1", "f3e1 k3e2 -"),
        "f5e2 f3e3 f3e3",
    ),
}


def hyperparameters(**changes) -> search_state.Hyperparameters:
    return search_state.Hyperparameters(alpha_learning_rate=0.05, **changes)


@functools.cache
def steps_of(name: str) -> search_steps.Steps:
    return search_steps.make_steps(KINDS[name].space, hyperparameters())


def state_of(name: str) -> search_state.SearchState:
    return search_state.init_state(KINDS[name].space, NUM_CLASSES, hyperparameters(), 0)


def copy(state: search_state.SearchState) -> search_state.SearchState:
    """A copy for a step that consumes it."""
    return jax.tree.map(jax.numpy.array, state)
