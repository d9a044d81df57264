"""The interface of a device, and the options that a user may set."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from profiling.measurement import Measurement, Setup, pooled

MAX_SHAVES = 16


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a device; a device ignores those that do not apply to it.

    Attributes:
      shaves: number of MyriadX SHAVE processors to compile for, 1 to 16. None leaves it to the
        compiler; an OAK then uses 6.
      threads: number of CPU threads; None leaves it to OpenVINO.
      worker_prefix: command that runs the MyriadX worker on another host, such as `ssh lab-pi`.
    """

    shaves: int | None = None
    threads: int | None = None
    worker_prefix: str | None = None

    def __post_init__(self) -> None:
        if self.shaves is not None and not 1 <= self.shaves <= MAX_SHAVES:
            raise ValueError(f"shaves is {self.shaves}, allowed are 1 to {MAX_SHAVES}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}, allowed are 1 or more")

    def settings(self) -> dict[str, Any]:
        """Returns the settings that a latency table must have to be valid for these options."""
        threads = {} if self.threads is None else {"threads": self.threads}
        return {"shaves": self.shaves, **threads}


class Device(Protocol):
    """An open device; a context manager that closes it."""

    @property
    def setup(self) -> Setup:
        """Everything besides the network that a latency depends on."""

    @property
    def repeats(self) -> int:
        """Number of runs that one latency is pooled from; 1 if latency is estimated."""

    def measure(self, model: bytes) -> Measurement:
        """Measures or estimates the latency of an ONNX network.

        Raises:
          CompileError: the device's compiler refuses the network; with the compiler's message.
          DeviceUnavailable: the device, or the process that drives it, stopped working.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


@runtime_checkable
class Executor(Device, Protocol):
    """A device that runs networks, instead of only estimating their latency."""

    def scores(self, file: pathlib.Path, images: Iterable[np.ndarray]) -> np.ndarray:
        """Runs a network with one input and one output on each image, at batch 1.

        Args:
          file: ONNX file, or OpenVINO IR for CPU, GPU and NPU.
          images: one image or more, with the shape (without batch) and dtype of the input.

        Returns:
          float32 [images, elements of the output].

        Raises:
          CompileError: the device cannot read the file, or its compiler refuses the network.
          DeviceUnavailable: the device fails or stopped working.
        """


def measure_repeatedly(
    device: Device,
    model: bytes,
    progress: Callable[[int, Measurement], None] = lambda done, run: None,
) -> Measurement:
    """Measures an ONNX network `device.repeats` times and returns the pooled measurement.

    Args:
      device: device to measure on.
      model: bytes of the ONNX file.
      progress: called after each run with the number of runs done and the last measurement.

    Raises:
      CompileError, DeviceUnavailable: as in `Device.measure`.
    """
    runs: list[Measurement] = []
    while len(runs) < device.repeats:
        runs.append(device.measure(model))
        progress(len(runs), runs[-1])
    return pooled(runs)
