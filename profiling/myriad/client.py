"""The MyriadX compiler as an object: owns the worker process and its faults.

The worker may crash, hang or print rubbish. Each request has a deadline; a worker at fault is
killed with its whole process group and started again, a bounded number of times. What the
compiler itself says about a network is an answer, not a fault, and is not tried again.
"""

import base64
import binascii
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

from profiling.errors import CompileError, WorkerError
from profiling.measurement import MAX_SHAVES
from profiling.myriad.environment import ensure_environment

PROTOCOL = 1

_MAX_ANSWER_BYTES = 512 * 2**20
_CHUNK_BYTES = 2**20
_GOODBYE_S = 5.0
_STDERR_TAIL_BYTES = 2000

_Read = TypeVar("_Read")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A network compiled for the MyriadX.

    Attributes:
      graph: the compiler's stage graph, Graphviz DOT text; see stages.py.
      blob: the executable, as OAK devices (depthai) load it.
      versions: of the worker's Python, OpenVINO and plugin.
    """

    graph: str
    blob: bytes
    versions: dict[str, str]


class _Fault(Exception):
    """The worker did not do its part; it is killed and started again."""


class MyriadCompiler:
    """Compiles ONNX networks for the MyriadX; needs no device and opens none.

    One request at a time; several threads may share one object. Use it as a context manager, or
    call close().
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        deadline_s: float = 120.0,
        retries: int = 2,
    ):
        """Starts nothing yet.

        Args:
          command: starts a worker that speaks the protocol of worker.py on its standard input and
            output, on this host or (`ssh host python3.9 worker.py`) on another. None: the worker
            in its own environment, which is installed at first use.
          deadline_s: seconds that one request, or the start of a worker, may take.
          retries: how many times a request is tried again after a fault of the worker.
        """
        if deadline_s <= 0:
            raise ValueError(f"deadline_s is {deadline_s}; it must be more than 0 seconds")
        if retries < 0:
            raise ValueError(f"retries is {retries}; it must be 0 or more")
        self._command = list(command) if command is not None else None
        self._deadline_s = deadline_s
        self._retries = retries
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._request_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hello(self) -> dict[str, str]:
        """Returns the versions of the worker's Python, OpenVINO and plugin.

        Raises:
          DeviceUnavailable: the compiler cannot be run here; says why.
        """
        return self._request({"method": "hello"}, _read_hello)

    def compile(self, model: bytes, *, shaves: int | None = None) -> Compiled:
        """Compiles a network.

        Args:
          model: an ONNX file's bytes; opset 13 or lower, static shapes.
          shaves: SHAVE processors and, the same number, CMX slices to compile for, 1 to 16. None
            is the plugin's choice for its two streams: 7 and 9.

        Raises:
          ValueError: shaves out of range.
          CompileError: the model is no ONNX, or the compiler refuses it; in its own words.
          DeviceUnavailable: the compiler cannot be run here, or its process failed repeatedly.
        """
        if shaves is not None and not 1 <= shaves <= MAX_SHAVES:
            raise ValueError(f"shaves is {shaves}; allowed: 1 to {MAX_SHAVES}, or None")
        text = base64.b64encode(model).decode("ascii")
        request = {"method": "compile", "model": text, "shaves": shaves}
        return self._request(request, _read_compiled)

    def close(self) -> None:
        """Ends the worker; it ends by itself when its input does, or is killed."""
        with self._lock:
            if self._process is not None:
                self._process.stdin.close()
                try:
                    self._process.wait(_GOODBYE_S)
                except subprocess.TimeoutExpired:
                    pass  # _kill is for this case too
                finally:
                    self._kill()

    def _request(self, request: dict[str, Any], read: Callable[[dict[str, Any]], _Read]) -> _Read:
        """Sends a request until it is answered, within the bounds; returns read(answer)."""
        faults = []
        with self._lock:
            for _ in range(1 + self._retries):
                try:
                    if self._process is None:
                        self._start()
                    return read(self._exchange(request))
                except _Fault as fault:
                    faults.append(f"{fault}{self._stderr_tail()}")
                    self._kill()
                except CompileError:
                    raise
                except BaseException:
                    # Also on an interrupt no worker may stay behind with half a request.
                    self._kill()
                    raise
        raise WorkerError(
            f"the MyriadX compiler's worker failed {len(faults)} times "
            f"({' '.join(self._command)}): {'; then '.join(faults)}. "
            f"`python -m profiling.myriad.install` makes its environment; a network that takes "
            f"longer than {self._deadline_s} s needs a greater deadline_s"
        )

    def _start(self) -> None:
        """Starts a worker and checks that it is one."""
        if self._command is None:
            self._command = ensure_environment().command()
        self._folder = tempfile.TemporaryDirectory(prefix="jaxnas-worker-")
        with open(os.path.join(self._folder.name, "stderr"), "wb") as stderr:
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    bufsize=0,
                    # What a killed worker leaves in its temporary folder goes with ours.
                    env={**os.environ, "TMPDIR": self._folder.name},
                    start_new_session=True,
                )
            except OSError as error:
                raise _Fault(f"could not be started: {error}") from error
        os.set_blocking(self._process.stdin.fileno(), False)
        os.set_blocking(self._process.stdout.fileno(), False)
        _read_hello(self._exchange({"method": "hello"}))

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sends one request and returns its answer, or raises what the answer says."""
        self._request_id += 1
        message = json.dumps({"id": self._request_id, **request}).encode() + b"\n"
        line = self._transfer(message)
        try:
            answer = json.loads(line)
        except ValueError:
            raise _Fault(f"printed no JSON: {line[:200]!r}") from None
        if not isinstance(answer, dict) or answer.get("id") != self._request_id:
            raise _Fault(f"answered something else: {line[:200]!r}")
        if answer.get("ok") is True:
            return answer
        error = answer.get("error")
        if not isinstance(error, dict) or not isinstance(error.get("message"), str):
            raise _Fault(f"answered something else: {line[:200]!r}")
        if error.get("kind") in ("model", "compile"):
            raise CompileError(error["message"], error.get("layer"))
        raise _Fault(f"answered with the error {error.get('kind')!r}: {error['message']}")

    def _transfer(self, message: bytes) -> bytes:
        """Writes the message and reads one line, neither past the deadline."""
        stdin, stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        end_s = time.monotonic() + self._deadline_s
        unsent, received = memoryview(message), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(stdin, selectors.EVENT_WRITE)
            selector.register(stdout, selectors.EVENT_READ)
            while True:
                ready = selector.select(max(0.0, end_s - time.monotonic()))
                if time.monotonic() >= end_s:
                    raise _Fault(f"did not answer within {self._deadline_s} s")
                for key, _ in ready:
                    if key.fd == stdin:
                        unsent = unsent[self._write(unsent) :]
                        if not unsent:
                            selector.unregister(stdin)
                        continue
                    chunk = os.read(stdout, _CHUNK_BYTES)
                    if not chunk:
                        raise _Fault(f"ended with {self._exit_status()}")
                    received += chunk
                    if b"\n" in chunk:
                        return _only_line(received)
                    if len(received) > _MAX_ANSWER_BYTES:
                        raise _Fault(f"printed more than {_MAX_ANSWER_BYTES} bytes in one line")

    def _write(self, data: memoryview) -> int:
        """Writes what the pipe takes and returns how much that was."""
        try:
            return os.write(self._process.stdin.fileno(), data[:_CHUNK_BYTES])
        except BrokenPipeError:
            raise _Fault(f"ended with {self._exit_status()}") from None

    def _exit_status(self) -> str:
        """Describes how the worker ended; it has closed a pipe, so the end is near."""
        try:
            code = self._process.wait(_GOODBYE_S)
        except subprocess.TimeoutExpired:
            return "its pipes closed, still running"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def _stderr_tail(self) -> str:
        """Returns the end of what the worker wrote to its standard error."""
        with open(os.path.join(self._folder.name, "stderr"), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _STDERR_TAIL_BYTES))
            tail = file.read().decode(errors="replace").strip()
        return f" (standard error: {tail})" if tail else ""

    def _kill(self) -> None:
        """Kills the worker's process group, waits for the worker and clears up after it."""
        process, self._process = self._process, None
        folder, self._folder = self._folder, None
        if process is not None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # the whole group has ended already
            process.stdin.close()
            process.stdout.close()
            process.wait()
        if folder is not None:
            folder.cleanup()


