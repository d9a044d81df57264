"""Devices: what runs, or costs, a network given as ONNX, and reports milliseconds by layer."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, Protocol, Self

from absl import logging

from profiling.errors import CompileError, DeviceUnavailable
from profiling.myriad.client import MAX_SHAVES, MyriadCompiler
from profiling.myriad.stages import LayerTime, estimate

PRECISION = "FP16"


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One network on one device, batch 1.

    Attributes:
      device, kind, versions, precision: what gave the numbers.
      latency_ms: the median of the inferences timed, or the estimate.
      p10_ms, p90_ms: percentiles of those timed, or the estimate's interval.
      count: inferences timed; 0 where estimated.
      layers: in order of execution; they add up to latency_ms.
      shaves: MyriadX SHAVE processors compiled for; None is the compiler's own choice.
      blob: the compiled network for the MyriadX, else None.
    """

    device: str
    kind: Literal["measured", "estimated"]
    versions: Mapping[str, str]
    precision: str
    latency_ms: float
    p10_ms: float
    p90_ms: float
    count: int
    layers: tuple[LayerTime, ...]
    shaves: int | None = None
    blob: bytes | None = dataclasses.field(default=None, repr=False)

    def document(self, model: str) -> dict[str, object]:
        """The JSON object of `profiling.measure`."""
        return {
            "schema": 1, "model": model, "device": self.device, "kind": self.kind,
            "versions": dict(self.versions), "precision": self.precision, "shaves": self.shaves,
            "latency_ms": {"median": self.latency_ms, "p10": self.p10_ms, "p90": self.p90_ms,
                           "count": self.count},
            "layers": [dataclasses.asdict(layer) for layer in self.layers]}


class Device(Protocol):
    """A device that is there; a context manager that gives it back."""

    name: str

    def measure(self, model: bytes) -> Measurement:
        """Latency of an ONNX network.

        Raises:
          CompileError: the device's compiler refuses the network; in its words.
          DeviceUnavailable: the device, or the process that speaks to it, is gone.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class MyriadXCompiler:
    """The MyriadX without a stick: the real compiler's schedule under a calibrated cost model."""

    name = "MYRIADX_COMPILER"

    def __init__(self, shaves: int | None = None):
        """Starts the compiler's process; installs its environment at first use.

        Raises:
          DeviceUnavailable: it cannot run here; says why and what to do.
        """
        self._shaves = shaves
        self._compiler = MyriadCompiler()
        self._compiler.hello()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._compiler.close()

    def measure(self, model: bytes) -> Measurement:
        compiled = self._compiler.compile(model, shaves=self._shaves)
        try:
            result = estimate(compiled.graph)
        except ValueError as error:
            raise CompileError(f"the compiler's stage graph of this network is beyond the cost "
                               f"model: {error}") from error
        return Measurement(
            self.name, "estimated", compiled.versions, PRECISION, result.latency_ms,
            *result.interval_ms, 0, result.layers, self._shaves, compiled.blob)


DEVICES: dict[str, Callable[..., Device]] = {MyriadXCompiler.name: MyriadXCompiler}


def device_names(text: str) -> list[str]:
    """The names in a comma-separated preference list.

    Raises:
      ValueError: an unknown device; names those there are.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in DEVICES:
            raise ValueError(f"unknown device {name!r}, allowed are {', '.join(DEVICES)} or a "
                             f"comma-separated list of them, the preferred first")
    return names


def open_device(text: str, shaves: int | None = None) -> Device:
    """The first device of a preference list that is there.

    Args:
      text: names, comma-separated.
      shaves: MyriadX SHAVE processors to compile for; None is the compiler's own choice.

    Raises:
      ValueError: an unknown device, or shaves out of range.
      DeviceUnavailable: none is there; says why for each.
    """
    if shaves is not None and not 1 <= shaves <= MAX_SHAVES:
        raise ValueError(f"shaves is {shaves}, allowed are 1 to {MAX_SHAVES}")
    reasons = []
    for name in device_names(text):
        try:
            return DEVICES[name](shaves)
        except DeviceUnavailable as error:
            logging.warning("%s is not there: %s", name, error)
            reasons.append(f"{name}: {error}")
    raise DeviceUnavailable("no device is there. " + " ".join(reasons))
