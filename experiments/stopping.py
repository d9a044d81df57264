"""How a run is stopped: Control-C and SIGTERM are heard at once, and obeyed where it can save."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Stopped(Exception):
    """The user or the system asked the run to stop; what it had is saved."""


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Inside, Control-C and SIGTERM set the event; a second Control-C does not wait."""
    asked = threading.Event()

    def ask(number: int, frame: object) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
