"""A worker process: started, spoken to within deadlines, ended with all that it started.

The worker may crash, hang or print rubbish; each of these is a `Fault` here, with the words that
tell what happened. Whether to try again is for the client to say.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence

_MAX_ANSWER_BYTES = 512 * 2**20
_CHUNK_BYTES = 2**20
_GOODBYE_S = 5.0
_STDERR_TAIL_BYTES = 2000


class Fault(Exception):
    """The worker did not do its part."""


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Control-C takes effect at the end: for what would be lost half-way, such as a new process."""
    if threading.current_thread() is not threading.main_thread():
        yield  # interrupts are the main thread's
        return
    asked: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if asked:
            signal.raise_signal(signal.SIGINT)


class Process:
    """One process that answers a line with a line.

    Attributes:
      pid: of the process, which leads a group of its own.
    """

    def __init__(self, command: Sequence[str]):
        """Starts it.

        Raises:
          Fault: there is no such command.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="jaxnas-worker-")
        with open(os.path.join(self._folder.name, "stderr"), "wb") as stderr:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    bufsize=0,
                    # What a killed worker leaves in its temporary folder goes with ours.
                    env={**os.environ, "TMPDIR": self._folder.name},
                    start_new_session=True,
                )
            except OSError as error:
                self._folder.cleanup()
                raise Fault(f"could not be started: {error}") from error
        self.pid = self._process.pid
        os.set_blocking(self._process.stdin.fileno(), False)
        os.set_blocking(self._process.stdout.fileno(), False)

    def transfer(self, message: bytes, deadline_s: float) -> bytes:
        """Writes a message and returns the one line that answers it, neither past the deadline.

        Raises:
          Fault: it ended, did not answer in time, or printed more than one line.
        """
        stdin, stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        end_s = time.monotonic() + deadline_s
        unsent, received = memoryview(message), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(stdin, selectors.EVENT_WRITE)
            selector.register(stdout, selectors.EVENT_READ)
            while True:
                ready = selector.select(max(0.0, end_s - time.monotonic()))
                if time.monotonic() >= end_s:
                    raise Fault(f"did not answer within {deadline_s:g} s{self._stderr_tail()}")
                for key, _ in ready:
                    if key.fd == stdin:
                        unsent = unsent[self._write(unsent) :]
                        if not unsent:
                            selector.unregister(stdin)
                        continue
                    chunk = os.read(stdout, _CHUNK_BYTES)
                    if not chunk:
                        raise self._ended()
                    received += chunk
                    if b"\n" in chunk:
                        return _only_line(received)
                    if len(received) > _MAX_ANSWER_BYTES:
                        raise Fault(f"printed more than {_MAX_ANSWER_BYTES} bytes in one line")

    def end(self) -> None:
        """Ends it: it does so by itself when its input ends, or is killed."""
        self._process.stdin.close()
        try:
            self._process.wait(_GOODBYE_S)
        except subprocess.TimeoutExpired:
            pass  # kill is for this case too
        finally:
            self.kill()

    def kill(self) -> None:
        """Kills its process group, waits for it and clears up after it."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # the whole group has ended already
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._folder.cleanup()

    def _write(self, data: memoryview) -> int:
        """Writes what the pipe takes and returns how much that was."""
        try:
            return os.write(self._process.stdin.fileno(), data[:_CHUNK_BYTES])
        except BrokenPipeError:
            raise self._ended() from None

    def _ended(self) -> Fault:
        """How it ended; it has closed a pipe, so the end is near."""
        try:
            code = self._process.wait(_GOODBYE_S)
        except subprocess.TimeoutExpired:
            how = "its pipes closed, still running"
        else:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return Fault(f"ended with {how}{self._stderr_tail()}")

    def _stderr_tail(self) -> str:
        """The end of what it wrote to its standard error."""
        with open(os.path.join(self._folder.name, "stderr"), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _STDERR_TAIL_BYTES))
            tail = file.read().decode(errors="replace").strip()
        return f" (standard error: {tail})" if tail else ""


def _only_line(received: bytearray) -> bytes:
    """The one line of an answer; one request has one."""
    line, _, rest = bytes(received).partition(b"\n")
    if rest:
        raise Fault(f"printed more than its answer: {rest[:200]!r}")
    return line
