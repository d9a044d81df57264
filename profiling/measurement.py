"""What a device is to the rest of the project, and what it answers."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, Protocol, Self

MAX_SHAVES = 16


@dataclasses.dataclass(frozen=True)
class LayerTime:
    """The time of one ONNX node, or of a step of the device that belongs to none."""

    name: str
    ms: float


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

    def settings(self) -> dict[str, object]:
        """What a table's settings must be for it to serve."""
        threads = {} if self.threads is None else {"threads": self.threads}
        return {"shaves": self.shaves, **threads}


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a latency depends on beside the network.

    Attributes:
      device: its name, as `--device` takes it, without the number of one among several.
      kind: whether it is timed, or its compiler's schedule costed.
      hardware: model, and where it has one its serial or port.
      precision: what it computes in.
      versions: of the software, by name.
      settings: what was chosen, by name: shaves, threads.
    """

    device: str
    kind: Literal["measured", "estimated"]
    hardware: str
    precision: str
    versions: Mapping[str, str]
    settings: Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One network on one device, batch 1.

    Attributes:
      setup: what gave the numbers.
      latency_ms: the median of the inferences timed, or the estimate.
      p10_ms, p90_ms: percentiles of those timed, or the estimate's interval.
      count: inferences timed; 0 where estimated.
      layers: in order of execution; with host_ms they add up to latency_ms.
      host_ms: the part of latency_ms that is the host's and the bus's.
      temperature_c: of the device before and after, where it tells.
      blob: the compiled network for the MyriadX, else None.
    """

    setup: Setup
    latency_ms: float
    p10_ms: float
    p90_ms: float
    count: int
    layers: tuple[LayerTime, ...]
    host_ms: float = 0.0
    temperature_c: tuple[float, float] | None = None
    blob: bytes | None = dataclasses.field(default=None, repr=False)

    def document(self, model: str) -> dict[str, object]:
        """The JSON object of `profiling.measure`."""
        return {
            "schema": 2, "model": model, **dataclasses.asdict(self.setup),
            "latency_ms": {"median": self.latency_ms, "p10": self.p10_ms, "p90": self.p90_ms,
                           "count": self.count},
            "host_ms": self.host_ms, "temperature_c": self.temperature_c,
            "layers": [dataclasses.asdict(layer) for layer in self.layers]}


class Device(Protocol):
    """A device that is there; a context manager that gives it back.

    Attributes:
      setup: what its numbers depend on beside the network.
      passes: how many times, networks in turn, a table measures each; one where it is estimated.
    """

    setup: Setup
    passes: int

    def measure(self, model: bytes) -> Measurement:
        """Latency of an ONNX network.

        Raises:
          CompileError: the device's compiler refuses the network; in its words.
          DeviceUnavailable: the device, or the process that speaks to it, is gone.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
