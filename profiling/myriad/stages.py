"""The compiler's stage graph: what the MyriadX will execute, stage by stage.

The compiler writes Graphviz DOT. Stages are nodes whose label starts with `[order / index]`; data
are nodes whose label starts with `Data`; an edge from data to stage is an input, one from stage to
data an output. The labels are read here, the graph that they stand in by graph.py. What a stage
costs is cost.py's.
"""

import dataclasses
import math
import re

import networkx as nx

from profiling.myriad.graph import read_graph

HARDWARE = "MyriadXHwOp"
NOT_EXECUTED = -1
ON_CHIP = "CMX"

_TYPE_BYTES = {"FP32": 4, "FP16": 2, "S32": 4, "I32": 4, "U8": 1, "I8": 1}


@dataclasses.dataclass(frozen=True)
class Datum:
    """A tensor of activations, as it lies in memory.

    Attributes:
      location: CMX is on the chip; BSS, Input and Output are in DRAM.
      size: width, height and channels.
      bytes: of its elements.
      row_bytes, plane_bytes: from one row, one channel, to the next; 0 where it has no rows.
    """

    location: str
    size: tuple[int, int, int]
    bytes: int
    row_bytes: int
    plane_bytes: int

    @property
    def on_chip(self) -> bool:
        return self.location == ON_CHIP

    @property
    def elements(self) -> int:
        return math.prod(self.size)

    @property
    def padded_bytes(self) -> int:
        """With the filling at the ends of its rows, which begin at multiples of 16 bytes."""
        _, height, channels = self.size
        return channels * height * self.row_bytes or self.bytes

    @property
    def runs(self) -> int:
        """Pieces without a gap: one, or where it is a part of a higher tensor one a channel."""
        _, height, channels = self.size
        dense = channels == 1 or self.plane_bytes == height * self.row_bytes
        return 1 if dense or not self.row_bytes else channels

    @property
    def filled_rows(self) -> int:
        """Rows that end in filling; 0 where width is a multiple of 8 elements."""
        width, height, channels = self.size
        return height * channels if width % 8 and width * height > 1 and self.row_bytes else 0


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What the convolution engine does in a stage.

    Attributes:
      operation: CONV, POOL or FC.
      kernel: width and height of the window.
      stride: in both directions.
      mode: how the 256 multipliers are divided, `MODE_<input channels>_<output channels>`.
      descriptors: into how many parts, one after the other, the output channels are cut.
      outputs: output channels of a part.
      multiplications: clocks for one output pixel of a part: kernel area times blocks of input
        channels; 0 for pooling. The compiler's `cost` is this and a set-up for the mode (0, 5, 11,
        19 or 31 clocks from MODE_1_256 to MODE_16_16), times descriptors.
      pooling: MAX, AVERAGE, or empty.
    """

    operation: str
    kernel: tuple[int, int]
    stride: int
    mode: str
    descriptors: int
    outputs: int
    multiplications: int
    pooling: str


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
      injected: whether it runs beside a host.
      shaves: vector processors it uses; 0 in the hardware's stages and copies.
      hardware: for hardware stages, else None.
      inputs, outputs: activations, without those of a stage injected into it.
      weight_bytes: of constants it reads.
    """

    name: str
    type: str
    layer: str | None
    order: int
    index: int
    injected: bool
    shaves: int
    hardware: Hardware | None
    inputs: tuple[Datum, ...]
    outputs: tuple[Datum, ...]
    weight_bytes: int

    @property
    def executed(self) -> bool:
        """Whether the device does anything for it."""
        return self.order != NOT_EXECUTED


