"""What the benchmark times: the steps of a search at one size, and static networks beside them."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import parallel, search_steps, train_steps
from jaxnas.latency import LatencyModel
from jaxnas.network import Network, network_of
from jaxnas.space import Space, find_space

LEARNING_RATE = 0.01
TARGET_MS, LATENCY_WEIGHT = 17.2, 0.1


@dataclasses.dataclass(frozen=True)
class Workload:
    """A search's size.

    Attributes:
      space: its name.
      batch_size: examples of a step, over all devices.
      image_size: side of the training images in px.
      num_classes: of the classifier.
      precision: of the steps, `f32` or `bf16`.
      blocks: how many of the space's blocks, from the front; None is all.
      candidates: how many of its convolutions, the largest ones; None is all. Skip stays.
      devices: over which the batch is sharded; None is one, without a mesh.
    """

    space: str = "proxyless"
    batch_size: int = 16
    image_size: int = 96
    num_classes: int = 1000
    precision: search_steps.Precision = "f32"
    blocks: int | None = None
    candidates: int | None = None
    devices: int | None = None

    def check(self) -> None:
        """Raises ValueError for an unknown space, or a size that it cannot halve."""
        space = find_space(self.space)
        factor = 2 * math.prod(block.stride for block in space.blocks)
        if self.image_size % factor:
            raise ValueError(
                f"--train_image_size={self.image_size}: give a multiple of {factor} "
                f"px, by which the {space.name} space divides its input"
            )

    @property
    def search_space(self) -> Space:
        """The space, cut to the blocks and candidates asked for."""
        space = find_space(self.space)
        convolutions = space.convolutions[-(self.candidates or 0) :]
        return dataclasses.replace(
            space,
            blocks=space.blocks[: self.blocks],
            candidates=(*convolutions, space.candidates[-1]),
        )

    @property
    def largest_path(self) -> np.ndarray:
        """int32 [blocks]: the most multiply-accumulates that a block can have, everywhere."""
        space = self.search_space
        index = max(
            range(len(space.convolutions)),
            key=lambda i: (space.candidates[i].expansion, space.candidates[i].kernel),
        )
        return np.full(len(space.blocks), index, np.int32)

    def random_paths(self, count: int) -> list[np.ndarray]:
        """Paths int32 [blocks], uniform; the same for every workload of the space."""
        rng = np.random.default_rng(0)
        return [self.search_space.random_path(rng) for _ in range(count)]

    def batch(self) -> dict[str, jax.Array]:
        """Random pixels and labels, on the device."""
        rng = np.random.default_rng(0)
        shape = (self.batch_size, self.image_size, self.image_size, 3)
        return {
            "image": jnp.asarray(rng.integers(0, 256, shape, np.uint8)),
            "label": jnp.asarray(rng.integers(0, self.num_classes, self.batch_size), jnp.int32),
        }


class Supernet:
    """The search's two steps: traced, lowered and compiled apart, then taken with its state."""

    def __init__(self, workload: Workload):
        self._workload = workload
        hyper = search_steps.Hyperparameters(precision=workload.precision)
        self._steps = search_steps.make_steps(workload.search_space, hyper)
        self.state = search_steps.init_state(workload.search_space, workload.num_classes, hyper, 0)
        self.batch = workload.batch()
        if workload.devices is not None:
            layout = parallel.layout(jax.devices()[: workload.devices])
            self.state = layout.replicate(self.state)
            self.batch = layout.shard(jax.device_get(self.batch))

    @property
    def programs(self) -> dict[str, tuple[jax.stages.Wrapped, tuple]]:
        """The steps `weight` and `arch` before they are traced, with their arguments."""
        return {
            "weight": (self._steps.weight, self._weight_arguments(self._workload.largest_path)),
            "arch": (self._steps.arch, self._arch_arguments()),
        }

    def traced(self, name: str) -> jax.stages.Traced:
        """One of them, before it is lowered."""
        step, arguments = self.programs[name]
        return step.trace(*arguments)

    @functools.cached_property
    def weight(self) -> jax.stages.Compiled:
        return self.traced("weight").lower().compile()

    @functools.cached_property
    def arch(self) -> jax.stages.Compiled:
        return self.traced("arch").lower().compile()

    def weight_step(
        self, path: np.ndarray
    ) -> tuple[search_steps.Metrics, search_steps.SearchState]:
        """Takes a weight step on the path; what it returns is there when the step is done."""
        self.state, metrics = self.weight(*self._weight_arguments(path))
        return metrics, self.state

    def arch_step(self) -> tuple[dict[str, jax.Array], search_steps.Metrics]:
        """Takes an architecture step; α stays, so that every call does the same."""
        return self.arch(*self._arch_arguments())

    def _weight_arguments(self, path: np.ndarray) -> tuple:
        return (
            self.state,
            self.batch,
            jnp.asarray(path),
            jnp.float32(LEARNING_RATE),
            jnp.float32(search_steps.BN_MOMENTUM),
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
    """One path as a network of its own, trained by `jaxnas.network_steps`, which compiles it alone.

    Its step differs from the supernet's weight step in these: no gather and scatter, no switch,
    no padding; batch norm's scale and bias do not decay; the learning rate is scheduled inside.
    Dropout is 0 and no average is kept.
    """

    def __init__(self, workload: Workload, path: np.ndarray):
        space = workload.search_space
        network = Network(
            network_of(space, space.arch(path), workload.num_classes), rng=np.random.default_rng(0)
        )
        recipe = train_steps.Recipe(
            steps=10**6, learning_rate=LEARNING_RATE, dropout=0.0, precision=workload.precision
        )
        self._state = train_steps.init_state(network, recipe, 0)
        self._batch = workload.batch()
        self.compiled = (
            train_steps.make_steps(network, recipe).train.lower(self._state, self._batch).compile()
        )

    def step(self) -> tuple[search_steps.Metrics, train_steps.NetworkState]:
        """Takes a training step; what it returns is there when the step is done."""
        self._state, metrics = self.compiled(self._state, self._batch)
        return metrics, self._state


def memory_mb(program: jax.stages.Compiled) -> dict[str, float]:
    """XLA's own account of a compiled program, in 10⁶ bytes."""
    analysis = program.memory_analysis()
    return {
        "temp_mb": analysis.temp_size_in_bytes / 1e6,
        "argument_mb": analysis.argument_size_in_bytes / 1e6,
        "output_mb": analysis.output_size_in_bytes / 1e6,
        "aliased_mb": analysis.alias_size_in_bytes / 1e6,
    }
