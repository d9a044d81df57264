"""Result of a measurement: latency of a network and its layers, and the setup it depends on."""

import dataclasses
import datetime
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np


@dataclasses.dataclass(frozen=True)
class LayerTime:
    """Time of one ONNX node, or of a step of the device that belongs to no node."""

    name: str
    ms: float


@dataclasses.dataclass(frozen=True)
class Setup:
    """Everything besides the network that a latency depends on.

    Attributes:
      device: name as `--device` takes it, without the part that selects one of several.
      kind: "measured" if inferences are timed; "estimated" if a cost model is applied to the
        compiler's schedule.
      hardware: model of the device, with its serial number or port if it has one.
      precision: data type of the computation.
      versions: software versions by name.
      settings: chosen values by name: shaves, threads.
    """

    device: str
    kind: Literal["measured", "estimated"]
    hardware: str
    precision: str
    versions: Mapping[str, str]
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Latency of one network on one device at batch 1.

    Attributes:
      setup: setup that the numbers hold for.
      latency_ms: median of the timed inferences, or the estimate.
      p10_ms, p90_ms: percentiles of the timed inferences, or the interval of the estimate.
      count: number of timed inferences; 0 if estimated.
      layers: layers in order of execution; their times and host_ms add up to latency_ms.
      host_ms: part of latency_ms that belongs to no layer: host and bus.
      temperature_c: temperature of the device before and after; None if it reports none.
      blob: compiled network for the MyriadX; None for other devices.
      time: time of the measurement, UTC.
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
        """Returns the JSON object that `profiling.measure` prints."""
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
    """Combines runs of one network with one setup; a single run is returned unchanged.

    Latency, host part and each layer are medians over the runs. Host part and layers are then
    rescaled so that they add up to the latency again. A layer missing from a run counts as 0 ms,
    because its work was done within another layer. The interval extends from the 10th percentile
    of the runs' p10_ms to the 90th percentile of their p90_ms: it covers the variation between
    runs, but one disturbed run among many does not determine it. Counts are added; time and blob
    are those of the first run.

    Args:
      runs: one run or more, in order of time.

    Raises:
      ValueError: the runs have different setups.
    """
    first, last = runs[0], runs[-1]
    if len(runs) == 1:
        return first
    other = next((run.setup for run in runs if run.setup != first.setup), None)
    if other is not None:
        raise ValueError(
            f"runs of {first.setup} and of {other} cannot be pooled; pool runs of one setup"
        )
    latency_ms = statistics.median(run.latency_ms for run in runs)
    by_name = [{layer.name: layer.ms for layer in run.layers} for run in runs]
    names = dict.fromkeys(layer.name for run in runs for layer in run.layers)
    layers = {name: statistics.median(ms.get(name, 0.0) for ms in by_name) for name in names}
    host_ms = statistics.median(run.host_ms for run in runs)
    factor = latency_ms / (host_ms + sum(layers.values()))
    temperature_c = None
    if first.temperature_c is not None and last.temperature_c is not None:
        temperature_c = (first.temperature_c[0], last.temperature_c[1])
    return dataclasses.replace(
        first,
        latency_ms=latency_ms,
        p10_ms=float(np.percentile([run.p10_ms for run in runs], 10)),
        p90_ms=float(np.percentile([run.p90_ms for run in runs], 90)),
        count=sum(run.count for run in runs),
        layers=tuple(LayerTime(name, ms * factor) for name, ms in layers.items()),
        host_ms=host_ms * factor,
        temperature_c=temperature_c,
    )
