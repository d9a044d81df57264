"""How a run is stopped: Control-C and SIGTERM are heard at once, and obeyed where it can save."""

import contextlib
import signal
from collections.abc import Iterator

import jax

from jaxnas import parallel


class Stopped(Exception):
    """The user or the system asked the run to stop; what it had is saved.

    Attributes:
      preempted: whether the system asked, by SIGTERM, to whom a run that is saved has succeeded.
    """

    def __init__(self, message: str, preempted: bool):
        super().__init__(message)
        self.preempted = preempted


class Terminated(KeyboardInterrupt):
    """SIGTERM where nothing is lost that was not saved before."""


class StopRequests:
    """What was asked since.

    Attributes:
      stop: whether to stop.
      preempted: whether by SIGTERM.
    """

    def __init__(self) -> None:
        self.stop = self.preempted = False


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Inside, Control-C and SIGTERM are noted; a second Control-C does not wait."""
    asked = StopRequests()

    def ask(number: int, frame: object) -> None:
        if asked.stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.stop = True
        asked.preempted |= number == signal.SIGTERM

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def agreed(asked: StopRequests, due: bool, noted: bool) -> tuple[bool, bool]:
    """Whether to stop, and whether a checkpoint is due: the same in all processes of a run.

    Args:
      asked: of this process.
      due: by this process's clock.
      noted: whether this is one of the steps at which the processes ask each other. All of them
        say the same here; asking at every step would be waited for.
    """
    if jax.process_count() == 1:
        return asked.stop, due
    if not noted:
        return False, False
    asked.stop, asked.preempted, due = parallel.any_across_processes(
        asked.stop, asked.preempted, due
    )
    return asked.stop, due


def terminate_like_control_c() -> None:
    """Makes SIGTERM raise `Terminated` wherever `stop_requests` does not hear it."""

    def terminate(number: int, frame: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
