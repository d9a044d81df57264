"""Part `tpu`: the steps as the TPU's own compiler makes them, on a machine without a TPU."""

import importlib.util
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from experiments.benchmark.chips import TPUS
from experiments.benchmark.workload import Workload, memory_mb
from jaxnas import parallel, search_state, search_steps, train_steps
from jaxnas.latency import LatencyModel
from jaxnas.network import Network

_RESERVED = 0.05  # share of the memory that the runtime takes
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


def check_topology(topology: str) -> None:
    """Raises ValueError for an unknown topology, if the compiler is installed."""
    if importlib.util.find_spec("libtpu") is not None:
        _devices(topology)


def compiled_for_tpu(workload: Workload, topology: str) -> dict[str, Any]:
    """Measures part `tpu`.

    Args:
      workload: space, batch of each chip, image size and precision.
      topology: generation and shape of the slice, such as `v5e:4x4`.

    Returns:
      The slice, and of the steps `weight`, `arch` and `train`, the training of the largest path:
      memory of a chip, collectives and their results in MB, conditionals, operations and bytes of a
      chip (of the longest branches), seconds of compilation, and the largest batch of a chip by
      generation, if its temporaries grow with the batch.

    Raises:
      ModuleNotFoundError: the compiler is not installed.
      ValueError: the topology is unknown.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ModuleNotFoundError(
            "the TPU's compiler is not installed: pip install libtpu, of the version that "
            "jax[tpu] asks for"
        )
    layout = parallel.layout(_devices(topology))
    return {
        "topology": topology,
        "chips": layout.mesh.size,
        "batch_size": workload.batch_size,
        "programs": {
            name: _program(step, arguments, workload.batch_size)
            for name, (step, arguments) in _programs(workload, layout).items()
        },
    }


def _devices(topology: str) -> Sequence[jax.Device]:
    """Returns the devices of a slice that is described and not there."""
    # The compiler asks a metadata server which TPU it is on; here there is none.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise ValueError(
            f"--topology={topology}: {error}; give a generation and a shape, such as v5e:4x4"
        ) from error


def _programs(
    workload: Workload, layout: parallel.Layout
) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Returns the jitted steps with the shapes of their arguments."""
    space, classes, size = workload.search_space, workload.num_classes, workload.image_size
    hyper = search_state.Hyperparameters(precision=workload.precision)
    steps = search_steps.make_steps(space, hyper, layout.replicated)
    spec = workload.network(workload.largest_path)
    network = Network(spec, rng=np.random.default_rng(0))
    recipe = train_steps.Recipe(steps=1, precision=workload.precision)
    training = train_steps.make_steps(network, recipe, layout.replicated)
    examples = workload.batch_size * layout.mesh.size
    batch = layout.sharded_shapes(
        {
            "image": jax.ShapeDtypeStruct((examples, size, size, 3), jnp.uint8),
            "label": jax.ShapeDtypeStruct((examples,), jnp.int32),
        }
    )
    state, network_state, path, table, scalar = layout.replicated_shapes(
        (
            search_state.init_state(space, classes, hyper, 0),
            train_steps.init_state(network, recipe, 0),
            workload.largest_path,
            LatencyModel(jnp.float32(1), jnp.ones(space.allowed.shape)),
            np.float32(0),
        )
    )
    return {
        "weight": (steps.weight, (state, batch, path, scalar)),
        "arch": (steps.arch, (state, batch, table, scalar, scalar)),
        "train": (training.train, (network_state, batch)),
    }


def _program(
    step: Callable[..., Any], arguments: tuple[Any, ...], batch_size: int
) -> dict[str, Any]:
    """Compiles a step and returns its row."""
    assert isinstance(step, jax.stages.Wrapped), "a step must be jitted"
    lowered = step.trace(*arguments).lower(lowering_platforms=("tpu",))
    started, cpu_s = time.monotonic(), time.process_time()
    program = lowered.compile()
    seconds = {"compile_s": time.monotonic() - started, "cpu_s": time.process_time() - cpu_s}
    text, memory, costs = program.as_text(), memory_mb(program), program.cost_analysis()
    counts = {
        name: len(re.findall(rf" {name}(?:-start)?\(", text))
        for name in ("conditional", *COLLECTIVES)
    }
    per_image_mb = memory["temp_mb"] / batch_size
    return {
        **seconds,
        **memory,
        "conditionals": counts.pop("conditional"),
        "collectives": {name: count for name, count in counts.items() if count},
        "collective_mb": collective_mb(text),
        "gflops": costs["flops"] / 1e9,
        "gb": costs["bytes accessed"] / 1e9,
        "largest_batch": {
            name: int(
                ((1 - _RESERVED) * chip.memory_gb * 1000 - memory["argument_mb"]) / per_image_mb
            )
            for name, chip in TPUS.items()
        },
    }


def collective_mb(text: str) -> float:
    """Returns the size of what the collectives of a compiled program return to a chip, in MB."""
    # An asynchronous one returns its result at its end; at its start its operands as well.
    results = re.findall(rf" = (.*?) (?:{'|'.join(COLLECTIVES)})(?:-done)?\(", text)
    total = 0
    for bits, dimensions in re.findall(r"[a-z]+(\d+)\[([\d,]*)\]", " ".join(results)):
        total += int(bits) // 8 * math.prod(int(size) for size in dimensions.split(",") if size)
    return total / 1e6
