"""How a run is stopped: Control-C and SIGTERM are heard at once, and obeyed where it can save."""

import concurrent.futures
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

Result = TypeVar("Result")


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


def in_background(work: Callable[[], Result], tick: Callable[[], None]) -> Result:
    """What `work` returns; it runs in a thread, so that bars move and Control-C is heard."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    while not future.done():
        concurrent.futures.wait([future], timeout=0.2)
        tick()
    return future.result()
