"""Part `profile`: time of a step by kind of operation, from XLA's profiler."""

import collections
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from experiments.benchmark.steps import Steps
from experiments.benchmark.workload import Workload

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = .*?\s(?P<opcode>[a-z][\w\-]*)\(")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
# Opcodes that contain other instructions; their time is the time of those.
_CONTAINERS = ("conditional", "while", "call")
UNKNOWN = "not attributed"
COPIES = "copies between host and device"


def profile(programs: Steps, workload: Workload, rounds: int) -> dict[str, Any]:
    """Measures ms per step by kind of operation: weight step and static step of the largest path.

    On an accelerator `busy_ms` is the time its streams executed operations. The rest of `wall_ms`
    is waiting, including the host's for the indices of `lax.switch`. On a CPU operations run in
    parallel, so that `busy_ms` can exceed `wall_ms`.
    """
    path = workload.largest_path
    static = programs.static(path)
    return {
        "weight": _profile(
            lambda: programs.supernet.weight_step(path), programs.supernet.weight, rounds
        ),
        "static": _profile(static.step, static.compiled, rounds),
    }


def kinds(hlo: str) -> dict[str, str | None]:
    """Returns the kind of each instruction of an HLO text by name; None for containers."""
    result: dict[str, str | None] = {}
    for line in hlo.splitlines():
        match = _INSTRUCTION.match(line)
        if match is None:
            continue
        op_name = _OP_NAME.search(line)
        result[match["name"]] = (
            None
            if match["opcode"] in _CONTAINERS
            else _kind(line, match["opcode"], op_name[1] if op_name else "")
        )
    return result


def _kind(line: str, opcode: str, op_name: str) -> str:
    if (
        "feature_group_count=" in line
        or "_shifted_sum" in op_name
        or ("_depthwise_backward" in op_name)
    ):
        return "depthwise convolutions"
    if opcode == "convolution" or "conv_general_dilated" in op_name or "$conv" in line:
        return "dense convolutions"
    if "dot_general" in op_name or opcode == "dot":
        return "matrix products"
    if "gather" in op_name or "scatter" in op_name:
        return "gather and scatter"
    if opcode.startswith("copy"):
        return "copies on the device"
    return "normalization and elementwise"


def _profile(call: Callable[[], Any], program: jax.stages.Compiled, rounds: int) -> dict[str, Any]:
    hlo = program.as_text()
    assert hlo is not None, "XLA's compiled programs have a text"
    kind_of = kinds(hlo)
    header = re.match(r"HloModule ([\w.\-]+)", hlo)
    assert header is not None
    module = header[1]
    jax.block_until_ready(call())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            start = time.perf_counter()
            for _ in range(rounds):
                jax.block_until_ready(call())
            wall_ms = 1e3 * (time.perf_counter() - start) / rounds
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(file))
    total_ms: dict[str, float] = collections.defaultdict(float)
    for name, stats, ms in _events(data):
        if stats.get("hlo_module") == module:
            kind = kind_of.get(stats.get("hlo_op", ""), UNKNOWN)
            if kind is not None:
                total_ms[kind] += ms / rounds
        elif "hlo_module" not in stats:
            total_ms[COPIES if name.startswith("Memcpy") else UNKNOWN] += ms / rounds
    ordered = dict(sorted(total_ms.items(), key=lambda item: -item[1]))
    return {"wall_ms": wall_ms, "busy_ms": sum(ordered.values()), "kinds_ms": ordered}


def _events(data: Any) -> Iterator[tuple[str, dict[str, Any], float]]:
    """Yields (name, statistics, ms) of executed operations; on a CPU only those of a program."""
    accelerators = [
        plane
        for plane in data.planes
        if plane.name.startswith("/device:")
        and any(line.name.startswith("Stream") for line in plane.lines)
    ]
    for plane in accelerators or data.planes:
        for line in plane.lines:
            if accelerators and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                stats = dict(event.stats)
                if accelerators or "hlo_op" in stats:
                    yield event.name, stats, event.duration_ns / 1e6