def _only_line(received: bytearray) -> bytes:
    """Returns the one line of an answer; one request has one."""
    line, _, rest = bytes(received).partition(b"\n")
    if rest:
        raise _Fault(f"printed more than its answer: {rest[:200]!r}")
    return line


def _read_hello(answer: dict[str, Any]) -> dict[str, str]:
    """Returns the versions in a hello's answer."""
    if answer.get("protocol") != PROTOCOL:
        raise _Fault(f"speaks protocol {answer.get('protocol')!r}, this client {PROTOCOL}")
    return _read_versions(answer)


def _read_compiled(answer: dict[str, Any]) -> Compiled:
    """Returns the network in a compile's answer."""
    graph = answer.get("graph")
    if not isinstance(graph, str):
        raise _Fault(f"answered a graph of type {type(graph).__name__}")
    try:
        blob = base64.b64decode(answer["blob"], validate=True)
    except (KeyError, TypeError, binascii.Error) as error:
        raise _Fault(f"answered no blob: {error!r}") from error
    return Compiled(graph, blob, _read_versions(answer))


def _read_versions(answer: dict[str, Any]) -> dict[str, str]:
    """Returns the versions in an answer."""
    versions = answer.get("versions")
    if not isinstance(versions, dict):
        raise _Fault(f"answered the versions {versions!r}")
    return versions
