"""A sweep on its way: what is done, runs, has failed; kept in sweep.json after every change."""

import dataclasses
import fcntl
import json
import os
import pathlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import submitit

from experiments.runs.folder import is_held
from experiments.sweep.launch import Launcher, last_line
from experiments.sweep.plan import Run
from profiling.progress import Progress

FILE = "sweep.json"
POLL_S = 0.5
WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"


@dataclasses.dataclass
class State:
    """Of one run.

    Attributes:
      status: one of the four above.
      job: submitit's number of the job that runs it, or ran it last.
      error: of a failed run, the last that it said.
      result: of a run that is done, its result.json.
    """

    status: str = WAITING
    job: str | None = None
    error: str | None = None
    result: dict[str, Any] | None = None


class Sweep:
    """The states of a sweep's runs, in the folder's sweep.json."""

    def __init__(self, folder: pathlib.Path, program: str, runs: Sequence[Run]):
        """Takes up what an earlier start left; what is done is told by the runs' own folders.

        Raises:
          ValueError: another process is at this sweep, or its file is none.
        """
        self.folder, self.program, self.runs = folder, program, runs
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"--output={folder}: another process is at this sweep") from None
        before = self._read()
        self.states = {run.name: before.get(run.name, State()) for run in runs}
        for run in runs:
            self._look(run)
        self.write()

    def drive(
        self, launcher: Launcher, parallel: int | None, retry: bool, progress: Progress
    ) -> None:
        """Runs what is not done, until nothing is left to run.

        Args:
          parallel: runs at once; None is all.
          retry: also those that failed before.
        """
        if retry:
            for state in self.states.values():
                if state.status == FAILED:
                    state.status, state.error = WAITING, None
        jobs = self._jobs_under_way(launcher)
        with progress.phase("sweep", len(self.runs), self._count(DONE, FAILED)) as phase:
            try:
                while self._count(WAITING, RUNNING):
                    for run in self._next(parallel):
                        state = self.states[run.name]
                        jobs[run.name] = launcher.start(
                            [f"experiments.{self.program}", *run.arguments]
                        )
                        state.status, state.job = RUNNING, jobs[run.name].job_id
                        self.write()
                    time.sleep(POLL_S)
                    for run in self.runs:
                        if self.states[run.name].status == RUNNING and jobs[run.name].done():
                            self._end(run, jobs.pop(run.name), progress.print)
                    running = [
                        run.name for run in self.runs if self.states[run.name].status == RUNNING
                    ]
                    phase.update(self._count(DONE, FAILED), f"running {'; '.join(running)}")
            except BaseException:
                self._abandon(launcher, jobs)
                raise
            self.write()
            phase.end(f"{self._count(DONE)} done, {self._count(FAILED)} failed")

    def write(self) -> None:
        """Writes sweep.json, whole or not at all."""
        partial = self.folder / f"{FILE}.partial"
        partial.write_text(json.dumps(self.document(), indent=1) + "\n")
        partial.replace(self.folder / FILE)

    def document(self) -> dict[str, Any]:
        """What sweep.json holds."""
        return {
            "schema": 1,
            "program": self.program,
            "runs": [
                {
                    "name": run.name,
                    "flags": run.values,
                    "workdir": run.config.workdir,
                    **dataclasses.asdict(self.states[run.name]),
                }
                for run in self.runs
            ],
        }

    def _read(self) -> dict[str, State]:
        file = self.folder / FILE
        if not file.exists():
            return {}
        try:
            runs = json.loads(file.read_text())["runs"]
            return {
                run["name"]: State(
                    **{field.name: run[field.name] for field in dataclasses.fields(State)}
                )
                for run in runs
            }
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file} is no state of a sweep ({error}); remove it: what is done "
                f"is known from the runs' folders"
            ) from error

    def _look(self, run: Run) -> bool:
        """Whether the run's folder has its result, which its state then has, too."""
        state, file = self.states[run.name], pathlib.Path(run.config.workdir, "result.json")
        if file.exists():
            state.status, state.result = DONE, json.loads(file.read_text())
            state.error = None
        elif state.status == DONE:  # its folder was removed
            self.states[run.name] = State()
        return state.status == DONE

    def _jobs_under_way(self, launcher: Launcher) -> dict[str, submitit.Job]:
        """Those of an earlier start; its local ones ended with it, and their runs wait again."""
        jobs = {}
        for name, state in self.states.items():
            if state.status == RUNNING:
                job = launcher.find(state.job)
                if job is None:
                    state.status = WAITING
                else:
                    jobs[name] = job
        return jobs

    def _next(self, parallel: int | None) -> list[Run]:
        """What to start now; a run that outlived an earlier start of the sweep is waited for."""
        waiting = [
            run
            for run in self.runs
            if self.states[run.name].status == WAITING
            and not self._look(run)
            and not is_held(pathlib.Path(run.config.workdir))
        ]
        free = len(waiting) if parallel is None else max(0, parallel - self._count(RUNNING))
        return waiting[:free]

    def _end(self, run: Run, job: submitit.Job, tell: Callable[[str, str], None]) -> None:
        """Notes how a job ended."""
        state = self.states[run.name]
        if self._look(run):
            tell(f"✓ {run.name}  {summary(state.result)}", "green")
        elif job.exception() is None and job.result() == 0:
            state.status = WAITING  # it was asked to stop and has saved
        else:
            state.status, state.error = FAILED, last_line(job)
            tell(f"✗ {run.name}  {state.error}", "red")
        self.write()

    def _abandon(self, launcher: Launcher, jobs: Mapping[str, submitit.Job]) -> None:
        """Stops what runs on this machine, and waits until it has saved; Slurm's goes on."""
        if launcher.kind == "local":
            for job in jobs.values():
                if not job.done():
                    # A local job's number is its process; job.cancel kills it a second later.
                    os.kill(int(job.job_id), signal.SIGTERM)
            for name, job in jobs.items():
                while not job.done():
                    time.sleep(POLL_S)
                self.states[name].status = WAITING
        self.write()

    def _count(self, *statuses: str) -> int:
        return sum(state.status in statuses for state in self.states.values())


def summary(result: Mapping[str, Any]) -> str:
    """A run's result in a few words."""
    latency = (
        "not measured"
        if result["device_ms"] is None
        else f"{result['device_ms']:.2f} ms on {result['device']}"
    )
    return f"{latency}, top-1 {100 * result['accuracy']['top1']:.1f} %"
