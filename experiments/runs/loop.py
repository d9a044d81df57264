"""The only training loop: takes, logs and saves the steps of a run, stops and resumes.

A batch depends only on seed and step, so a run resumes from its step number. The last step of an
epoch is evaluated before anything is saved, so no checkpoint lies between step and evaluation.
"""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, SupportsFloat, TypeVar

import jax

from experiments.runs.preemption import Stopped, agreed, stop_requests
from experiments.runs.prefetch import Feed
from experiments.runs.run_folder import Workdir
from jaxnas.checkpoint import Checkpoints
from jaxnas.data import UnreadablePicture
from profiling.progress import Progress

LOG_EVERY = 10
SKIPPED_AT_MOST = 10  # updates in a row that are not finite, after which a run ends
SEARCH, TRAIN, BEST = "search", "train", "best"  # folders of checkpoints
Metrics = Mapping[str, SupportsFloat]

_NOTES = {
    "ce": "loss {:.3f}",
    "top1": "top-1 {:.2f}",
    "expected_ms": "E[LAT] {:.2f} ms",
    "entropy": "entropy {:.2f}",
}


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient was infinite or not a number in many steps in a row."""


class LoopState(Protocol):
    """A state of which the loop reads only the number of steps taken."""

    @property
    def step(self) -> jax.Array:
        """Steps taken, int32 []."""


State = TypeVar("State", bound=LoopState)


@dataclasses.dataclass(frozen=True)
class Phase(Generic[State]):
    """Consecutive steps of one kind.

    Attributes:
      name: name in metrics.jsonl and for people.
      start, end: step of the run before the first step of the phase, and after the last.
      take: (state, steps of the phase already taken) → (state, metrics). If it fails to get a
        batch, it leaves the state unchanged.
      feeds: sources of the batches; `take` reads the first one in every step.
      epoch_steps: number of steps in an epoch.
      end_epoch: called with the state at the end of each epoch; returns a note for people.
      details: called with the state and the step of the run where metrics are logged, in all
        processes; returns further values for that line. May raise ProcessesDiffer.
    """

    name: str
    start: int
    end: int
    take: Callable[[State, int], tuple[State, Metrics]]
    feeds: Sequence[Feed]
    epoch_steps: int
    end_epoch: Callable[[State], str] | None = None
    details: Callable[[State, int], Mapping[str, object]] = lambda state, step: {}


class Loop(Generic[State]):
    """Takes a run from its newest checkpoint through its phases.

    Attributes:
      state: state of the training.
      step: number of steps of the run taken.
      resumed: whether the state was restored from a checkpoint.
    """

    def __init__(
        self,
        state: State,
        identity: Mapping[str, Any],
        workdir: Workdir,
        progress: Progress,
        *,
        name: str,
        first_step: int,
        checkpoint_seconds: int,
    ):
        """Restores the newest checkpoint, if there is one.

        Args:
          state: initial state, used without a checkpoint.
          identity: fields that distinguish two runs; a checkpoint of another run is refused.
          workdir: folder of the run.
          progress: shows the phases.
          name: name of the checkpoints' folder.
          first_step: step of the run at which the initial state starts.
          checkpoint_seconds: minimum time between checkpoints.

        Raises:
          ValueError: the checkpoint has another configuration.
          CheckpointUnreadable: all checkpoints are damaged.
        """
        self.state = state
        self._workdir, self._progress = workdir, progress
        self._first_step, self._checkpoint_seconds = first_step, checkpoint_seconds
        self._checkpoints = Checkpoints(checkpoint_folder(workdir.path, name), identity)
        self.resumed = self._checkpoints.latest_step() is not None
        if self.resumed:
            self.state, _ = self._checkpoints.restore(self.state)
        self.step = first_step + int(self.state.step)
        if self.resumed:
            progress.print(f"resuming from step {self.step} in {workdir.path}")
        self._saved_at = time.monotonic()

    def run(self, phase: Phase[State]) -> None:
        """Takes the remaining steps of a phase and closes its feeds.

        Raises:
          Stopped: the user or the system asked to stop; the state is saved.
          ProcessesDiffer: as `Phase.details`.
          UnreadablePicture: a picture cannot be decoded; the state before its step is saved.
          NonFiniteLoss: too many updates in a row were not finite; the previous checkpoint is kept.
        """
        started, step_at_start = time.monotonic(), self.step
        feed, note, epoch_note = phase.feeds[0], "", ""
        with (
            self._progress.phase(
                phase.name, phase.end - phase.start, self.step - phase.start
            ) as bar,
            stop_requests() as asked,
        ):
            while self.step < phase.end:
                done = self.step - phase.start
                self.state, metrics = self._take(phase, done)
                self.step += 1
                epoch_ends = (done + 1) % phase.epoch_steps == 0
                logged = feed.idle = (
                    self.step % LOG_EVERY == 0
                    or self.step == phase.end
                    or phase.end_epoch is not None
                    and epoch_ends
                )
                due = time.monotonic() - self._saved_at > self._checkpoint_seconds
                stop, due = agreed(asked, due, logged)
                if logged:
                    values = self._finite(metrics)
                    details = phase.details(self.state, self.step)
                    self._workdir.log(self.step, phase.name, **values, **details)
                    note = _note(values)
                elif due or stop:
                    self._finite(metrics)  # no checkpoint of a run that ends with an error
                if epoch_ends and phase.end_epoch is not None:
                    epoch_note = phase.end_epoch(self.state)
                bar.update(done + 1, f"{note}  {epoch_note}")
                if stop:
                    self.save(wait=True)
                    raise Stopped(f"stopped at step {self.step}", asked.preempted)
                if due:
                    self.save()
            bar.end(f"{note}  {epoch_note}")
        step_s = (time.monotonic() - started) / max(1, self.step - step_at_start)
        feed.tell_waiting(self._progress, step_s)
        for feed in phase.feeds:
            feed.close()

    def save(self, wait: bool = False) -> None:
        """Writes a checkpoint, unless the newest one is of this step.

        Args:
          wait: return only when the checkpoint of this step is on disk, whoever began to write it.
        """
        step = self.step - self._first_step
        if self._checkpoints.latest_step() != step:
            self._checkpoints.save(step, self.state)
        if wait:
            self._checkpoints.wait()
        self._saved_at = time.monotonic()

    def close(self) -> None:
        """Waits until all checkpoints are written."""
        self._checkpoints.close()

    def _take(self, phase: Phase[State], done: int) -> tuple[State, Metrics]:
        """Takes one step; if a picture of its batch is unreadable, saves the state before it."""
        try:
            return phase.take(self.state, done)
        except UnreadablePicture as error:
            if jax.process_count() > 1:  # a checkpoint needs all processes
                raise
            self.save(wait=True)
            raise UnreadablePicture(
                f"{error}. The run is saved at step {self.step}: restore the picture, and the same "
                f"command resumes the run"
            ) from error

    def _finite(self, metrics: Metrics) -> dict[str, float]:
        """Fetches metrics from the devices, without those that are not finite.

        Raises:
          NonFiniteLoss: too many updates in a row were skipped.
        """
        values = {key: float(value) for key, value in metrics.items()}
        in_a_row = values.pop("skipped_in_a_row", 0)
        if in_a_row >= SKIPPED_AT_MOST:
            raise NonFiniteLoss(
                f"the loss or its gradient was not finite in the last {in_a_row:.0f} steps up to "
                f"{self.step} ({values}): lower the learning rate; the previous checkpoint is kept"
            )
        return {key: value for key, value in values.items() if math.isfinite(value)}


def checkpoint_folder(run: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the folder of one kind of a run's checkpoints."""
    return run / "checkpoints" / name


def _note(values: Mapping[str, float]) -> str:
    notes = [text.format(values[key]) for key, text in _NOTES.items() if key in values]
    skipped = int(values.get("skipped", 0))
    return "  ".join(notes + [f"{skipped} updates skipped, not finite"] * (skipped > 0))
