"""The worker as an object: what can be asked of it, and what is done about its faults.

Each request has a deadline; a worker at fault is killed with its whole process group and started
again, a bounded number of times. What the compiler itself says about a network is an answer, not a
fault, and is not tried again; nor is what another start would not mend, such as a missing library.
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
from profiling.myriad import reading, remote
from profiling.myriad.answers import (
    Compiled,
    Inferences,
    read_compiled,
    read_devices,
    read_hello,
    read_inferences,
    read_scores,
)
from profiling.myriad.environment import ensure_environment
from profiling.myriad.process import Fault, Process, interrupts_deferred

OPENVINO = "2021.4.2"

# Seconds that an answer may take. hello's also bounds the start of a worker, on another host the
# connection; infer's comes on top of the time that is asked for, and holds a stick's start and the
# compilation: nn-Meter, which does the same, gives 30 s and two retries.
DEADLINES_S = MappingProxyType(
    {"hello": 60.0, "devices": 30.0, "compile": 120.0, "infer": 60.0, "scores": 60.0}
)

_IMAGE_S = 0.5  # that one image may take on top of the start

_Read = TypeVar("_Read")


class _DeviceFault(Fault):
    """The worker is well, the device is not."""


class Worker:
    """Compiles ONNX networks for the MyriadX and times them on devices of OpenVINO 2021.4.2.

    One request at a time; several threads may share one object. Use it as a context manager, or
    call close().
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        prefix: str | None = None,
        deadlines_s: Mapping[str, float] = DEADLINES_S,
        retries: int = 2,
    ):
        """Starts nothing yet.

        Args:
          command: starts a worker that speaks the protocol of worker.py on its standard input and
            output. None: the worker in its own environment, which is installed at first use.
          prefix: command that runs another command on another host, such as `ssh lab-pi`: the
            worker then runs there; see remote.py. Instead of command.
          deadlines_s: seconds that each kind of request may take.
          retries: how many times a request is tried again after a fault of the worker.

        Raises:
          ValueError: a deadline that is not positive, retries below 0, or a prefix that is no
            command.
        """
        for method, seconds in deadlines_s.items():
            if seconds <= 0:
                raise ValueError(f"deadline of {method} is {seconds} s; it must be more than 0")
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
        self._request_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hello(self) -> dict[str, str]:
        """Returns the versions of the worker's Python, OpenVINO, plugin and firmware.

        Raises:
          DeviceUnavailable: the worker cannot run; says why.
        """
        return self._request({"method": "hello"}, read_hello)

    def devices(self) -> dict[str, str]:
        """Returns the devices that can be opened, by name, with their full names.

        Sticks are named MYRIAD.<port>-ma2480. One that another process has opened is not listed.

        Raises:
          DeviceUnavailable: the worker cannot run; says why.
        """
        return self._request({"method": "devices"}, read_devices)

    def compile(self, model: bytes, *, shaves: int | None = None) -> Compiled:
        """Compiles a network.

        Args:
          model: an ONNX network of fixed shapes, one picture.
          shaves: SHAVE processors and, the same number, CMX slices to compile for, 1 to 16. None
            is the plugin's choice for its two streams: 7 and 9.

        Raises:
          ValueError: shaves out of range.
          CompileError: the model is no ONNX, the compiler refuses it, in its own words, or reads it
            as another network.
          DeviceUnavailable: the compiler cannot be run here, or its process failed repeatedly.
        """
        sent = reading.prepared(model)
        compiled = self._request(
            {"method": "compile", "model": _encoded(sent.model), "shaves": _checked(shaves)},
            read_compiled,
        )
        reading.check(sent, compiled.layers, compiled.graph)
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
          device: a name that devices() gives; `MYRIAD` is any stick.
          shaves: as for compile; for the MyriadX only.
          count: inferences at most, at least 1.
          seconds: after so many no other inference is begun.
          wait_s: how long to wait for the device: after a fault a stick starts anew.

        Raises:
          ValueError: count below 1, or shaves out of range.
          CompileError: as for compile.
          DeviceUnavailable: the device is not there or failed, or the worker did, also when tried
            again; says what happened each time.
        """
        if count < 1:
            raise ValueError(f"count is {count}; it must be 1 or more")
        return self._request(
            {
                "method": "infer",
                "model": _encoded(reading.prepared(model).model),
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
        """Runs a network of one input and one output on images, one after the other.

        Args:
          model, device, shaves, wait_s: as for infer.
          images: uint8 or float32 [count, *the input's shape without its batch of 1].

        Returns:
          float32 [count, elements of an output].

        Raises:
          CompileError, DeviceUnavailable: as for infer.
        """
        return self._request(
            {
                "method": "scores",
                "model": _encoded(reading.prepared(model).model),
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
        """Ends the worker; it ends by itself when its input does, or is killed."""
        with self._lock:
            process, self._process = self._process, None
            if process is not None:
                process.end()

    def _request(
        self, request: dict[str, Any], read: Callable[[dict[str, Any]], _Read], more_s: float = 0.0
    ) -> _Read:
        """Sends a request until it is answered, within the bounds; returns read(answer)."""
        faults: list[Fault] = []
        with self._lock:
            for _ in range(1 + self._retries):
                try:
                    if self._process is None:
                        self._start()
                    return read(self._exchange(request, more_s))
                except Fault as fault:
                    faults.append(fault)
                    self._kill()
                except CompileError:
                    raise
                except BaseException:
                    # Also on an interrupt no worker may stay behind with half a request.
                    self._kill()
                    raise
        told = "; then ".join(map(str, faults))
        if all(isinstance(fault, _DeviceFault) for fault in faults):
            raise DeviceUnavailable(f"{request['device']} failed {len(faults)} times: {told}")
        raise WorkerError(
            f"the MyriadX worker failed {len(faults)} times ({' '.join(self._command)}): {told}. "
            f"{self._remedy()}"
        )

    def _start(self) -> None:
        """Starts a worker and checks that it is one, and of the version that is spoken here."""
        if self._command is None:
            self._command = ensure_environment().command()
        with interrupts_deferred():
            self._process = Process(self._command)
        if self._prefix is not None:
            line = self._process.transfer(remote.start(), self._deadlines_s["hello"])
            if line != remote.READY:
                raise Fault(f"printed {line[:200]!r} where {remote.READY!r} was due")
        versions = read_hello(self._exchange({"method": "hello"}))
        openvino = versions.get("openvino", "")
        if not openvino.startswith(OPENVINO):
            raise WorkerError(
                f"the MyriadX worker ({' '.join(self._command)}) has OpenVINO "
                f"{openvino or 'of no version'}, this client needs {OPENVINO}. "
                f"{self._remedy()}"
            )

    def _remedy(self) -> str:
        prefix = "" if self._prefix is None else f" --worker_prefix={self._prefix!r}"
        return f"`python -m profiling.myriad.install{prefix}` makes the worker's environment"

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def _exchange(self, request: dict[str, Any], more_s: float = 0.0) -> dict[str, Any]:
        """Sends one request and returns its answer, or raises what the answer says."""
        self._request_id += 1
        deadline_s = self._deadlines_s[request["method"]] + more_s
        # The kernel's deadline for the worker, where ours is for its answer and rules.
        message = {"id": self._request_id, "deadline_s": math.ceil(deadline_s) + 1, **request}
        line = self._process.transfer(json.dumps(message).encode() + b"\n", deadline_s)
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            raise Fault(f"printed no JSON: {line[:200]!r}") from None
        if not isinstance(answer, dict) or answer.get("id") != self._request_id:
            raise Fault(f"answered something else: {line[:200]!r}")
        if answer.get("ok") is True:
            return answer
        error = answer.get("error")
        if not isinstance(error, dict) or not isinstance(error.get("message"), str):
            raise Fault(f"answered something else: {line[:200]!r}")
        match error.get("kind"):
            case "model" | "compile":
                raise CompileError(_plain(error["message"]), error.get("layer"))
            case "library":
                raise WorkerError(
                    f"{error['message']} ({' '.join(self._command)}). {self._remedy()}"
                )
            case "device":
                raise _DeviceFault(error["message"])
        raise Fault(f"answered with the error {error.get('kind')!r}: {error['message']}")


def _plain(words: str) -> str:
    """OpenVINO's words on one line, without places in its source and its kinds of errors."""
    return " ".join(re.sub(r"\S*/\S+\.[chp]{1,3}:\d+|\[ *[A-Z_]+ *\]", "", words).split())


def _encoded(model: bytes) -> str:
    return base64.b64encode(model).decode("ascii")


def _checked(shaves: int | None) -> int | None:
    if shaves is not None and not 1 <= shaves <= MAX_SHAVES:
        raise ValueError(f"shaves is {shaves}; allowed: 1 to {MAX_SHAVES}, or None")
    return shaves
