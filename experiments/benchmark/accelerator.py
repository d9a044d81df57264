"""Measures what one GPU does with the steps of a search, within a limit of time.

    python -m experiments.benchmark.accelerator --output=runs/accelerator

Compilation takes most of the time, so each part is a process of its own. The parts that compile
steps start at the same time; each then has the GPU to itself while it times, but others may still
compile. The kernels and the comparison with the CPU follow. Parts that have not finished after
--limit_s are stopped; what they measured until then is kept.

XLA tries no convolution algorithms on the device here, which would take minutes more. The steps of
a search can be faster.

accelerator.json has what was measured, and the parts' logs are beside it.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from experiments.benchmark import report
from experiments.benchmark.figures import Figure
from experiments.benchmark.machine import machine
from experiments.benchmark.workload import Workload
from experiments.runs.preemption import terminate_like_control_c
from jaxnas.builtin_spaces import SPACES
from jaxnas.json_file import write_object
from jaxnas.pixels import PRECISIONS
from profiling import command

SCHEMA = 1
# Parts of a wave run at the same time. Kernels compile between their timings.
WAVES = (("steps", "command_buffers", "mobilenet_v2"), ("kernels",), ("parity",))
_QUICK_COMPILATION = "--xla_gpu_autotune_level=0"
# Where the driver can, XLA then runs switches as parts of a graph, without the host.
XLA_FLAGS = {
    "steps": f"{_QUICK_COMPILATION} --xla_gpu_enable_command_buffer=-CONDITIONAL",
    "command_buffers": (
        f"{_QUICK_COMPILATION} --xla_gpu_enable_command_buffer=+CONDITIONAL,+CONVOLUTION,+WHILE"
    ),
}
_ERROR = re.compile(r"^(?:error: |[\w.]*(?:Error|Exception)\b)")


def main(argv: Sequence[str]) -> int | None:
    """Measures the parts, writes accelerator.json after each wave, and prints the figures."""
    del argv
    args = flags.FLAGS
    with command.usage_errors():
        workload = Workload(
            args.space, args.batch_size, args.train_image_size, args.num_classes, args.precision
        )
        workload.check()
        output = command.output_folder("output", args.output)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", "-m", "experiments.benchmark.accelerator", *sys.argv[1:]]),
        "machine": machine(),
        "workload": dataclasses.asdict(workload),
        "rounds": args.steps,
        "xla_flags": {part: xla_flags(part) for wave in WAVES for part in wave},
        "parts": {},
        "skipped": {},
    }
    arguments = [
        f"--workload={json.dumps(document['workload'])}",
        f"--rounds={args.steps}",
        f"--allow_cpu={args.allow_cpu}",
    ]
    deadline = time.monotonic() + args.limit_s
    terminate_like_control_c()
    try:
        for wave in WAVES:
            run_wave(wave, arguments, deadline, output, document)
            write_object(output / "accelerator.json", document)
    except KeyboardInterrupt:
        print(f"stopped; the waves before are in {output / 'accelerator.json'}", file=sys.stderr)
        return command.FAILED
    shown = [*figures(document["parts"], workload.batch_size)]
    print("\n".join(report.figures_table(shown, document["skipped"])))
    print(f"accelerator.json in {output}", file=sys.stderr)
    return None if shown else command.FAILED


def run_wave(
    wave: Sequence[str],
    arguments: Sequence[str],
    deadline: float,
    output: pathlib.Path,
    document: dict[str, Any],
) -> None:
    """Runs the wave's parts at the same time.

    Args:
      wave: names of the parts.
      arguments: of each part's program.
      deadline: time of the monotonic clock at which they are stopped.
      output: folder of their logs.
      document: what they measured is added to `parts` and `machine`, and why something is missing
        to `skipped`.
    """
    processes: dict[str, subprocess.Popen] = {}
    try:
        for part in wave:
            processes[part] = _start(part, arguments, output)
        for part, process in processes.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                document["skipped"][part] = "not done within the limit of time"
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    for part, process in processes.items():
        file = output / f"{part}.json"
        if file.exists():
            measured = json.loads(file.read_text())
            document["parts"][part] = measured["measured"]
            document["machine"] |= measured["device"]
            file.unlink()
        if process.returncode and part not in document["skipped"]:
            document["skipped"][part] = _reason(output / f"{part}.log", process.returncode)


def xla_flags(part: str) -> str:
    """Returns XLA_FLAGS of a part's process: those of this process, and its own."""
    own = XLA_FLAGS.get(part, _QUICK_COMPILATION)
    return f"{os.environ.get('XLA_FLAGS', '')} {own}".strip()


