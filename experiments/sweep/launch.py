"""Runs of a sweep as submitit jobs, on this machine or with Slurm."""

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import submitit

LAUNCHERS = ("local", "slurm")
_LOCAL_MINUTES = 60 * 24 * 365  # submitit's default ends local jobs after two hours


class Program:
    """`python -m …` as a job; its standard streams go to the logs of the job."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]):
        """Prepares the job.

        Args:
          arguments: module and its command line.
          environment: variables to add to the job's own.
        """
        self._arguments, self._environment = list(arguments), dict(environment)
        self._process: subprocess.Popen | None = None

    def __call__(self) -> int:
        """Runs the program; returns its exit status: 0 without a result means it saved a state."""
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", *self._arguments], env={**os.environ, **self._environment}
        )
        # Either signal makes the program save and exit; this process waits for that.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: process.send_signal(signal.SIGTERM))
        return process.wait()

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Saves and resubmits; submitit calls it before a time limit or a preemption."""
        assert self._process is not None, "submitit starts a job before it checkpoints it"
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        return submitit.helpers.DelayedSubmission(Program(self._arguments, self._environment))


class Launcher:
    """Starts and finds jobs."""

    def __init__(self, kind: str, logs: pathlib.Path, parameters: Mapping[str, Any]):
        """Prepares to start jobs.

        Args:
          kind: one of LAUNCHERS.
          logs: folder of the jobs' logs and of submitit's own files.
          parameters: arguments of `submitit.AutoExecutor.update_parameters`, for Slurm.

        Raises:
          ValueError: Slurm is unavailable, or has no such parameter.
        """
        self.kind, self._logs = kind, logs
        try:
            self._executor = submitit.AutoExecutor(folder=logs, cluster=kind)
            self._executor.update_parameters(
                **({"timeout_min": _LOCAL_MINUTES} if kind == "local" else parameters)
            )
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            raise ValueError(f"--launcher={kind}: {error}") from error

    def start(self, arguments: Sequence[str]) -> submitit.Job:
        """Starts a job that runs `python -m` with these arguments."""
        environment = {}
        if self.kind == "local" and "CUDA_VISIBLE_DEVICES" in os.environ:
            # By default submitit hides all GPUs from a local job.
            environment["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
        return self._executor.submit(Program(arguments, environment))

    def find(self, job_id: str) -> submitit.Job | None:
        """Returns the job of an earlier start; None for local jobs, which cannot be found again."""
        return submitit.SlurmJob(self._logs, job_id) if self.kind == "slurm" else None


def last_line(job: submitit.Job) -> str:
    """Returns the last line that a job wrote to standard error, without submitit's own lines."""
    lines = [
        line
        for line in (job.stderr() or "").splitlines()
        if line.strip() and not line.startswith("submitit ")
    ]
    return lines[-1].strip() if lines else "no output on standard error"
