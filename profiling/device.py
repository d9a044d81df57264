"""What a device is to the rest of the project, and what a user may ask of one."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol, Self

import numpy as np

from profiling.measurement import Measurement, Setup, pooled

MAX_SHAVES = 16


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user may ask of a device; each holds for some devices and is ignored by others.

    Attributes:
      shaves: MyriadX SHAVE processors to compile for, 1 to 16; None is the compiler's own choice.
      threads: of the CPU; None is OpenVINO's own choice.
      worker_prefix: command that runs the MyriadX worker elsewhere, such as `ssh lab-pi`.
    """

    shaves: int | None = None
    threads: int | None = None
    worker_prefix: str | None = None

    def __post_init__(self):
        if self.shaves is not None and not 1 <= self.shaves <= MAX_SHAVES:
            raise ValueError(f"shaves is {self.shaves}, allowed are 1 to {MAX_SHAVES}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}, allowed are 1 or more")

    def settings(self) -> dict[str, Any]:
        """What a table's settings must be for it to serve."""
        threads = {} if self.threads is None else {"threads": self.threads}
        return {"shaves": self.shaves, **threads}


class Device(Protocol):
    """A device that is there; a context manager that gives it back.

    Attributes:
      setup: what its numbers depend on beside the network.
      passes: how many runs a figure is pooled from, in tables with the networks in turn; one where
        it is estimated.
    """

    setup: Setup
    repeats: int

    def measure(self, model: bytes) -> Measurement:
        """Latency of an ONNX network.

        Raises:
          CompileError: the device's compiler refuses the network; in its words.
          DeviceUnavailable: the device, or the process that speaks to it, is gone.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Executor(Device, Protocol):
    """A device that runs networks."""

    def scores(self, file: pathlib.Path, images: Iterable[np.ndarray]) -> np.ndarray:
        """Runs a network of one input and one output on images, one image an inference.

        Args:
          file: ONNX; or OpenVINO IR, which CPU, GPU and NPU read.
          images: at least one, each of the input's shape without its batch of 1 and of its dtype.

        Returns:
          float32 [images, elements of an output].

        Raises:
          CompileError: the device cannot read the file, or its compiler refuses the network.
          DeviceUnavailable: the device fails, or is gone.
        """


def measure_repeatedly(
    device: Device,
    model: bytes,
    progress: Callable[[int, Measurement], None] = lambda done, run: None,
) -> Measurement:
    """The runs of one ONNX network, as many as the device asks for, pooled.

    Args:
      progress: called after each run with the runs done and the last of them.

    Raises:
      CompileError, DeviceUnavailable: as `Device.measure`.
    """
    runs: list[Measurement] = []
    while len(runs) < device.repeats:
        runs.append(device.measure(model))
        progress(len(runs), runs[-1])
    return pooled(runs)
