"""The worker's answers: what each must hold, read into objects or refused.

Public functions here take the JSON object of an answer, and raise Fault where it is not one that
worker.py gives.
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
      layers: the shapes of each layer's outputs, by its name, as the network was read.
      blob: the executable, as OAK devices (depthai) load it.
      versions: of the worker's Python, OpenVINO and plugin.
    """

    graph: str
    layers: dict[str, list[list[int]]]
    blob: bytes
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Inferences:
    """A network's inferences on a device, one after the other.

    Attributes:
      latency_ms: of each, from the request to the answer.
      counters: by the runtime's names, in order of execution; medians over the inferences.
      temperature_c: of the device before and after, where it tells.
      graph: the stage graph of the very compilation that ran; None where the device is none of
        the MyriadX compiler's.
      originals: for the CPU plugin, the layers that each of its names stands for.
    """

    latency_ms: tuple[float, ...]
    counters: tuple[LayerTime, ...]
    temperature_c: tuple[float, float] | None
    graph: str | None
    originals: Mapping[str, list[str]]


def read_hello(answer: dict[str, Any]) -> dict[str, str]:
    """The versions in a hello's answer."""
    if answer.get("protocol") != PROTOCOL:
        raise WorkerError(
            f"the MyriadX worker speaks protocol {answer.get('protocol')!r}, this "
            f"client {PROTOCOL}; use the worker.py that came with this client"
        )
    return _read_versions(answer)


def _read_versions(answer: dict[str, Any]) -> dict[str, str]:
    """The versions in an answer."""
    versions = answer.get("versions")
    if not isinstance(versions, dict):
        raise Fault(f"answered the versions {versions!r}")
    return versions


def read_devices(answer: dict[str, Any]) -> dict[str, str]:
    """The devices in an answer."""
    devices = answer.get("devices")
    if not isinstance(devices, dict):
        raise Fault(f"answered the devices {devices!r}")
    return devices


def read_compiled(answer: dict[str, Any]) -> Compiled:
    """The network in a compile's answer."""
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
    """The outputs in an answer, float32 [images, elements of an output]."""
    try:
        values = np.frombuffer(base64.b64decode(answer["scores"], validate=True), np.float32)
        return values.reshape(answer["count"], -1)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Fault(f"answered no scores: {error!r}") from error


def _time_ms(value: object) -> float:
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{number} ms is no time")
    return number


def read_inferences(answer: dict[str, Any]) -> Inferences:
    """The inferences in an answer."""
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
