"""What a device answered: the latency of a network and its layers, and what it depends on."""

import dataclasses
import datetime
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np


@dataclasses.dataclass(frozen=True)
class LayerTime:
    """The time of one ONNX node, or of a step of the device that belongs to none."""

    name: str
    ms: float


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
    settings: Mapping[str, Any]


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
      time: when it was made, UTC.
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
    time: datetime.datetime = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC), compare=False
    )

    def document(self, model: str) -> dict[str, Any]:
        """The JSON object of `profiling.measure`."""
        return {
            "schema": 2,
            "model": model,
            **dataclasses.asdict(self.setup),
            "latency_ms": {
                "median": self.latency_ms,
                "p10": self.p10_ms,
                "p90": self.p90_ms,
                "count": self.count,
            },
            "time": self.time.isoformat(timespec="milliseconds"),
            "host_ms": self.host_ms,
            "temperature_c": self.temperature_c,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
        }


def pooled(runs: Sequence[Measurement]) -> Measurement:
    """Several runs of one network with one setup, as one measurement; a single run is itself.

    Latency, host part and each layer are medians over the runs, host and layers then rescaled so
    that they add up to the latency again. A layer that a run does not report took none of its time
    there: its work was done within another. The interval is from the 10th percentile of the runs'
    p10_ms to the 90th of their p90_ms: it shows what changed from run to run, and a lone disturbed
    run among many does not set it. Counts are added; time is the first's.

    Args:
      runs: in order of time, at least one.

    Raises:
      ValueError: the runs differ in their setup.
    """
    first, last = runs[0], runs[-1]
    if len(runs) == 1:
        return first
    other = next((run.setup for run in runs if run.setup != first.setup), None)
    if other is not None:
        raise ValueError(
            f"runs of {first.setup} and of {other} cannot be pooled; pool those of one setup"
        )
    latency_ms = statistics.median(run.latency_ms for run in runs)
    by_name = [{layer.name: layer.ms for layer in run.layers} for run in runs]
    names = dict.fromkeys(layer.name for run in runs for layer in run.layers)
    layers = {name: statistics.median(ms.get(name, 0.0) for ms in by_name) for name in names}
    host_ms = statistics.median(run.host_ms for run in runs)
    factor = latency_ms / (host_ms + sum(layers.values()))
    told = first.temperature_c is not None and last.temperature_c is not None
    return dataclasses.replace(
        first,
        latency_ms=latency_ms,
        p10_ms=float(np.percentile([run.p10_ms for run in runs], 10)),
        p90_ms=float(np.percentile([run.p90_ms for run in runs], 90)),
        count=sum(run.count for run in runs),
        layers=tuple(LayerTime(name, ms * factor) for name, ms in layers.items()),
        host_ms=host_ms * factor,
        temperature_c=(first.temperature_c[0], last.temperature_c[1]) if told else None,
    )
