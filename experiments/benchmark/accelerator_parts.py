"""Measures one part of `experiments.benchmark.accelerator`, which starts this program.

    python -m experiments.benchmark.accelerator_parts --part=steps --lock=FILE

A part compiles what it needs, and times it while it holds the lock. Prints one JSON object.
"""

import concurrent.futures
import contextlib
import fcntl
import importlib
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments.benchmark.kernels import strided_depthwise, switches
from experiments.benchmark.machine import accelerator
from experiments.benchmark.pipeline import photographs_part, pipeline
from experiments.benchmark.steps import Steps
from experiments.benchmark.timing import in_turn, summary
from experiments.benchmark.workload import LEARNING_RATE, StaticNetwork, Workload
from experiments.benchmark.xla_profile import profile
from jaxnas.network import Network
from jaxnas.pixels import from_pixels
from jaxnas.zoo import find_network
from profiling import command

Alone = Callable[[], contextlib.AbstractContextManager[Any]]

_PHOTOGRAPHS = 256
_PARITY_IMAGES = 8
_PARITY_NETWORKS = ("proxyless_mobile", "mobilenet_v2")
COMMAND_BUFFERS, MOBILENET = "command buffers", "MobileNetV2"


def main(argv: Sequence[str]) -> None:
    """Measures the part and prints it with the accelerator's name."""
    del argv
    args = flags.FLAGS

    @contextlib.contextmanager
    def alone() -> Iterator[None]:
        with pathlib.Path(args.lock).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    measured = PARTS[args.part](Workload(**json.loads(args.workload)), args.rounds, alone)
    print(json.dumps({"measured": measured, "accelerator": accelerator()}))


def steps(workload: Workload, rounds: int, alone: Alone) -> dict[str, Any]:
    """Times the steps, profiles them, and takes them in a loop that reads photographs.

    Args:
      workload: space, batch, image size and precision.
      rounds: number of timed repeats.
      alone: gives a context in which no other process times anything.

    Returns:
      `step` and `profile` as the benchmark has them; `fed`, the loop's document.
    """
    programs = _compiled(workload)
    with alone():
        return {
            "step": programs.time(1, rounds),
            "profile": profile(programs, workload, rounds),
            "fed": pipeline(programs.supernet, workload, rounds, photographs_part(_PHOTOGRAPHS)),
        }


def steps_alone(workload: Workload, rounds: int, alone: Alone) -> dict[str, Any]:
    """Times the steps only: XLA does not use command buffers while it profiles."""
    programs = _compiled(workload)
    with alone():
        return {"step": programs.time(1, rounds)}


def _compiled(workload: Workload) -> Steps:
    """Returns the steps of one random path and of the largest, compiled all at once."""
    programs = Steps(workload)
    paths = [*workload.random_paths(1), workload.largest_path]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        compiling: list[concurrent.futures.Future] = [
            pool.submit(lambda: programs.supernet.weight),
            pool.submit(lambda: programs.supernet.arch),
            *(pool.submit(programs.static, path) for path in paths),
        ]
        for one in compiling:
            one.result()
    return programs


def kernels(workload: Workload, rounds: int, alone: Alone) -> dict[str, Any]:
    """Times a flat switch against two nested ones, and depthwise convolutions of stride 2."""
    with alone():
        return {"switch": switches(rounds), "strided": strided_depthwise(workload, rounds)}


def parity(workload: Workload, rounds: int, alone: Alone) -> dict[str, Any]:
    """Returns the largest difference of float32 logits to those of the CPU, for each network."""
    del rounds, alone
    shape = (_PARITY_IMAGES, workload.image_size, workload.image_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    differences = {}
    for name in _PARITY_NETWORKS:
        network = Network(find_network(name), rng=np.random.default_rng(0))
        network.eval()

        @jax.jit
        def logits(pixels: jax.Array, network: Network = network) -> jax.Array:
            with jax.default_matmul_precision("float32"):
                return network(from_pixels(pixels, normalization=network.spec.normalization))

        here, cpu = (
            np.asarray(logits(jax.device_put(pixels, device)))
            for device in (jax.devices()[0], jax.devices("cpu")[0])
        )
        differences[name] = float(abs(here - cpu).max() / max(1, abs(cpu).max()))
    return {"max_difference": differences}


def mobilenet_v2(workload: Workload, rounds: int, alone: Alone) -> dict[str, Any]:
    """Times a training step of MobileNetV2 here and in PyTorch: channels_last, autocast.

    Raises:
      ModuleNotFoundError: PyTorch or torchvision is missing.
    """
    calls: dict[str, Callable[[], Any]] = {"torch": _torch_step(workload)}
    spec = find_network("mobilenet_v2", workload.num_classes)
    calls["ours"] = StaticNetwork(workload, spec).step
    with alone():
        return {name: summary(times) for name, times in in_turn(calls, rounds).items()}


def _torch_step(workload: Workload) -> Callable[[], tuple[()]]:
    torch, torchvision = map(importlib.import_module, ("torch", "torchvision"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = torchvision.models.mobilenet_v2(num_classes=workload.num_classes)
    network = network.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, momentum=0.9, nesterov=True)
    given = jax.device_get(workload.batch())
    images = torch.tensor(given["image"]).permute(0, 3, 1, 2).to(device).float() / 255
    labels = torch.tensor(given["label"]).long().to(device)

    def step() -> tuple[()]:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=workload.precision == "bf16"):
            loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return ()

    return step


PARTS = {
    "steps": steps,
    COMMAND_BUFFERS: steps_alone,
    "kernels": kernels,
    "parity": parity,
    MOBILENET: mobilenet_v2,
}


if __name__ == "__main__":
    flags.DEFINE_enum("part", "steps", tuple(PARTS), "Part to measure.")
    flags.DEFINE_string("workload", "{}", "JSON object of the fields of `Workload`.")
    flags.DEFINE_integer("rounds", 20, "Repeats of everything that is timed.", lower_bound=2)
    flags.DEFINE_string("lock", None, "File whose lock allows to time.", required=True)
    command.run(main)
