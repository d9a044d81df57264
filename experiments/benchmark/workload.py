"""Workloads of the benchmark: the steps of a search at one size, and static networks."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import parallel, search_state, search_steps, train_steps
from jaxnas.latency import LatencyModel
from jaxnas.network import Network, NetworkSpec, block_of, network_of
from jaxnas.pixels import Precision
from jaxnas.space import SKIP, Block, Candidate, Space
from jaxnas.space_file import find_space

LEARNING_RATE = 0.01
TARGET_MS, LATENCY_WEIGHT = 17.2, 0.1


@dataclasses.dataclass(frozen=True)
class Workload:
    """Size of a search.

    Attributes:
      space: name of the search space.
      batch_size: examples per step, over all devices.
      image_size: side of the training images in px.
      num_classes: number of classifier outputs.
      precision: precision of the steps, `f32` or `bf16`.
      blocks: number of the space's first blocks to use; None is all.
      candidates: number of its largest convolutions to use, besides skip; None is all.
      devices: number of devices that share the batch; None is one, without a mesh.
    """

    space: str = "proxyless"
    batch_size: int = 16
    image_size: int = 96
    num_classes: int = 1000
    precision: Precision = "f32"
    blocks: int | None = None
    candidates: int | None = None
    devices: int | None = None

    def check(self) -> None:
        """Raises ValueError for an unknown space, or a size its total stride does not divide."""
        space = find_space(self.space)
        factor = space.downsampling
        if self.image_size % factor:
            raise ValueError(
                f"--train_image_size={self.image_size}: give a multiple of {factor} "
                f"px, the total stride of the {space.name} space"
            )

    @property
    def search_space(self) -> Space:
        """The space, reduced to `blocks` and `candidates`."""
        space = find_space(self.space)
        blocks = tuple(
            dataclasses.replace(block, convolutions=block.convolutions[-(self.candidates or 0) :])
            for block in space.blocks[: self.blocks]
        )
        kept = [c for c in space.convolutions if any(c in block.convolutions for block in blocks)]
        return dataclasses.replace(space, blocks=blocks, candidates=(*kept, SKIP))

    @property
    def largest_path(self) -> np.ndarray:
        """Path int32 [blocks] with the most multiply-accumulates in every block."""
        space = self.search_space
        return space.path([max(b.convolutions, key=lambda c: _macs(b, c)) for b in space.blocks])

    def network(self, path: np.ndarray) -> NetworkSpec:
        """Returns the network of a path."""
        space = self.search_space
        return network_of(space, space.arch(path), self.num_classes)

    def random_paths(self, count: int) -> list[np.ndarray]:
        """Returns uniform random paths int32 [blocks], the same for equal search spaces."""
        rng = np.random.default_rng(0)
        return [self.search_space.random_path(rng) for _ in range(count)]

    def batch(self) -> dict[str, jax.Array]:
        """Returns a batch of random pixels and labels on the device."""
        rng = np.random.default_rng(0)
        shape = (self.batch_size, self.image_size, self.image_size, 3)
        return {
            "image": jnp.asarray(rng.integers(0, 256, shape, np.uint8)),
            "label": jnp.asarray(rng.integers(0, self.num_classes, self.batch_size), jnp.int32),
        }


def _macs(block: Block, candidate: Candidate) -> int:
    """Returns multiply-accumulates of a block for one pixel of its output."""
    layers = block_of(block, candidate).layers
    return sum(
        layer.weights * (block.stride**2 if layer.part == "expand" else 1) for layer in layers
    )


class Supernet:
    """The two steps of the search with their state; each step is compiled at first use."""

    def __init__(self, workload: Workload):
        self._workload = workload
        hyper = search_state.Hyperparameters(precision=workload.precision)
        devices = None if workload.devices is None else jax.devices()[: workload.devices]
        layout = None if devices is None else parallel.layout(devices)
        self._steps = search_steps.make_steps(
            workload.search_space, hyper, None if layout is None else layout.replicated
        )
        self.state = search_state.init_state(workload.search_space, workload.num_classes, hyper, 0)
        self.batch = workload.batch()
        if layout is not None:
            self.state = layout.replicate(self.state)
            self.batch = layout.shard(jax.device_get(self.batch))

    @property
    def programs(self) -> dict[str, tuple[Callable[..., Any], tuple]]:
        """The jitted steps `weight` and `arch`, with their arguments."""
        return {
            "weight": (self._steps.weight, self._weight_arguments(self._workload.largest_path)),
            "arch": (self._steps.arch, self._arch_arguments()),
        }

    def traced(self, name: str) -> jax.stages.Traced:
        """Traces one of the `programs`."""
        step, arguments = self.programs[name]
        assert isinstance(step, jax.stages.Wrapped), "a step must be jitted"
        return step.trace(*arguments)

    @functools.cached_property
    def weight(self) -> jax.stages.Compiled:
        """The compiled weight step."""
        return self.traced("weight").lower().compile()

    @functools.cached_property
    def arch(self) -> jax.stages.Compiled:
        """The compiled α step."""
        return self.traced("arch").lower().compile()

    def weight_step(
        self, path: np.ndarray
    ) -> tuple[search_steps.Metrics, search_state.SearchState]:
        """Takes a weight step on the path; returns arrays that are ready when the step is done."""
        self.state, metrics = self.weight(*self._weight_arguments(path))
        return metrics, self.state

    def arch_step(self) -> tuple[dict[str, jax.Array], search_steps.Metrics]:
        """Runs an α step but keeps the state, so that all calls are equal."""
        return self.arch(*self._arch_arguments())

    def _weight_arguments(self, path: np.ndarray) -> tuple:
        return (
            self.state,
            self.batch,
            jnp.asarray(path),
            jnp.float32(LEARNING_RATE),
        )

    def _arch_arguments(self) -> tuple:
        shape = self._workload.search_space.allowed.shape
        latency = LatencyModel(jnp.float32(1), jnp.ones(shape))
        return (
            self.state,
            self.batch,
            latency,
            jnp.float32(TARGET_MS),
            jnp.float32(LATENCY_WEIGHT),
        )


class StaticNetwork:
    """A network by itself, trained and compiled by `jaxnas.train_steps`.

    The step of a path's network differs from the supernet's weight step: it has no gather and
    scatter, no switch and no padding, batch norm's scale and bias do not decay, and the learning
    rate schedule is part of the step. Dropout is 0 and no moving average is kept.
    """

    def __init__(self, workload: Workload, spec: NetworkSpec):
        network = Network(spec, rng=np.random.default_rng(0))
        recipe = train_steps.Recipe(
            steps=10**6, learning_rate=LEARNING_RATE, dropout=0.0, precision=workload.precision
        )
        self._state = train_steps.init_state(network, recipe, 0)
        self._batch = workload.batch()
        step = train_steps.make_steps(network, recipe).train
        assert isinstance(step, jax.stages.Wrapped), "a step must be jitted"
        self.compiled = step.lower(self._state, self._batch).compile()

    def step(self) -> tuple[search_steps.Metrics, train_steps.NetworkState]:
        """Takes a training step; returns arrays that are ready when the step is done."""
        self._state, metrics = self.compiled(self._state, self._batch)
        return metrics, self._state


def memory_mb(program: jax.stages.Compiled) -> dict[str, float]:
    """Returns XLA's memory analysis of a compiled program, in 10⁶ bytes."""
    analysis = program.memory_analysis()
    assert analysis is not None, "XLA analyzes the programs of every platform in use"
    return {
        "temp_mb": analysis.temp_size_in_bytes / 1e6,
        "argument_mb": analysis.argument_size_in_bytes / 1e6,
        "output_mb": analysis.output_size_in_bytes / 1e6,
        "aliased_mb": analysis.alias_size_in_bytes / 1e6,
    }
