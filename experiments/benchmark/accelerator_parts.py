"""Measures one part of `experiments.benchmark.accelerator`, which starts this program.

    python -m experiments.benchmark.accelerator_parts --part=steps --lock=FILE --output=FILE

A part compiles what it needs, waits until no other part times, and measures. The output has what is
measured so far, so that a part that fails or is stopped loses only the rest.
"""

import concurrent.futures
import fcntl
import importlib
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments.benchmark.kernels import strided_depthwise, switches
from experiments.benchmark.machine import accelerator
from experiments.benchmark.steps import Steps
from experiments.benchmark.timing import in_turn, summary
from experiments.benchmark.workload import LEARNING_RATE, StaticNetwork, Workload
from experiments.benchmark.xla_profile import profile
from jaxnas.json_file import write_object
from jaxnas.network import Network
from jaxnas.pixels import from_pixels
from jaxnas.zoo import find_network
from profiling import command

Measured = Iterator[tuple[str, Any]]

# Several times the batches that the input pipeline makes ahead.
_LOOP_STEPS = 200
_PHOTOGRAPHS = 256
_PARITY_IMAGES = 8
_PARITY_NETWORKS = ("proxyless_mobile", "mobilenet_v2")


def main(argv: Sequence[str]) -> int | None:
    """Measures the part; its output has the device beside what is measured."""
    del argv
    args = flags.FLAGS
    if accelerator() is None and not args.allow_cpu:
        print(
            "error: no accelerator: install jax[cuda13], or give --allow_cpu and a small size",
            file=sys.stderr,
        )
        return command.FAILED
    device = {
        "accelerator": accelerator(),
        "platform_version": jax.devices()[0].client.platform_version,
    }
    lock = pathlib.Path(args.lock).open("w")  # held until this process has left the device

    def take_turn() -> None:
        fcntl.flock(lock, fcntl.LOCK_EX)

    measured: dict[str, Any] = {}
    workload = Workload(**json.loads(args.workload))
    for name, value in PARTS[args.part](workload, args.rounds, take_turn):
        measured[name] = value
        write_object(pathlib.Path(args.output), {"device": device, "measured": measured})
    return None


def steps(workload: Workload, rounds: int, take_turn: Callable[[], None]) -> Measured:
    """Times the steps, profiles them, and takes them in a loop that reads photographs.

    Args:
      workload: space, batch, image size and precision.
      rounds: number of timed repeats.
      take_turn: waits until no other part times; the turn lasts until the process ends.

    Yields:
      `step` and `profile` as the benchmark has them; `loop`, the document of its pipeline.

    Raises:
      ModuleNotFoundError: a package that the loop needs is missing.
    """
    programs = _compiled(workload)
    take_turn()
    yield "step", programs.time(1, rounds)
    yield "profile", profile(programs, workload, rounds)
    from experiments.benchmark.pipeline import photographs_part, pipeline

    loop_steps = max(_LOOP_STEPS, rounds)
    part = photographs_part(_PHOTOGRAPHS)
    yield "loop", pipeline(programs.supernet, workload, loop_steps, part)


def command_buffers(workload: Workload, rounds: int, take_turn: Callable[[], None]) -> Measured:
    """Times the steps and a switch; yields `step` and `switch`.

    XLA tells nobody whether it captured the switches: if it did, one costs less than in `kernels`.
    """
    programs = _compiled(workload)
    take_turn()
    yield "step", programs.time(1, rounds)
    yield "switch", switches(rounds)


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
        for future in compiling:
            future.result()
    return programs


def mobilenet_v2(workload: Workload, rounds: int, take_turn: Callable[[], None]) -> Measured:
    """Times a training step of MobileNetV2 here, `ours`, and in PyTorch, `torch`.

    PyTorch has channels_last and autocast, and cuDNN's heuristics as XLA has them here.

    Raises:
      ModuleNotFoundError: PyTorch or torchvision is missing.
    """
    spec = find_network("mobilenet_v2", workload.num_classes)
    ours = StaticNetwork(workload, spec).step
    take_turn()
    yield "ours", summary(in_turn({"ours": ours}, rounds)["ours"])
    calls: dict[str, Callable[[], Any]] = {"ours": ours, "torch": _torch_step(workload)}
    for name, times_ms in in_turn(calls, rounds).items():
        yield name, summary(times_ms)


def _torch_step(workload: Workload) -> Callable[[], tuple[()]]:
    torch, torchvision = map(importlib.import_module, ("torch", "torchvision"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = torchvision.models.mobilenet_v2(num_classes=workload.num_classes)
    network = network.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, momentum=0.9, nesterov=True)
    batch = jax.device_get(workload.batch())
    images = torch.tensor(batch["image"]).permute(0, 3, 1, 2).to(device).float() / 255
    labels = torch.tensor(batch["label"]).long().to(device)

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


def kernels(workload: Workload, rounds: int, take_turn: Callable[[], None]) -> Measured:
    """Times a flat and a nested `switch`, and depthwise convolutions of stride 2, `strided`."""
    take_turn()
    yield "switch", switches(rounds)
    yield "strided", strided_depthwise(workload, rounds)


def parity(workload: Workload, rounds: int, take_turn: Callable[[], None]) -> Measured:
    """Yields each network's largest difference of float32 logits from those of the CPU.

    Differences are relative to the largest logit where that exceeds 1.
    """
    del rounds
    shape = (_PARITY_IMAGES, workload.image_size, workload.image_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    take_turn()
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
        yield name, float(abs(here - cpu).max() / max(1, abs(cpu).max()))


PARTS = {
    "steps": steps,
    "command_buffers": command_buffers,
    "mobilenet_v2": mobilenet_v2,
    "kernels": kernels,
    "parity": parity,
}


if __name__ == "__main__":
    flags.DEFINE_enum("part", "steps", tuple(PARTS), "Part to measure.")
    flags.DEFINE_string("workload", "{}", "JSON object of the fields of `Workload`.")
    flags.DEFINE_integer("rounds", 20, "Repeats of everything that is timed.", lower_bound=2)
    flags.DEFINE_string("lock", None, "File that is locked during timing.", required=True)
    flags.DEFINE_string("output", None, "JSON file to write to.", required=True)
    flags.DEFINE_bool("allow_cpu", False, "Measures the CPU where there is no accelerator.")
    command.run(main)
