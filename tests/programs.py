"""The programs as users run them, forked from a process that has imported what they need.

A program takes seconds to import that, and the tests start programs hundreds of times. Each is a
process of its own here as well: it can be killed, has its own output, environment and folder.
`run_fresh` starts the interpreter itself, as `python -m` does.
"""

import gc
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping

ROOT = pathlib.Path(__file__).parents[1]
# Libraries, and the modules of the project that import most of the others.
_IMPORTED = (
    "experiments.runs.delivery",
    "experiments.runs.program",
    "experiments.search.pareto",
    "experiments.study.results",
    "experiments.train.fit",
    "flax.nnx",
    "jax2onnx",
    "matplotlib.figure",
    "onnxruntime",
    "openvino",
    "optax",
    "orbax.checkpoint",
    "rich.progress",
    "scipy.stats",
    "sklearn.datasets",
    "tensorflow_datasets",
)
# For what takes a few steps only. Most programs take tens or hundreds, which no optimization at all
# would make slow.
UNOPTIMIZED = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
XLA_FLAGS = UNOPTIMIZED.replace("level=0", "level=1")
_ENVIRONMENT = {"COLUMNS": "120", "XLA_FLAGS": XLA_FLAGS}
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([*_IMPORTED])


class Program:
    """A program at work, with the methods of `subprocess.Popen` that tests need."""

    def __init__(
        self,
        name: str,
        *arguments: str,
        cwd: pathlib.Path = ROOT,
        environment: Mapping[str, str] | None = None,
    ):
        """Starts `python -m name arguments...`.

        Args:
          environment: variables beside those of this process; not those that libraries read when
            they are imported.
        """
        folder = pathlib.Path(tempfile.mkdtemp(dir=os.environ["PROGRAM_OUTPUTS"]))
        self._stdout, self._stderr = folder / "stdout", folder / "stderr"
        variables = {**os.environ, **_ENVIRONMENT, **(environment or {})}
        self._process = _forks.Process(
            target=_run,
            args=((name, *arguments), str(cwd), variables, str(self._stdout), str(self._stderr)),
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout_s: float = 600) -> int:
        """The exit status; minus the signal's number where one ended it."""
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout_s, stderr=self.stderr)
        return self._process.exitcode

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 400) -> None:
        """Waits while it works; fails where it ends, or the time does, before the condition."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.poll() is None and time.monotonic() < deadline, self.stderr
            time.sleep(0.02)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        self._process.join()

    @property
    def stdout(self) -> str:
        """Standard output so far."""
        return self._stdout.read_text(errors="replace") if self._stdout.exists() else ""

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace") if self._stderr.exists() else ""


def run_program(
    *arguments: str, cwd: pathlib.Path = ROOT, timeout_s: float = 600, **environment: str
) -> subprocess.CompletedProcess:
    """Runs a program to its end."""
    program = Program(*arguments, cwd=cwd, environment=environment)
    try:
        status = program.wait(timeout_s)
    finally:
        program.kill()
    return subprocess.CompletedProcess(arguments, status, program.stdout, program.stderr)


def run_fresh(
    *arguments: str, cwd: pathlib.Path = ROOT, timeout_s: float = 600, **environment: str
) -> subprocess.CompletedProcess:
    """`python -m ...` as a user runs it, with a start of its own."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **_ENVIRONMENT, **environment},
    )


def less_garbage_collection() -> None:
    """Leaves out of collections what is there already, which while JAX traces take a tenth."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _run(
    arguments: tuple[str, ...], cwd: str, variables: dict[str, str], stdout: str, stderr: str
) -> None:
    """Becomes the program, in the forked process."""
    for number, file in ((1, stdout), (2, stderr)):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout = open(1, "w", buffering=1, closefd=False)
    sys.stderr = open(2, "w", buffering=1, closefd=False)
    os.environ.clear()
    os.environ.update(variables)
    time.tzset()
    os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
    sys.path.insert(0, cwd)
    sys.argv = list(arguments)
    less_garbage_collection()
    sys.modules.pop(arguments[0], None)  # another program may have imported it as a module
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
