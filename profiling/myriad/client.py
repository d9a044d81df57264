"""Client of the worker: sends requests, and restarts the worker after a fault.

Each request has a deadline. A faulty worker is killed with its whole process group and restarted a
bounded number of times. An error that the compiler reports about a network is an answer, not a
fault: it is not retried. Errors that a restart cannot fix, such as a missing library, are not
retried either.
"""

import base64
import json
import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self, TypeVar

import numpy as np

from profiling.device import MAX_SHAVES
from profiling.errors import CompileError, DeviceUnavailable, WorkerError
from profiling.myriad import model_check, remote
from profiling.myriad.environment import ensure_environment
from profiling.myriad.process import Fault, Process, interrupts_deferred
from profiling.myriad.worker_answers import (
    Compiled,
    Inferences,
    read_compiled,
    read_devices,
    read_hello,
    read_inferences,
    read_scores,
)

OPENVINO = "2021.4.2"

# Seconds that an answer may take. The limit of hello also covers the start of a worker and, on
# another host, the connection. Those of infer and scores cover the compilation and the stick's
# boot, and are added to the requested time.
DEADLINES_S = MappingProxyType(
    {"hello": 60.0, "devices": 30.0, "compile": 120.0, "infer": 180.0, "scores": 180.0}
)

_IMAGE_S = 0.5  # limit for each image, in addition to the limit of scores

_Read = TypeVar("_Read")


class _DeviceFault(Fault):
    """The device failed; the worker itself works."""


