"""Measures what one accelerator does with the steps of a search, in eight minutes.

    python -m experiments.benchmark.accelerator --output=runs/accelerator

Compilation takes most of this time. So each part is a process of its own: all compile at once, and
time what they compiled one after the other, with the accelerator to itself. What is not done after
--limit_s is stopped. XLA does not try algorithms on the device here, which would take minutes more;
its choices, and so the rates, can be better in a search.

accelerator.json has what was measured; the parts' standard errors are in *.log.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments.benchmark import report
from experiments.benchmark.accelerator_parts import COMMAND_BUFFERS, MOBILENET, PARTS
from experiments.benchmark.figures import Figure
from experiments.benchmark.machine import machine
from experiments.benchmark.workload import Workload
from jaxnas.builtin_spaces import SPACES
from jaxnas.json_file import write_object
from jaxnas.pixels import PRECISIONS
from profiling import command

SCHEMA = 1
_XLA_FLAGS = "--xla_gpu_autotune_level=0"
# The driver then runs a step as one graph, whose switches wait for no host.
_GRAPHS = "--xla_gpu_enable_command_buffer=+CONDITIONAL,+CONVOLUTION,+WHILE"
# Goals on an H100: images/s of the weight step, its rate by the static step's, α's time by its.
_IMAGES_PER_S, _STATIC_SHARE, _ARCH_RATIO, _DIFFERENCE = 4000, 0.85, 1.0, 1e-4


def main(argv: Sequence[str]) -> int | None:
    """Measures the parts, writes accelerator.json and prints the figures."""
    del argv
    args = flags.FLAGS
    with command.usage_errors():
        workload = Workload(
            args.space, args.batch_size, args.train_image_size, args.num_classes, args.precision
        )
        workload.check()
        output = command.output_folder("output", args.output)
    parts, skipped, devices = _run_all(workload, args.steps, output, args.limit_s)
    document = {
        "schema": SCHEMA,
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", "-m", "experiments.benchmark.accelerator", *sys.argv[1:]]),
        "machine": {**machine(), "accelerator": next(iter(devices), None)},
        "workload": dataclasses.asdict(workload),
        "parts": parts,
        "skipped": skipped,
    }
    write_object(output / "accelerator.json", document)
    shown = [*figures(parts, workload.batch_size)]
    if not devices:  # a CPU has no goals
        shown = [dataclasses.replace(one, bound="", met=None) for one in shown]
    print("\n".join(report.figures_table(shown, skipped)))
    print(f"accelerator.json in {output}", file=sys.stderr)
    return None if parts else command.FAILED


def _run_all(
    workload: Workload, rounds: int, output: pathlib.Path, limit_s: float
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Returns what was measured, why the other parts were not, and the accelerators' names."""
    deadline = time.monotonic() + limit_s
    processes = {part: _start(part, workload, rounds, output) for part in PARTS}
    parts, skipped, devices = {}, {}, []
    try:
        for part, process in processes.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                skipped[part] = f"not done after {limit_s:g} s"
                continue
            if process.returncode:
                error = (output / f"{part}.log").read_text().rstrip()
                skipped[part] = error.rpartition("\n")[2] or f"status {process.returncode}"
                continue
            document = json.loads((output / f"{part}.json").read_text())
            parts[part] = document["measured"]
            devices += [document["accelerator"]] if document["accelerator"] else []
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return parts, skipped, devices


def _start(part: str, workload: Workload, rounds: int, output: pathlib.Path) -> subprocess.Popen:
    own = [_XLA_FLAGS, _GRAPHS] if part == COMMAND_BUFFERS else [_XLA_FLAGS]
    environment = {
        **os.environ,
        "XLA_FLAGS": " ".join([os.environ.get("XLA_FLAGS", ""), *own]).strip(),
        # They share the device's memory.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    arguments = [
        f"--part={part}",
        f"--workload={json.dumps(dataclasses.asdict(workload))}",
        f"--rounds={rounds}",
        f"--lock={output / '.timing'}",
    ]
    program = [sys.executable, "-m", "experiments.benchmark.accelerator_parts", *arguments]
    with (output / f"{part}.json").open("w") as out, (output / f"{part}.log").open("w") as log:
        return subprocess.Popen(program, env=environment, stdout=out, stderr=log)


