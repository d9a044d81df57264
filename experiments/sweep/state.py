"""State of a sweep: which runs wait, run, are done or have failed; sweep.json keeps it."""

import dataclasses
import json
import os
import pathlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import submitit

from experiments.runs.run_folder import is_held, lock_folder
from experiments.sweep.launch import Launcher, last_line
from experiments.sweep.plan import Run
from jaxnas.json_file import write_object
from profiling.progress import Progress

FILE = "sweep.json"
POLL_S = 0.5
WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"


@dataclasses.dataclass
class State:
    """State of one run.

    Attributes:
      status: one of the four above.
      job: submitit's number of the run's last job.
      error: last line of a failed run's standard error.
      result: content of result.json of a run that is done.
    """

    status: str = WAITING
    job: str | None = None
    error: str | None = None
    result: dict[str, Any] | None = None


class Sweep:
    """States of a sweep's runs, written to sweep.json after every change."""

    def __init__(self, folder: pathlib.Path, program: str, runs: Sequence[Run]):
        """Resumes from sweep.json; the folders of the runs show which ones are done.

        Raises:
          ValueError: another process holds this sweep, or its sweep.json is unreadable.
        """
        self.folder, self.program, self.runs = folder, program, runs
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(folder)
        before = self._read()
        self.states = {run.name: before.get(run.name, State()) for run in runs}
        for run in runs:
            self._check_done(run)
        self.write()

    def drive(
        self, launcher: Launcher, parallel: int | None, retry: bool, progress: Progress
    ) -> None:
        """Starts runs until all are done or have failed.

        Args:
          launcher: starts the jobs.
          parallel: number of runs at once; None is all.
          retry: also start runs that failed before.
          progress: shows the sweep.
        """
        if retry:
            for state in self.states.values():
                if state.status == FAILED:
                    state.status, state.error = WAITING, None
        jobs = self._running_jobs(launcher)
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
        write_object(self.folder / FILE, self.document())

    def document(self) -> dict[str, Any]:
        """Returns the content of sweep.json."""
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
                f"{file} is not the state of a sweep ({error}); remove it: the folders of the "
                f"runs show what is done"
            ) from error

    def _check_done(self, run: Run) -> bool:
        """Updates the state from the run's folder; returns whether the run is done."""
        state, file = self.states[run.name], pathlib.Path(run.config.workdir, "result.json")
        if file.exists():
            state.status, state.result = DONE, json.loads(file.read_text())
            state.error = None
        elif state.status == DONE:  # its folder was removed
            self.states[run.name] = State()
        return state.status == DONE

    def _running_jobs(self, launcher: Launcher) -> dict[str, submitit.Job]:
        """Returns Slurm jobs of an earlier start that still run; runs of local jobs wait again."""
        jobs = {}
        for name, state in self.states.items():
            if state.status == RUNNING:
                job = None if state.job is None else launcher.find(state.job)
                if job is None:
                    state.status = WAITING
                else:
                    jobs[name] = job
        return jobs

    def _next(self, parallel: int | None) -> list[Run]:
        """Returns the runs to start now; those that a job of an earlier start holds count."""
        waiting = [
            run
            for run in self.runs
            if self.states[run.name].status == WAITING and not self._check_done(run)
        ]
        idle = [run for run in waiting if not is_held(pathlib.Path(run.config.workdir))]
        if parallel is None:
            return idle
        running = self._count(RUNNING) + len(waiting) - len(idle)
        return idle[: max(0, parallel - running)]

    def _end(self, run: Run, job: submitit.Job, show: Callable[[str, str], None]) -> None:
        """Records how a job ended."""
        state = self.states[run.name]
        if self._check_done(run):
            assert state.result is not None
            show(f"✓ {run.name}  {summary(state.result)}", "green")
        elif job.exception() is None and job.result() == 0:
            state.status = WAITING  # it was preempted and has saved
        else:
            state.status, state.error = FAILED, last_line(job)
            show(f"✗ {run.name}  {state.error}", "red")
        self.write()

    def _abandon(self, launcher: Launcher, jobs: Mapping[str, submitit.Job]) -> None:
        """Stops local jobs and waits until they have saved; Slurm jobs keep running."""
        if launcher.kind == "local":
            for job in jobs.values():
                if not job.done():
                    # A local job's number is its process id. job.cancel would kill it after 1 s.
                    os.kill(int(job.job_id), signal.SIGTERM)
            for name, job in jobs.items():
                while not job.done():
                    time.sleep(POLL_S)
                self.states[name].status = WAITING
        self.write()

    def _count(self, *statuses: str) -> int:
        return sum(state.status in statuses for state in self.states.values())


def summary(result: Mapping[str, Any]) -> str:
    """Returns latency and accuracy of a run in a few words."""
    latency = (
        "not measured"
        if result["device_ms"] is None
        else f"{result['device_ms']:.2f} ms on {result['device']}"
    )
    return f"{latency}, top-1 {100 * result['accuracy']['top1']:.1f} %"
