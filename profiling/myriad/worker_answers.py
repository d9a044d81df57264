"""Readers of the worker's answers: each checks a JSON object and converts it.

The functions raise Fault for an answer that worker.py does not give.
"""

import base64
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from profiling.errors import WorkerError
from profiling.measurement import LayerTime
from profiling.myriad.process import Fault

PROTOCOL = 4


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A network compiled for the MyriadX.

    Attributes:
      graph: the compiler's stage graph; see graph.py.
      layers: shapes of each layer's outputs as OpenVINO read the network, by layer name.
      blob: the executable, which OAK devices load (depthai).
      versions: versions of the worker's Python, OpenVINO, plugin and firmware.
    """

    graph: str
    layers: dict[str, list[list[int]]]
    blob: bytes
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Inferences:
    """Consecutive inferences of a network on a device.

    Attributes:
      latency_ms: latency of each inference, from the start of the request to its end.
      counters: median time of each layer, under the runtime's names, in order of execution.
      temperature_c: device temperature before and after, or None if the device reports none.
      graph: stage graph of the compilation that ran, or None if the device is not a MyriadX.
      originals: network layers behind each name of the CPU plugin; empty for a MyriadX.
    """

    latency_ms: tuple[float, ...]
    counters: tuple[LayerTime, ...]
    temperature_c: tuple[float, float] | None
    graph: str | None
    originals: Mapping[str, list[str]]


def read_hello(answer: dict[str, Any]) -> dict[str, str]:
    """Returns the versions in the answer to hello.

    Raises:
      WorkerError: the worker uses another protocol.
    """
    if answer.get("protocol") != PROTOCOL:
        raise WorkerError(
            f"the MyriadX worker speaks protocol {answer.get('protocol')!r}, this "
            f"client {PROTOCOL}; use the worker.py of this version"
        )
    return _read_versions(answer)


def _read_versions(answer: dict[str, Any]) -> dict[str, str]:
    """Returns the versions in an answer."""
    versions = answer.get("versions")
    if not isinstance(versions, dict):
        raise Fault(f"answered the versions {versions!r}")
    return versions


def read_devices(answer: dict[str, Any]) -> dict[str, str]:
    """Returns the full names of the devices in an answer, by device name."""
    devices = answer.get("devices")
    if not isinstance(devices, dict):
        raise Fault(f"answered the devices {devices!r}")
    return devices


def read_compiled(answer: dict[str, Any]) -> Compiled:
    """Returns the compiled network in the answer to compile."""
    graph = answer.get("graph")
    if not isinstance(graph, str):
        raise Fault(f"answered a graph of type {type(graph).__name__}")
    try:
        layers = {
            name: [[int(size) for size in shape] for shape in shapes]
            for name, shapes in answer["layers"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise Fault(f"answered no layers: {error!r}") from error
    try:
        blob = base64.b64decode(answer["blob"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise Fault(f"answered no blob: {error!r}") from error
    return Compiled(graph, layers, blob, _read_versions(answer))


def read_scores(answer: dict[str, Any]) -> np.ndarray:
    """Returns the outputs in an answer, float32 [images, elements of an output]."""
    try:
        values = np.frombuffer(base64.b64decode(answer["scores"], validate=True), np.float32)
        return values.reshape(answer["count"], -1)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Fault(f"answered no scores: {error!r}") from error


def _time_ms(value: Any) -> float:
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{number} ms is not a valid time")
    return number


def read_inferences(answer: dict[str, Any]) -> Inferences:
    """Returns the inferences in the answer to infer."""
    try:
        counters = tuple(
            LayerTime(str(counter["name"]), _time_ms(counter["ms"]))
            for counter in answer["counters"]
        )
        before, after = answer["temperature_c"]
        temperature_c = None if before is None or after is None else (float(before), float(after))
        latency_ms = tuple(map(_time_ms, answer["latency_ms"]))
        graph = None if answer["graph"] is None else str(answer["graph"])
        originals = {name: list(map(str, layers)) for name, layers in answer["originals"].items()}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise Fault(f"answered no inferences: {error!r}") from error
    if not latency_ms:
        raise Fault("answered no inferences: latency_ms is empty")
    return Inferences(latency_ms, counters, temperature_c, graph, originals)
