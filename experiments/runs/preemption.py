"""Preemption: a run records Control-C and SIGTERM, and stops where it can save its state."""

import contextlib
import signal
from collections.abc import Iterator

import jax

from jaxnas import parallel


class Stopped(Exception):
    """The user or the system asked the run to stop, and its state is saved.

    Attributes:
      preempted: whether the system asked, by SIGTERM; the run then exits with status 0.
    """

    def __init__(self, message: str, preempted: bool):
        super().__init__(message)
        self.preempted = preempted


class Terminated(KeyboardInterrupt):
    """SIGTERM outside `stop_requests`, where the run has no state to save."""


class StopRequests:
    """Requests received so far.

    Attributes:
      stop: whether the run was asked to stop.
      preempted: whether it was asked by SIGTERM.
    """

    def __init__(self) -> None:
        self.stop = self.preempted = False


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Records Control-C and SIGTERM within the context; a second Control-C interrupts at once."""
    asked = StopRequests()

    def record(number: int, frame: object) -> None:
        if asked.stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.stop = True
        asked.preempted |= number == signal.SIGTERM

    previous = {number: signal.signal(number, record) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def agreed(asked: StopRequests, due: bool, logged: bool) -> tuple[bool, bool]:
    """Returns whether to stop and whether a checkpoint is due, equal in all processes of a run.

    Args:
      asked: requests to this process.
      due: whether a checkpoint is due by this process's clock.
      logged: whether this step is logged, equal in all processes. The processes only communicate
        at logged steps, because a collective at every step would cost time.
    """
    if jax.process_count() == 1:
        return asked.stop, due
    if not logged:
        return False, False
    asked.stop, asked.preempted, due = parallel.any_across_processes(
        asked.stop, asked.preempted, due
    )
    return asked.stop, due


def terminate_like_control_c() -> None:
    """Makes SIGTERM raise `Terminated` outside `stop_requests`."""

    def terminate(number: int, frame: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