class Worker:
    """Compiles ONNX networks for the MyriadX and times them on devices of OpenVINO 2021.4.2.

    It handles one request at a time. Several threads may share one object. Use it as a context
    manager, or call close().
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        prefix: str | None = None,
        deadlines_s: Mapping[str, float] = DEADLINES_S,
        retries: int = 2,
    ):
        """Initializes the client; the first request starts the worker.

        Args:
          command: command of a worker that speaks the protocol of worker.py on its standard input
            and output. None runs worker.py in its own environment, installed at first use.
          prefix: command that runs another command on another host, such as `ssh lab-pi`. It
            replaces `command`, and the worker runs on that host; see remote.py.
          deadlines_s: seconds that each kind of request may take.
          retries: number of retries of a request after faults of the worker.

        Raises:
          ValueError: a deadline is not positive, retries is negative, or prefix is not a command.
        """
        for method, seconds in deadlines_s.items():
            if seconds <= 0:
                raise ValueError(f"the deadline of {method} is {seconds} s; it must be positive")
        if retries < 0:
            raise ValueError(f"retries is {retries}; it must be 0 or more")
        self._command = list(command) if command is not None else None
        if prefix is not None:
            self._command = remote.command(prefix)
        self._prefix = prefix
        self._deadlines_s = deadlines_s
        self._retries = retries
        self._lock = threading.Lock()
        self._process: Process | None = None
        self._has_started = False  # once; its environment is complete then
        self._request_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hello(self) -> dict[str, str]:
        """Returns the versions of the worker's Python, OpenVINO, plugin and firmware.

        Raises:
          DeviceUnavailable: the worker cannot run; the message says why.
        """
        return self._request({"method": "hello"}, read_hello)

    def devices(self) -> dict[str, str]:
        """Returns the full names of the devices that can be opened, by device name.

        Sticks are named MYRIAD.<port>-ma2480. A stick that another process has open is not listed.

        Raises:
          DeviceUnavailable: the worker cannot run; the message says why.
        """
        return self._request({"method": "devices"}, read_devices)

    def compile(self, model: bytes, *, shaves: int | None = None) -> Compiled:
        """Compiles a network.

        Args:
          model: bytes of an ONNX network with fixed shapes and a batch of 1.
          shaves: number of SHAVEs, and of CMX slices, to compile for, 1 to 16. None is the
            plugin's choice for its two streams: 7 SHAVEs and 9 slices.

        Raises:
          ValueError: shaves is out of range.
          CompileError: the model is not ONNX, the compiler refuses it (the message is the
            compiler's own), or the compiler read another network than it was sent.
          DeviceUnavailable: the compiler cannot run here, or its process failed repeatedly.
        """
        sent = model_check.prepared(model)
        compiled = self._request(
            {"method": "compile", "model": _encoded(sent.model), "shaves": _checked(shaves)},
            read_compiled,
        )
        model_check.check(sent, compiled.layers, compiled.graph)
        return compiled

    def infer(
        self,
        model: bytes,
        device: str,
        *,
        shaves: int | None = None,
        count: int = 100,
        seconds: float = 10.0,
        wait_s: float = 15.0,
    ) -> Inferences:
        """Times a network on a device.

        Args:
          model: as for compile.
          device: a name returned by devices(), or `MYRIAD` for any stick.
          shaves: as for compile; used only for the MyriadX.
          count: maximum number of inferences, at least 1.
          seconds: time after which no further inference starts.
          wait_s: maximum time to wait for the device, since a stick reboots after a fault.

        Raises:
          ValueError: count is below 1, or shaves is out of range.
          CompileError: the model is not ONNX, or the compiler refuses it.
          DeviceUnavailable: the device is absent or failed, or the worker failed, also in each
            retry; the message lists the faults.
        """
        if count < 1:
            raise ValueError(f"count is {count}; it must be 1 or more")
        return self._request(
            {
                "method": "infer",
                "model": _encoded(model_check.prepared(model).model),
                "shaves": _checked(shaves),
                "device": device,
                "count": count,
                "seconds": seconds,
                "wait_s": wait_s,
            },
            read_inferences,
            more_s=seconds + wait_s,
        )

    def scores(
        self,
        model: bytes,
        device: str,
        images: np.ndarray,
        *,
        shaves: int | None = None,
        wait_s: float = 15.0,
    ) -> np.ndarray:
        """Runs a network with one input and one output on images, one image per inference.

        Args:
          model, device, shaves, wait_s: as for infer.
          images: uint8 or float32 [count, *input shape without its batch of 1].

        Returns:
          Outputs, float32 [count, elements of an output].

        Raises:
          CompileError, DeviceUnavailable: as for infer.
        """
        return self._request(
            {
                "method": "scores",
                "model": _encoded(model_check.prepared(model).model),
                "shaves": _checked(shaves),
                "device": device,
                "images": _encoded(images.tobytes()),
                "dtype": str(images.dtype),
                "wait_s": wait_s,
            },
            read_scores,
            more_s=wait_s + len(images) * _IMAGE_S,
        )

    def close(self) -> None:
        """Ends the worker: closes its input, and kills it if it does not exit."""
        with self._lock:
            process, self._process = self._process, None
            if process is not None:
                process.end()

    def _request(
        self, request: dict[str, Any], read: Callable[[dict[str, Any]], _Read], more_s: float = 0.0
    ) -> _Read:
        """Sends a request, with retries after faults, and returns read(answer)."""
        faults: list[Fault] = []
        with self._lock:
            for _ in range(1 + self._retries):
                try:
                    process = self._process or self._start()
                    return read(self._exchange(process, request, more_s))
                except Fault as fault:
                    faults.append(fault)
                    self._kill()
                except CompileError:
                    raise
                except BaseException:
                    # After an interrupt, too, no worker may remain with half a request.
                    self._kill()
                    raise
        messages = "; then ".join(map(str, faults))
        if all(isinstance(fault, _DeviceFault) for fault in faults):
            raise DeviceUnavailable(f"{request['device']} failed {len(faults)} times: {messages}")
        raise WorkerError(
            f"the MyriadX worker failed {len(faults)} times ({self._command_line()}): {messages}"
            + ("" if self._has_started else f". {self._remedy()}")
        )

    def _start(self) -> Process:
        """Starts a worker, checks its protocol and OpenVINO version, and returns its process."""
        if self._command is None:
            self._command = ensure_environment().command()
        with interrupts_deferred():
            self._process = process = Process(self._command)
        if self._prefix is not None:
            line = process.transfer(remote.start(), self._deadlines_s["hello"])
            if line != remote.READY:
                raise Fault(f"printed {line[:200]!r} instead of {remote.READY!r}")
        versions = read_hello(self._exchange(process, {"method": "hello"}))
        openvino = versions.get("openvino", "")
        if not openvino.startswith(OPENVINO):
            raise WorkerError(
                f"the MyriadX worker ({self._command_line()}) has OpenVINO "
                f"{openvino or 'of unknown version'}, this client needs {OPENVINO}. "
                f"{self._remedy()}"
            )
        self._has_started = True
        return process

    def _command_line(self) -> str:
        assert self._command is not None  # set before the first process starts
        return " ".join(self._command)

    def _remedy(self) -> str:
        prefix = "" if self._prefix is None else f" --worker_prefix={self._prefix!r}"
        return f"`python -m profiling.myriad.install{prefix}` installs the worker's environment"

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def _exchange(
        self, process: Process, request: dict[str, Any], more_s: float = 0.0
    ) -> dict[str, Any]:
        """Sends one request and returns its answer; raises the error that the answer reports."""
        self._request_id += 1
        deadline_s = self._deadlines_s[request["method"]] + more_s
        # The kernel ends the worker at this deadline, which is at least 1 s after the client's.
        message = {"id": self._request_id, "deadline_s": math.ceil(deadline_s) + 1, **request}
        line = process.transfer(json.dumps(message).encode() + b"\n", deadline_s)
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            raise Fault(f"did not print JSON: {line[:200]!r}") from None
        if not isinstance(answer, dict) or answer.get("id") != self._request_id:
            raise Fault(f"answered another request: {line[:200]!r}")
        if answer.get("ok") is True:
            return answer
        error = answer.get("error")
        if not isinstance(error, dict) or not isinstance(error.get("message"), str):
            raise Fault(f"answered neither a result nor an error: {line[:200]!r}")
        match error.get("kind"):
            case "model" | "compile":
                raise CompileError(_plain(error["message"]), error.get("layer"))
            case "library":
                raise WorkerError(f"{error['message']} ({self._command_line()}). {self._remedy()}")
            case "device":
                raise _DeviceFault(error["message"])
        raise Fault(f"answered with the error {error.get('kind')!r}: {error['message']}")


def _plain(message: str) -> str:
    """Returns OpenVINO's message on one line, without source locations and error categories."""
    return " ".join(re.sub(r"\S*/\S+\.[chp]{1,3}:\d+|\[ *[A-Z_]+ *\]", "", message).split())


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _checked(shaves: int | None) -> int | None:
    if shaves is not None and not 1 <= shaves <= MAX_SHAVES:
        raise ValueError(f"shaves is {shaves}; allowed: 1 to {MAX_SHAVES}, or None")
    return shaves