def figures(parts: Mapping[str, Any], batch_size: int) -> Iterator[Figure]:
    """Yields the figures of the measured parts, with the goals on an H100."""

    def images_per_s(one: Mapping[str, float]) -> float:
        return 1e3 * batch_size / one["median_ms"]

    for part, title in (("steps", ""), (COMMAND_BUFFERS, " with command buffers")):
        if part not in parts:
            continue
        step = parts[part]["step"]
        rate = float(np.median([images_per_s(row["weight"]) for row in step["paths"]]))
        yield _at_least(f"weight step{title}, images/s", rate, _IMAGES_PER_S, "{:.0f}")
        share = 1 / step["median_ratio"]
        yield _at_least(f"its rate{title} ÷ the static step's", share, _STATIC_SHARE, "{:.2f}")
        weight_ms = float(np.median([row["weight"]["median_ms"] for row in step["paths"]]))
        ratio = step["arch"]["median_ms"] / weight_ms
        name, bound = f"α step{title} ÷ weight step", f"≤ {_ARCH_RATIO:.2f}"
        yield Figure(name, f"{ratio:.2f}", bound, ratio <= _ARCH_RATIO)
    if "steps" in parts:
        fed = parts["steps"]["fed"]
        yield Figure(
            "a loop of both steps that reads photographs, images/s",
            f"{fed['pictures_per_s_in_loop']:.0f}, waits {100 * fed['waited_share']:.1f} % of its "
            f"time; the pipeline alone {fed['pictures_per_s_alone']:.0f}",
        )
        one = parts["steps"]["profile"]["weight"]
        yield Figure(
            "weight step of the largest path: device at work",
            f"{one['busy_ms']:.1f} of {one['wall_ms']:.1f} ms",
        )
    if "kernels" in parts:
        switch, rows = parts["kernels"]["switch"], parts["kernels"]["strided"]
        yield Figure(
            "a switch, two nested ones", "{choice_us:.1f}, {nested_us:.1f} µs".format(**switch)
        )
        for what in ("forward", "gradient"):
            ratios = [
                row[f"space_to_depth_{what}"]["median_ms"] / row[f"ours_{what}"]["median_ms"]
                for row in rows
            ]
            shown = f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "no such layer"
            yield Figure(f"depthwise of stride 2, {what}: space to depth ÷ ours", shown)
    if "parity" in parts:
        for name, difference in parts["parity"]["max_difference"].items():
            bound = f"≤ {_DIFFERENCE:.0e}"
            met = difference <= _DIFFERENCE
            yield Figure(f"{name}: float32 logits − the CPU's", f"{difference:.1e}", bound, met)
    if MOBILENET in parts:
        ours, torch = (images_per_s(parts[MOBILENET][name]) for name in ("ours", "torch"))
        yield Figure("MobileNetV2, images/s: ours, PyTorch", f"{ours:.0f}, {torch:.0f}")


def _at_least(name: str, value: float, bound: float, text: str) -> Figure:
    return Figure(name, text.format(value), f"≥ {text.format(bound)}", value >= bound)


if __name__ == "__main__":
    flags.DEFINE_string("space", "proxyless", f"Search space: {', '.join(SPACES)}, or a file.")
    flags.DEFINE_integer("batch_size", 256, "Examples per step.", lower_bound=2)
    flags.DEFINE_integer("train_image_size", 224, "Side of the images in px.", lower_bound=8)
    flags.DEFINE_integer("num_classes", 1000, "Number of classifier outputs.", lower_bound=2)
    flags.DEFINE_enum("precision", "bf16", tuple(PRECISIONS), "Precision of the steps.")
    flags.DEFINE_integer("steps", 20, "Repeats of everything that is timed.", lower_bound=2)
    flags.DEFINE_float("limit_s", 480.0, "Time after which parts are stopped, s.", lower_bound=1)
    flags.DEFINE_string("output", "runs/accelerator", "Folder to write to.")
    command.run(main)
