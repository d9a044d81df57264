"""Measures the speed of the project on this machine, without comparing it to other programs.

    python -m experiments.benchmark --output=runs/benchmark
    python -m experiments.benchmark --parts=step,memory,kernels --batch_size=256 \\
        --train_image_size=224 --precision=bf16

Writes benchmark.json and prints the figures with their bounds. `python -m
experiments.benchmark.performance` turns it into docs/performance.md. JAX, Flax, optax, chex, absl
and NumPy suffice for most parts; a part whose packages are missing is skipped with one line.
"""

import dataclasses
import datetime
import functools
import pathlib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from experiments.benchmark import report
from experiments.benchmark.bandwidth import bandwidth
from experiments.benchmark.figures import figures
from experiments.benchmark.growth import growth
from experiments.benchmark.kernels import dense, depthwise, switches
from experiments.benchmark.machine import accelerator, machine
from experiments.benchmark.start import cold_compile, search_start, second_start
from experiments.benchmark.steps import Steps
from experiments.benchmark.tpu import check_topology, compiled_for_tpu
from experiments.benchmark.workload import Supernet, Workload
from experiments.benchmark.xla_profile import profile
from experiments.runs.malloc import keep_memory
from jaxnas.builtin_spaces import SPACES
from jaxnas.json_file import write_object
from jaxnas.pixels import PRECISIONS
from profiling import command

SCHEMA = 1
# Parts that start processes come first: once this process uses the accelerator, others cannot.
PARTS = (
    "compile",
    "start",
    "search",
    "growth",
    "step",
    "memory",
    "profile",
    "kernels",
    "bandwidth",
    "pipeline",
    "photographs",
    "export",
    "tpu",
)
_STARTS = 3
_PIPELINE_STEPS = 60
# The README's search on the digits.
_QUICK_START: dict[str, Any] = {"batch_size": 64, "image_size": 32, "num_classes": 10}


def main(argv: Sequence[str]) -> None:
    """Measures the parts, writes benchmark.json after each, and prints the figures."""
    del argv
    args = flags.FLAGS
    keep_memory()
    with command.usage_errors():
        parts = check_parts(args.parts)
        workload = Workload(
            args.space, args.batch_size, args.train_image_size, args.num_classes, args.precision
        )
        workload.check()
        if "tpu" in parts:
            check_topology(args.topology)
        output = command.output_folder("output", args.output)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", "-m", "experiments.benchmark", *sys.argv[1:]]),
        "settings": {
            name: args[name].value
            for name in (
                "space",
                "batch_size",
                "train_image_size",
                "num_classes",
                "precision",
                "steps",
                "paths",
                "image_size",
                "topology",
            )
        },
        "machine": machine(),
        "parts": {},
        "skipped": {},
    }
    for name, measure in measurements(workload, output).items():
        if name not in parts:
            continue
        print(f"part {name}", file=sys.stderr, flush=True)
        try:
            document["parts"][name] = measure()
        except ModuleNotFoundError as error:
            document["skipped"][name] = str(error)
            print(f"part {name} is skipped: {error}", file=sys.stderr, flush=True)
        write(document, output)
    document["machine"]["accelerator"] = accelerator()
    write(document, output)
    print("\n".join(report.figures_table(figures(document["parts"]), document["skipped"])))
    print(f"benchmark.json in {output}", file=sys.stderr)


def check_parts(names: Sequence[str]) -> list[str]:
    """Returns the names as a list; raises ValueError for an unknown part."""
    unknown = next((name for name in names if name not in PARTS), None)
    if unknown is not None:
        raise ValueError(f"--parts: unknown part {unknown!r}, allowed are {', '.join(PARTS)}")
    return list(names)


def measurements(workload: Workload, output: pathlib.Path) -> dict[str, Callable[[], dict]]:
    """Returns the function that measures each part, by name, in the order of `PARTS`."""
    args = flags.FLAGS
    steps = functools.cache(lambda: Steps(workload))  # shared by three parts, compiled once

    def pipeline() -> dict:
        from experiments.benchmark.pipeline import pipeline
        from jaxnas import data

        quick_start = dataclasses.replace(workload, **_QUICK_START)
        digits = data.load("digits", seed=0).weights
        steps = max(_PIPELINE_STEPS, args.steps)
        return pipeline(Supernet(quick_start), quick_start, steps, digits)

    def photographs() -> dict:
        from experiments.benchmark.pipeline import photographs

        return photographs()

    def export() -> dict:
        from experiments.benchmark.export import exported

        return exported(output / "export", args.image_size, args.steps)

    each = {
        "compile": lambda: cold_compile(workload),
        "start": lambda: second_start(workload, _STARTS),
        "search": search_start,
        "growth": lambda: growth(
            workload, args.steps, tell=functools.partial(print, file=sys.stderr, flush=True)
        ),
        "step": lambda: steps().time(args.paths, args.steps),
        "memory": lambda: steps().memory(),
        "profile": lambda: profile(steps(), workload, args.steps),
        "kernels": lambda: {
            "depthwise": depthwise(workload, args.steps),
            "dense": dense(workload, args.steps),
            "switch": switches(args.steps),
        },
        "bandwidth": lambda: bandwidth(args.steps),
        "pipeline": pipeline,
        "photographs": photographs,
        "export": export,
        "tpu": lambda: compiled_for_tpu(workload, args.topology),
    }
    return {name: each[name] for name in PARTS}


def write(document: dict, output: pathlib.Path) -> None:
    """Writes benchmark.json atomically."""
    write_object(output / "benchmark.json", document)


if __name__ == "__main__":
    flags.DEFINE_list(
        "parts",
        [name for name in PARTS if name not in ("growth", "tpu")],
        f"Parts to measure, comma-separated: {', '.join(PARTS)}; growth takes half an hour, tpu "
        f"many minutes.",
    )
    flags.DEFINE_string("space", "proxyless", f"Search space: {', '.join(SPACES)}.")
    flags.DEFINE_integer(
        "batch_size",
        16,
        "Examples per step; pipeline and search use the quick start's size.",
        lower_bound=2,
    )
    flags.DEFINE_integer(
        "train_image_size",
        96,
        "Side of the training images in px; pipeline and search use the quick start's.",
        lower_bound=8,
    )
    flags.DEFINE_integer("num_classes", 1000, "Number of classifier outputs.", lower_bound=2)
    flags.DEFINE_enum(
        "precision",
        "f32",
        tuple(PRECISIONS),
        "Precision of the steps; weights, statistics and loss are float32.",
    )
    flags.DEFINE_integer("steps", 20, "Repeats of everything that is timed.", lower_bound=2)
    flags.DEFINE_integer(
        "paths", 3, "Random paths of part step, besides the largest.", lower_bound=0
    )
    flags.DEFINE_integer(
        "image_size", 224, "Deployment size in px for part export.", lower_bound=32
    )
    flags.DEFINE_string(
        "topology",
        "v5e:2x2",
        "TPU slice for part tpu, such as v5e:4x4, v4:2x2x1 or v6e:2x4. The batch of each of its "
        "chips is batch_size.",
    )
    flags.DEFINE_string("output", "runs/benchmark", "Folder to write to.")
    command.run(main)