def parse(graph_text: str) -> list[Stage]:
    """Returns the stages of a compiled network, in the compiler's order.

    Raises:
      ValueError: the text is no stage graph, or a label lacks what a stage must have.
    """
    graph = read_graph(graph_text)
    labels = dict(graph.nodes(data="label", default=""))
    data = {node: _Node.read(label) for node, label in labels.items() if _is_data(label)}
    stages = []
    for node, label in labels.items():
        if node in data:
            continue
        # An edge from stage to stage: the second is injected, runs while the first does, and its
        # data are drawn as the first's too. A datum that both use is the first's as well, which
        # the drawing does not tell; then the first would be left with none.
        injected = [other for other in graph.successors(node) if other not in data]
        theirs = {other for stage in injected for other in nx.all_neighbors(graph, stage)}
        sides = []
        for neighbors in (list(graph.predecessors(node)), list(graph.successors(node))):
            used = [data[other] for other in neighbors if other in data]
            own = [data[other] for other in neighbors if other in data and other not in theirs]
            sides.append(own if any(one.datum for one in own) else used)
        hosts = [other for other in graph.predecessors(node) if other not in data]
        stages.append(_read_stage(label, *sides, injected=bool(hosts)))
    if not stages:
        raise ValueError("the graph has no stages; give the compiler's stage graph, as compiled")
    return sorted(stages, key=lambda stage: stage.index)


@dataclasses.dataclass(frozen=True)
class _Node:
    """A data node: activations, a constant, a temporary, or (usage Fake) the absence of one."""

    datum: Datum | None
    constant_bytes: int

    @classmethod
    def read(cls, label: str) -> "_Node":
        usage = _field(label, "usage", r"\w+")
        type_ = _field(label, "type", r"\w+")
        dims, strides = (
            {
                name: int(size)
                for name, size in re.findall(r"(\w+) : (\d+)", _field(label, field, r"\[[^\]]*\]"))
            }
            for field in ("dims", "strides")
        )
        if type_ not in _TYPE_BYTES:
            raise ValueError(f"data type {type_!r}; known: {sorted(_TYPE_BYTES)}, in {label!r}")
        bytes_ = math.prod(dims.values()) * _TYPE_BYTES[type_]
        if usage in ("Fake", "Temp"):
            return cls(None, 0)
        if usage == "Const":
            return cls(None, bytes_)
        channels_first = strides.get("C", 0) > _TYPE_BYTES[type_]
        rows = channels_first and "H" in strides
        return cls(
            Datum(
                _field(label, "dataLocation", r"\w+"),
                (dims.get("W", 1), dims.get("H", 1), dims.get("C", 1)),
                bytes_,
                strides["H"] if rows else 0,
                strides["C"] if rows else 0,
            ),
            0,
        )


def _read_stage(label: str, inputs: list[_Node], outputs: list[_Node], *, injected: bool) -> Stage:
    """Returns the stage that a label and its neighbors describe."""
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
        injected=injected,
        shaves=int(_field(label, "numSHAVEs", r"\d+")),
        hardware=_read_hardware(label) if type_ == HARDWARE else None,
        inputs=tuple(node.datum for node in inputs if node.datum is not None),
        outputs=tuple(node.datum for node in outputs if node.datum is not None),
        weight_bytes=sum(node.constant_bytes for node in inputs),
    )


def _read_hardware(label: str) -> Hardware:
    """Returns what a hardware stage's label says of the engine."""
    operation = _field(label, "hwOpType", r"\w+")
    mode = _field(label, "mode", r"MODE_\d+_\d+")
    kernel, stride = (1, 1), 1
    if operation != "FC":
        kernel = (
            int(_field(label, "kernelSizeX", r"\d+")),
            int(_field(label, "kernelSizeY", r"\d+")),
        )
        stride = int(_field(label, "kernelStride", r"\d+"))
    multiplications, outputs, pooling = 0, 0, ""
    if operation == "POOL":
        pooling = "MAX" if _field(label, "poolType", r"\w+") == "MAX" else "AVERAGE"
    else:
        inputs = int(_field(label, "extendedInputDimC", r"\d+"))
        multiplications = kernel[0] * kernel[1] * math.ceil(inputs / int(mode.split("_")[1]))
        outputs = int(_field(label, "outChansPerDescr", r"\d+"))
    return Hardware(
        operation,
        kernel,
        stride,
        mode,
        int(_field(label, "numDescr", r"\d+")),
        outputs,
        multiplications,
        pooling,
    )


def _field(label: str, name: str, pattern: str) -> str:
    """Returns the value of a label's first `name = value` line."""
    match = re.search(rf"^ *{name} = ({pattern})", label, re.MULTILINE)
    if match is None:
        raise ValueError(f"the compiler's label has no {name!r}: {label[:300]!r}")
    return match[1]


def _is_data(label: str) -> bool:
    return label.startswith("Data ")
