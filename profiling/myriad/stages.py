"""The compiler's stage graph: what the MyriadX will execute, stage by stage.

The compiler writes Graphviz DOT. Stages are nodes whose label starts with `[order / index]`; data
are nodes whose label starts with `Data`; an edge from data to stage is an input, one from stage to
data an output. pydot reads the syntax, networkx holds the graph, and the labels, which are the
compiler's own text inside DOT strings, are read here.

The estimate is the calibrated time of each stage, added along the schedule.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Sequence

import networkx as nx

from profiling.measurement import LayerTime
from profiling.myriad.calibration import Calibration
from profiling.myriad.graph import read_graph

HARDWARE = "MyriadXHwOp"
NOT_EXECUTED = -1

_TYPE_BYTES = {"FP32": 4, "FP16": 2, "S32": 4, "I32": 4, "U8": 1, "I8": 1}


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What the convolution engine does in a stage.

    Attributes:
      operation: CONV, POOL or FC.
      kernel: width and height of the window.
      stride: in both directions.
      mode: how the 256 multipliers are divided, `MODE_<input channels>_<output channels>`.
      descriptors: into how many parts, one after the other, the channels are cut.
      cycles: clocks for one output column through all descriptors: the compiler's `cost`, for a
        convolution the sum over descriptors of kernel area times input channels a block, plus a
        set-up per mode. The compiler gives none for pooling: there it is kernel area times
        descriptors.
    """

    operation: str
    kernel: tuple[int, int]
    stride: int
    mode: str
    descriptors: int
    cycles: int


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of the schedule.

    Attributes:
      name: the compiler's name for it.
      type: MyriadXHwOp, Copy, Sum, Convert, ...
      layer: the ONNX node it belongs to (the last node goes by the name of the network's output),
        or None: conversions of the network's input and output.
      order: its turn; stages of one order run side by side; -1 is not executed.
      index: its place in the compiler's list; an injected stage's follows from its host's.
      shaves: vector processors it uses; 0 in the hardware's stages and copies.
      hardware: for hardware stages, else None.
      input_bytes: of activations read while it runs, by it and by stages injected into it.
      output_bytes: of activations written while it runs, likewise.
      weight_bytes: of constants it reads.
      output_size: width and height of its first output.
    """

    name: str
    type: str
    layer: str | None
    order: int
    index: int
    shaves: int
    hardware: Hardware | None
    input_bytes: int
    output_bytes: int
    weight_bytes: int
    output_size: tuple[int, int]

    @property
    def executed(self) -> bool:
        """Whether the device does anything for it."""
        return self.order != NOT_EXECUTED


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The time of one inference, without host and USB.

    Attributes:
      latency_ms: the schedule's critical path: of stages side by side the longest counts.
      interval_ms: from that to the sum of all stages, as if none overlapped.
      layers: by first execution; they add up to latency_ms. Time side by side is the longer's.
    """

    latency_ms: float
    interval_ms: tuple[float, float]
    layers: tuple[LayerTime, ...]


def stage_ms(stage: Stage, calibration: Calibration) -> float:
    """Returns the time of a stage on its own, 0 where it is not executed."""
    c = calibration
    moved_mb = (stage.input_bytes + stage.output_bytes) / 1e6
    if not stage.executed:
        return 0.0
    if stage.type == "Copy":
        return c.copy_ms + c.copy_ms_per_mb * stage.output_bytes / 1e6
    if stage.hardware is None:
        return c.shave_ms + c.shave_ms_per_mb * moved_mb
    width, height = stage.output_size
    columns = height * math.ceil(width / c.columns_at_once) * c.columns_at_once
    compute_ms = c.clocks_per_cycle * columns * stage.hardware.cycles / c.clock_khz
    weight_ms = c.weight_ms_per_mb * stage.weight_bytes / 1e6
    return compute_ms + weight_ms + c.activation_ms_per_mb * moved_mb + c.hardware_ms


def estimate(graph_text: str, calibration: Calibration | None = None) -> Estimate:
    """Estimates a compiled network's latency from its stage graph.

    Args:
      graph_text: the compiler's DOT.
      calibration: None is calibration.json.

    Raises:
      ValueError: the text is no stage graph.
    """
    return estimate_stages(parse(graph_text), calibration or Calibration.load())


def estimate_stages(stages: Sequence[Stage], calibration: Calibration) -> Estimate:
    """Estimates the latency of stages that are parsed already."""
    slots = collections.defaultdict(list)
    for stage in stages:
        if stage.executed:
            slots[stage.order].append((stage_ms(stage, calibration), stage.layer or stage.name))
    layers: dict[str, float] = {}
    for order in sorted(slots):
        ms, name = max(slots[order])
        layers[name] = layers.get(name, 0.0) + ms
    latency_ms = sum(layers.values())
    sum_ms = sum(ms for slot in slots.values() for ms, _ in slot)
    times = tuple(LayerTime(name, ms) for name, ms in layers.items())
    return Estimate(latency_ms, (latency_ms, sum_ms), times)


def parse(graph_text: str) -> list[Stage]:
    """Returns the stages of a compiled network, in the compiler's order.

    Raises:
      ValueError: the text is no stage graph, or a label lacks what a stage must have.
    """
    graph = read_graph(graph_text)
    labels = {node: _label(attributes) for node, attributes in graph.nodes(data=True)}
    data = {node: _Datum.read(label) for node, label in labels.items() if _is_data(label)}
    stages = []
    for node, label in labels.items():
        if node in data:
            continue
        # An edge from stage to stage: the second is injected, runs while the first does, and its
        # data are drawn as the first's too. They stay in the first's traffic, since both share
        # one memory; its own data come first, since its size is that of its own output.
        injected = [other for other in graph.successors(node) if other not in data]
        theirs = {other for stage in injected for other in nx.all_neighbors(graph, stage)}
        inputs, outputs = (
            [data[other] for other in sorted(neighbours, key=theirs.__contains__) if other in data]
            for neighbours in (graph.predecessors(node), graph.successors(node))
        )
        stages.append(_read_stage(label, inputs, outputs))
    if not stages:
        raise ValueError("the graph has no stages; give the compiler's stage graph, as compiled")
    return sorted(stages, key=lambda stage: stage.index)


@dataclasses.dataclass(frozen=True)
class _Datum:
    """A data node: tensor, constant or (usage Fake) the absence of one."""

    usage: str
    bytes: int
    size: tuple[int, int]

    @classmethod
    def read(cls, label: str) -> "_Datum":
        usage = _field(label, "usage", r"\w+")
        type_ = _field(label, "type", r"\w+")
        dims = {
            name: int(size)
            for name, size in re.findall(r"(\w+) : (\d+)", _field(label, "dims", r"\[[^\]]*\]"))
        }
        if type_ not in _TYPE_BYTES:
            raise ValueError(f"data type {type_!r}; known: {sorted(_TYPE_BYTES)}, in {label!r}")
        bytes_ = 0 if usage == "Fake" else math.prod(dims.values()) * _TYPE_BYTES[type_]
        return cls(usage, bytes_, (dims.get("W", 1), dims.get("H", 1)))


def _read_stage(label: str, inputs: list[_Datum], outputs: list[_Datum]) -> Stage:
    """Returns the stage that a label and its neighbours describe."""
    head = re.match(r"\[(-?\d+) / (\d+)\] Stage (.*)\n", label)
    if head is None:
        raise ValueError(f"expected a label '[order / index] Stage name', not {label[:200]!r}")
    type_ = _field(label, "type", r"\w+")
    layer = re.search(r"origLayer = \[\n +name = (.*)\n", label)
    return Stage(
        name=head[3],
        type=type_,
        layer=layer[1] if layer else None,
        order=int(head[1]),
        index=int(head[2]),
        shaves=int(_field(label, "numSHAVEs", r"\d+")),
        hardware=_read_hardware(label) if type_ == HARDWARE else None,
        input_bytes=sum(datum.bytes for datum in inputs if datum.usage != "Const"),
        output_bytes=sum(datum.bytes for datum in outputs if datum.usage != "Temp"),
        weight_bytes=sum(datum.bytes for datum in inputs if datum.usage == "Const"),
        output_size=outputs[0].size if outputs else (0, 0),
    )


def _read_hardware(label: str) -> Hardware:
    """Returns what a hardware stage's label says of the engine."""
    operation = _field(label, "hwOpType", r"\w+")
    descriptors = int(_field(label, "numDescr", r"\d+"))
    if operation == "FC":
        kernel, stride = (1, 1), 1
    else:
        kernel = (
            int(_field(label, "kernelSizeX", r"\d+")),
            int(_field(label, "kernelSizeY", r"\d+")),
        )
        stride = int(_field(label, "kernelStride", r"\d+"))
    if operation == "POOL":
        cycles = kernel[0] * kernel[1] * descriptors
    else:
        cycles = int(_field(label, "cost", r"\d+"))
    mode = _field(label, "mode", r"\w+")
    return Hardware(operation, kernel, stride, mode, descriptors, cycles)


def _field(label: str, name: str, pattern: str) -> str:
    """Returns the value of a label's first `name = value` line."""
    match = re.search(rf"^ *{name} = ({pattern})", label, re.MULTILINE)
    if match is None:
        raise ValueError(f"the compiler's label has no {name!r}: {label[:300]!r}")
    return match[1]


def _is_data(label: str) -> bool:
    return label.startswith("Data ")


def _label(attributes: dict[str, str]) -> str:
    """Returns a node's label as lines; DOT's `\\l` ends a left-justified line."""
    return attributes.get("label", "").strip('"').replace("\\l", "\n")