def _start(part: str, arguments: Sequence[str], output: pathlib.Path) -> subprocess.Popen:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    environment = {
        **os.environ,
        "XLA_FLAGS": xla_flags(part),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # they share the device's memory
        "JAX_TRACEBACK_FILTERING": "off",  # whose note would be the last line
    }
    if platforms and "cpu" not in platforms.split(","):
        environment["JAX_PLATFORMS"] = f"{platforms},cpu"  # which parity needs as well
    (output / f"{part}.json").unlink(missing_ok=True)
    program = [
        *(sys.executable, "-m", "experiments.benchmark.accelerator_parts", f"--part={part}"),
        *(*arguments, f"--lock={output / '.timing'}", f"--output={output / f'{part}.json'}"),
    ]
    with (output / f"{part}.log").open("w") as log:
        return subprocess.Popen(program, env=environment, stdout=log, stderr=log)


def _reason(log: pathlib.Path, status: int) -> str:
    errors = [line for line in log.read_text(errors="replace").splitlines() if _ERROR.match(line)]
    return errors[-1] if errors else f"status {status}, see {log.name}"


def figures(parts: Mapping[str, Any], batch_size: int) -> Iterator[Figure]:
    """Yields the figures of the measured parts, with the goals on an H100 at the default size."""

    def images_per_s(times: Mapping[str, float]) -> str:
        return f"{1e3 * batch_size / times['median_ms']:.0f}"

    for part, title in (("steps", ""), ("command_buffers", ", switches in command buffers")):
        if "step" not in parts.get(part, {}):
            continue
        step = parts[part]["step"]
        path = step["paths"][0]
        yield Figure(f"weight step{title}, images/s", images_per_s(path["weight"]), "H100: ≥ 4000")
        yield Figure(
            f"rate of the weight step ÷ rate of the static step{title}",
            f"{1 / step['median_ratio']:.2f}",
            "H100: ≥ 0.85",
        )
        ratio = step["arch"]["median_ms"] / path["weight"]["median_ms"]
        yield Figure(f"time of the α step ÷ time of the weight step{title}", f"{ratio:.2f}", "≤ 1")
    measured = parts.get("steps", {})
    if "profile" in measured:
        profiled = measured["profile"]["weight"]
        yield Figure(
            "weight step of the largest path in the profiler: device at work",
            f"{profiled['busy_ms']:.1f} of {profiled['wall_ms']:.1f} ms",
        )
    if "loop" in measured:
        loop = measured["loop"]
        yield Figure(
            "loop of both steps that reads photographs, images/s",
            f"{loop['pictures_per_s_in_loop']:.0f}, waits {100 * loop['waited_share']:.1f} % of "
            f"its time",
        )
    for part in ("kernels", "command_buffers"):
        if "switch" in parts.get(part, {}):
            switch = parts[part]["switch"]
            yield Figure(
                f"cost of a switch, of a nested one ({part.replace('_', ' ')})",
                f"{switch['choice_us']:.1f}, {switch['nested_us']:.1f} µs",
            )
    rows = parts.get("kernels", {}).get("strided")
    for what in ("forward", "gradient") if rows else ():
        ratios = [
            row[f"space_to_depth_{what}"]["median_ms"] / row[f"ours_{what}"]["median_ms"]
            for row in rows
        ]
        yield Figure(
            f"depthwise of stride 2, {what}: time by space to depth ÷ ours",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
        )
    for name, difference in parts.get("parity", {}).items():
        yield Figure(f"{name}: float32 logits against the CPU's", f"{difference:.1e}", "≤ 1e-04")
    for name, times in parts.get("mobilenet_v2", {}).items():
        yield Figure(f"MobileNetV2, {name}, images/s", images_per_s(times))


if __name__ == "__main__":
    flags.DEFINE_string("space", "proxyless", f"Search space: {', '.join(SPACES)}, or a file.")
    flags.DEFINE_integer("batch_size", 256, "Examples per step.", lower_bound=2)
    flags.DEFINE_integer("train_image_size", 224, "Side of the images in px.", lower_bound=8)
    flags.DEFINE_integer("num_classes", 1000, "Number of classifier outputs.", lower_bound=2)
    flags.DEFINE_enum("precision", "bf16", tuple(PRECISIONS), "Precision of the steps.")
    flags.DEFINE_integer("steps", 20, "Repeats of everything that is timed.", lower_bound=2)
    flags.DEFINE_float("limit_s", 480.0, "Time after which parts are stopped, s.", lower_bound=1)
    flags.DEFINE_bool("allow_cpu", False, "Measures the CPU where there is no accelerator.")
    flags.DEFINE_string("output", "runs/accelerator", "Folder to write to.")
    command.run(main)
