"""A sweep's runs as jobs of submitit, on this machine or by Slurm."""

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import submitit

LAUNCHERS = ("local", "slurm")
_LOCAL_MINUTES = 60 * 24 * 365  # submitit ends local jobs after two hours unless told


class Program:
    """`python -m …` as a job: what its standard streams say stands in the job's logs."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]):
        """Args: environment: what differs from the job's own."""
        self._arguments, self._environment = list(arguments), dict(environment)
        self._process: subprocess.Popen | None = None

    def __call__(self) -> int:
        """Runs it; returns its exit status, of which 0 without a result is a run that saved."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", *self._arguments], env={**os.environ, **self._environment}
        )
        # The program saves and ends; this process waits for it, whoever asked.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._process.send_signal(signal.SIGTERM))
        return self._process.wait()

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Called by submitit before a time limit or a preemption: saves, to be queued anew."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        return submitit.helpers.DelayedSubmission(Program(self._arguments, self._environment))


class Launcher:
    """Starts jobs and tells how they are."""

    def __init__(self, kind: str, logs: pathlib.Path, parameters: Mapping[str, Any]):
        """Makes ready to start jobs.

        Args:
          kind: one of LAUNCHERS.
          logs: folder of the jobs' logs and of submitit's own files.
          parameters: of `submitit.AutoExecutor.update_parameters`, for Slurm.

        Raises:
          ValueError: Slurm is not there, or has no such parameter.
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
        """A job that runs `python -m` with these arguments."""
        environment = {}
        if self.kind == "local" and "CUDA_VISIBLE_DEVICES" in os.environ:
            # submitit gives a local job no GPU unless it is told how many.
            environment["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
        return self._executor.submit(Program(arguments, environment))

    def find(self, job_id: str) -> submitit.Job | None:
        """The job of an earlier start; None where none can have outlived it."""
        return submitit.SlurmJob(self._logs, job_id) if self.kind == "slurm" else None


def last_line(job: submitit.Job) -> str:
    """The last that a job said on standard error, or why there is none."""
    lines = [
        line
        for line in (job.stderr() or "").splitlines()
        if line.strip() and not line.startswith("submitit ")
    ]
    return lines[-1].strip() if lines else "it said nothing"
