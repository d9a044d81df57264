"""A worker process: start, exchange of messages with deadlines, and end of its process group.

The worker may crash, hang or print invalid output. Each of these raises a `Fault` that describes
it. The client decides whether to retry.
"""

import contextlib
import os
import pathlib
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
    """A fault of the worker: it crashed, missed a deadline or printed invalid output."""


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Defers Control-C to the end of the block, so that it cannot lose a process just started."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets interrupts
        return
    received: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if received:
            signal.raise_signal(signal.SIGINT)


class Process:
    """A process that answers each line with a line.

    Attributes:
      pid: id of the process, which leads its own process group.
    """

    def __init__(self, command: Sequence[str]):
        """Starts the process.

        Raises:
          Fault: the command cannot be started.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="jaxnas-worker-")
        with pathlib.Path(self._folder.name, "stderr").open("wb") as stderr:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    bufsize=0,
                    # So that temporary files of a killed worker are removed with this folder.
                    env={**os.environ, "TMPDIR": self._folder.name},
                    start_new_session=True,
                )
            except OSError as error:
                self._folder.cleanup()
                raise Fault(f"could not be started: {error}") from error
        self.pid = self._process.pid
        assert self._process.stdin is not None and self._process.stdout is not None  # pipes
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        os.set_blocking(self._stdout.fileno(), False)

    def transfer(self, message: bytes, deadline_s: float) -> bytes:
        """Writes a message and returns the one line that answers it, both before the deadline.

        Raises:
          Fault: the process ended, did not answer in time, or printed more than one line or a line
            that is too long.
        """
        stdin, stdout = self._stdin.fileno(), self._stdout.fileno()
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
        """Closes the input of the process, upon which it should exit; kills it if it does not."""
        self._stdin.close()
        try:
            self._process.wait(_GOODBYE_S)
        except subprocess.TimeoutExpired:
            pass  # kill() follows in any case
        finally:
            self.kill()

    def kill(self) -> None:
        """Kills the process group, waits for the process and removes its temporary files."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # the whole group has ended already
        self._stdin.close()
        self._stdout.close()
        self._process.wait()
        self._folder.cleanup()

    def _write(self, data: memoryview) -> int:
        """Writes as much as the pipe takes and returns the number of bytes."""
        try:
            return os.write(self._stdin.fileno(), data[:_CHUNK_BYTES])
        except BrokenPipeError:
            raise self._ended() from None

    def _ended(self) -> Fault:
        """Returns a fault that says how the process ended, after it has closed a pipe."""
        try:
            code = self._process.wait(_GOODBYE_S)
        except subprocess.TimeoutExpired:
            what = "closed its pipes and still runs"
        else:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            what = f"ended with {how}"
        return Fault(f"{what}{self._stderr_tail()}")

    def _stderr_tail(self) -> str:
        """Returns the end of the standard error output, in parentheses."""
        with pathlib.Path(self._folder.name, "stderr").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _STDERR_TAIL_BYTES))
            tail = file.read().decode(errors="replace").strip()
        return f" (standard error: {tail})" if tail else ""


def _only_line(received: bytearray) -> bytes:
    """Returns the line of an answer; each request has exactly one."""
    line, _, rest = bytes(received).partition(b"\n")
    if rest:
        raise Fault(f"printed more than its answer: {rest[:200]!r}")
    return line
