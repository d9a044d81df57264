"""Parts `compile`, `start` and `search`: time to start, measured in fresh processes.

`compile` and `start` run `experiments.benchmark.first_step`, which needs only JAX. `search` runs
the quick start's search itself, twice; the second run resumes the first, which was stopped.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.benchmark.workload import Workload

_ROOT = pathlib.Path(__file__).parents[2]
_CACHE = "JAX_COMPILATION_CACHE_DIR"
_KEPT_STEPS = 2  # weight, arch
_TAIL = 2000  # characters of a failed process's standard error
_SEARCH_NEEDS = (
    "openvino",
    "onnx",
    "jax2onnx",
    "onnxruntime",
    "grain",
    "orbax",
    "tensorflow_datasets",
    "matplotlib",
)


class ProcessFailed(RuntimeError):
    """A process that the benchmark started ended before it printed its results."""


def first_step(
    workload: Workload, *, cache: str | None = None, rounds: int = 0
) -> tuple[dict, dict | None]:
    """Runs `experiments.benchmark.first_step` in a fresh process.

    Args:
      workload: size of the search.
      cache: folder of compiled programs; None is no cache.
      rounds: number of timed repeats of each step after the first.

    Returns:
      The first document, with `to_first_step_s` from before the process starts until its first
      step is done; and the second document, None if `rounds` is 0.

    Raises:
      ProcessFailed: with the end of its standard error.
    """
    environment = {key: value for key, value in os.environ.items() if key != _CACHE}
    if cache is not None:
        environment[_CACHE] = cache
    if workload.devices is not None:
        environment |= {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": (
                f"{os.environ.get('XLA_FLAGS', '')} "
                f"--xla_force_host_platform_device_count={workload.devices}"
            ),
        }
    arguments = [f"--workload={json.dumps(dataclasses.asdict(workload))}", f"--rounds={rounds}"]
    start = time.perf_counter()
    with _process("experiments.benchmark.first_step", arguments, environment) as process:
        first = json.loads(_line(process))
        total = time.perf_counter() - start
        reported = (
            first["init_s"] + first["first_step_s"] + sum(map(_seconds, first["programs"].values()))
        )
        first |= {"to_first_step_s": total, "interpreter_and_imports_s": total - reported}
        second = json.loads(_line(process)) if rounds else None
    return first, second


def cold_compile(workload: Workload) -> dict[str, Any]:
    """Measures part `compile`: tracing, lowering and compilation of both steps without a cache."""
    programs = first_step(workload)[0]["programs"]
    return {"programs": programs, "total_s": sum(map(_seconds, programs.values()))}


def _seconds(program: dict[str, float]) -> float:
    return sum(program.values())


def second_start(workload: Workload, starts: int) -> dict[str, Any]:
    """Measures part `start`: a process until its first step is done, with cached programs.

    Args:
      workload: size of the search.
      starts: number of starts with a filled cache, of which the median is taken.
    """
    with tempfile.TemporaryDirectory() as cache:
        cold, _ = first_step(workload, cache=cache, rounds=1)  # ends once both steps are stored
        warm = [first_step(workload, cache=cache)[0] for _ in range(starts)]
    seconds = [one["to_first_step_s"] for one in warm]
    middle = warm[int(np.argsort(seconds)[len(seconds) // 2])]
    return {
        "cold_s": cold["to_first_step_s"],
        "median_s": float(np.median(seconds)),
        "min_s": min(seconds),
        "max_s": max(seconds),
        "count": starts,
        "where": middle,
    }


def search_start() -> dict[str, Any]:
    """Measures part `search`: the quick start's command, stopped and repeated.

    A search logs every tenth step, so that the first line of its log is the first sign of its
    steps. `to_logged_s` is the time from before the process starts to that line, `steps` the
    number of steps taken by then.

    Raises:
      ModuleNotFoundError: a package that the search needs is missing.
      ProcessFailed: with the end of its standard error.
    """
    missing = [name for name in _SEARCH_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"the search needs {', '.join(missing)}", name=missing[0])
    with tempfile.TemporaryDirectory() as folder:
        cold = _search(pathlib.Path(folder))
        return {"cold": cold, "second": _search(pathlib.Path(folder))}


def _search(folder: pathlib.Path) -> dict[str, float]:
    metrics = folder / "run" / "metrics.jsonl"
    logged = _logged_steps(metrics)
    arguments = [
        "--flagfile=vpu.flags",
        f"--workdir={metrics.parent}",
        f"--store={folder / 'store.sqlite'}",
    ]
    start, compiled_s = time.perf_counter(), None
    with _process(
        "experiments.search",
        arguments,
        {**os.environ, _CACHE: str(folder / "xla")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        resumed = 0
        while compiled_s is None:
            line = _line(process)
            if "resuming from step" in line:
                resumed = int(line.split("step")[1].split()[0])
            if "✓ compile" in line:
                compiled_s = time.perf_counter() - start
        while _logged_steps(metrics) == logged:
            if process.poll() is not None:
                raise ProcessFailed(f"the search ended with {process.returncode} before a step")
            time.sleep(0.01)
        logged_s = time.perf_counter() - start
        step = _logged_steps(metrics)[-1]
        # A second start loads these files; the steps may still be compiling.
        while len([*(folder / "xla" / "steps").glob("*-*")]) < _KEPT_STEPS:
            if process.poll() is not None:
                raise ProcessFailed(
                    f"the search ended with {process.returncode} and stored no compiled steps"
                )
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.communicate()
    return {"to_compiled_s": compiled_s, "to_logged_s": logged_s, "steps": step - resumed}


def _logged_steps(metrics: pathlib.Path) -> list[int]:
    """Returns the steps of the complete lines of metrics.jsonl."""
    if not metrics.exists():
        return []
    lines = metrics.read_text().splitlines(True)
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def _line(process: subprocess.Popen[str]) -> str:
    """Returns the next line of standard error if it is piped, of standard output otherwise."""
    stream = process.stderr or process.stdout
    assert stream is not None and isinstance(process.args, list)
    line = stream.readline()
    if not line:
        raise ProcessFailed(f"{' '.join(process.args[1:])} ended with {process.wait()}")
    return line


@contextlib.contextmanager
def _process(
    module: str,
    arguments: list[str],
    environment: dict[str, str],
    stdout: int = subprocess.PIPE,
    stderr: int | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Runs `python -m module` in the project's folder and kills it at the end of the block.

    Standard error goes to a file unless it is piped; `ProcessFailed` quotes its end.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=_ROOT,
            env=environment,
            stdout=stdout,
            text=True,
            stderr=errors if stderr is None else stderr,
        )
        try:
            yield process
        except ProcessFailed as error:
            errors.seek(0)
            raise ProcessFailed(f"{error}: {errors.read()[-_TAIL:]}") from error
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
