"""The training loop: steps of a run, logged, saved, stopped and resumed.

A batch depends on seed and step alone, so a run resumes from its step number. An epoch's last step
is followed by its evaluation before anything is saved, so no checkpoint lies between the two.
"""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import jax

from experiments.runs.feed import Feed
from experiments.runs.folder import Workdir
from experiments.runs.preemption import Stopped, agreed, stop_requests
from jaxnas.checkpoint import Checkpoints
from jaxnas.data import UnreadablePicture
from profiling.progress import Progress

LOG_EVERY = 10
SEARCH, TRAIN, BEST = "search", "train", "best"  # checkpoints of a run, by the part of it
State = TypeVar("State")  # has a field `step`, int32 [], the steps taken
Metrics = dict[str, jax.Array]

_NOTES = {
    "ce": "loss {:.3f}",
    "top1": "top-1 {:.2f}",
    "expected_ms": "E[LAT] {:.2f} ms",
    "entropy": "entropy {:.2f}",
}


class NonFiniteLoss(RuntimeError):
    """The loss is not a number any more."""


@dataclasses.dataclass(frozen=True)
class Phase(Generic[State]):
    """Some steps of one kind.

    Attributes:
      name: in metrics.jsonl and for people.
      start, end: the run's step before the first of them, and after the last.
      take: (state, steps of the phase already taken) → (state, metrics); where it fails to get a
        batch, the state is as it was.
      feeds: what `take` reads batches from; the first is asked for every step.
      epoch_steps: steps after which an epoch ends.
      end_epoch: called with the state at the end of each epoch; returns a note for people.
    """

    name: str
    start: int
    end: int
    take: Callable[[State, int], tuple[State, Metrics]]
    feeds: Sequence[Feed]
    epoch_steps: int
    end_epoch: Callable[[State], str] | None = None


class Loop(Generic[State]):
    """Takes a run from its newest checkpoint through its phases.

    Attributes:
      state: what the steps change.
      step: steps of the run taken.
      resumed: whether there was a checkpoint to start from.
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
          state: to start from where there is none.
          identity: what makes two runs different; a checkpoint of another one is refused.
          name: of the checkpoints' folder.
          first_step: the run's step at which a fresh state begins.
          checkpoint_seconds: least time between checkpoints.

        Raises:
          ValueError: a checkpoint of another configuration.
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
            progress.print(f"going on from step {self.step} in {workdir.path}")
        self._saved_at = time.monotonic()

    def run(self, phase: Phase[State]) -> None:
        """Takes the steps of a phase that are still to be taken, and closes its feeds.

        Raises:
          Stopped: the user or the system asked; the state is saved.
          UnreadablePicture: of the data; the state before it is saved.
          NonFiniteLoss: the loss is not a number any more; the checkpoint before is kept.
        """
        begun, taken_before = time.monotonic(), self.step
        feed, note, epoch_note = phase.feeds[0], "", ""
        with (
            self._progress.phase(
                phase.name, phase.end - phase.start, self.step - phase.start
            ) as bar,
            stop_requests() as asked,
        ):
            while self.step < phase.end:
                done = self.step - phase.start
                self.state, metrics = self._taken(phase, done)
                self.step += 1
                epoch_ends = (done + 1) % phase.epoch_steps == 0
                noted = feed.idle = (
                    self.step % LOG_EVERY == 0
                    or self.step == phase.end
                    or phase.end_epoch is not None
                    and epoch_ends
                )
                due = time.monotonic() - self._saved_at > self._checkpoint_seconds
                stop, due = agreed(asked, due, noted)
                if noted:
                    values = self._finite(metrics)
                    self._workdir.log(self.step, phase.name, **values)
                    note = _note(values)
                elif due or stop:
                    self._finite(metrics)  # what is saved must be worth it
                if epoch_ends and phase.end_epoch is not None:
                    epoch_note = phase.end_epoch(self.state)
                bar.update(done + 1, f"{note}  {epoch_note}")
                if stop:
                    self.save(wait=True)
                    raise Stopped(f"stopped at step {self.step}", asked.preempted)
                if due:
                    self.save()
            bar.end(f"{note}  {epoch_note}")
        seconds_a_step = (time.monotonic() - begun) / max(1, self.step - taken_before)
        feed.tell_waiting(self._progress, seconds_a_step)
        for one in phase.feeds:
            one.close()

    def save(self, wait: bool = False) -> None:
        """Writes a checkpoint, unless one of this step is there."""
        step = self.step - self._first_step
        if self._checkpoints.latest_step() != step:
            self._checkpoints.save(step, self.state, wait=wait)
        self._saved_at = time.monotonic()

    def close(self) -> None:
        """Waits for what is being written."""
        self._checkpoints.close()

    def _taken(self, phase: Phase[State], done: int) -> tuple[State, Metrics]:
        """One step; where it finds no batch for a picture's sake, the state before it is saved."""
        try:
            return phase.take(self.state, done)
        except UnreadablePicture as error:
            if jax.process_count() > 1:  # the others are not here to save with
                raise
            self.save(wait=True)
            raise UnreadablePicture(
                f"{error}. The run is saved at step {self.step}: with its "
                f"pictures as they were the same command goes on"
            ) from error

    def _finite(self, metrics: Metrics) -> dict[str, float]:
        values = {key: float(value) for key, value in metrics.items()}
        if not all(map(math.isfinite, values.values())):
            raise NonFiniteLoss(
                f"by step {self.step} the loss is no number any more ({values}): "
                f"lower the learning rate; the checkpoint before is kept"
            )
        return values


def checkpoint_folder(run: pathlib.Path, name: str) -> pathlib.Path:
    """Where a run's folder has the checkpoints of one of its parts."""
    return run / "checkpoints" / name


def _note(values: Mapping[str, float]) -> str:
    return "  ".join(text.format(values[key]) for key, text in _NOTES.items() if key in values)
