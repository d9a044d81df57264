"""Stages of a network compiled for the MyriadX, read from the compiler's stage graph.

The compiler writes Graphviz DOT. A node whose label starts with `[order / index]` is a stage, and
one whose label starts with `Data` is a datum. An edge from datum to stage is an input, an edge from
stage to datum an output. This module reads the labels, graph.py the graph; cost.py estimates the
time of a stage.
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
    """A tensor of activations and its layout in memory.

    Attributes:
      location: CMX is on the chip; BSS, Input and Output are in DRAM.
      size: width, height and channels.
      bytes: number of bytes of its elements.
      row_bytes, plane_bytes: distance from one row, or one channel, to the next; 0 without rows.
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
        """Bytes including the padding of rows, which begin at multiples of 16 bytes."""
        _, height, channels = self.size
        return channels * height * self.row_bytes or self.bytes

    @property
    def runs(self) -> int:
        """Number of contiguous pieces: 1, or one per channel if it is part of a higher tensor."""
        _, height, channels = self.size
        dense = channels == 1 or self.plane_bytes == height * self.row_bytes
        return 1 if dense or not self.row_bytes else channels

    @property
    def filled_rows(self) -> int:
        """Number of rows that end in padding; 0 if the width is a multiple of 8 elements."""
        width, height, channels = self.size
        return height * channels if width % 8 and width * height > 1 and self.row_bytes else 0


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Operation of the convolution engine in a stage.

    Attributes:
      operation: CONV, POOL or FC.
      kernel: width and height of the window.
      stride: stride in both directions.
      mode: division of the 256 multipliers, `MODE_<input channels>_<output channels>`.
      descriptors: number of parts of the output channels, which are processed one after the other.
      outputs: number of output channels of a part.
      multiplications: clocks for one output pixel of a part: kernel area times blocks of input
        channels; 0 for pooling. The compiler's `cost` is descriptors times the sum of this and a
        setup for the mode (0, 5, 11, 19 or 31 clocks from MODE_1_256 to MODE_16_16).
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
      name: the compiler's name of the stage.
      type: MyriadXHwOp, Copy, Sum, Convert, ...
      layer: ONNX node that the stage belongs to; the last node has the name of the network's
        output. None for conversions of the network's input and output.
      order: position in the schedule; stages of equal order run side by side; -1 is not executed.
      index: position in the compiler's list; that of an injected stage follows its host's.
      injected: whether it runs side by side with a host stage.
      shaves: number of vector processors (SHAVEs); 0 for hardware stages and copies.
      hardware: operation of a hardware stage; None for other stages.
      inputs, outputs: activations, without those of a stage injected into it.
      weight_bytes: number of bytes of the constants that it reads.
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
        """Whether the device executes the stage."""
        return self.order != NOT_EXECUTED

    @property
    def vector_multiplications(self) -> int:
        """Multiplications of a convolution or matrix product on the SHAVEs; 0 for other stages."""
        if self.type == "GEMM":
            width, height, channels = self.inputs[0].size
            depth = width if width * height > 1 else channels  # which tensors of two axes have
            return self.outputs[0].bytes // _TYPE_BYTES["FP16"] * depth
        if self.type not in ("Conv", "DepthConv"):
            return 0
        width, height, _ = self.outputs[0].size
        return width * height * self.weight_bytes // _TYPE_BYTES["FP16"]


def parse(graph_text: str) -> list[Stage]:
    """Returns the stages of a compiled network, in the compiler's order.

    Raises:
      ValueError: the text is not a stage graph, or a label lacks a required field.
    """
    graph = read_graph(graph_text)
    labels = dict(graph.nodes(data="label", default=""))
    data = {node: _Node.read(label) for node, label in labels.items() if _is_data(label)}
    stages = []
    for node, label in labels.items():
        if node in data:
            continue
        # In an edge from stage to stage, the second stage is injected: it runs during the first,
        # and the graph lists its data as the first stage's, too. The graph does not show which data
        # both use; if the first stage would have none left, all of them are taken as its own.
        injected = [other for other in graph.successors(node) if other not in data]
        foreign = {other for stage in injected for other in nx.all_neighbors(graph, stage)}
        sides = []
        for neighbors in (list(graph.predecessors(node)), list(graph.successors(node))):
            used = [data[other] for other in neighbors if other in data]
            own = [data[other] for other in neighbors if other in data and other not in foreign]
            sides.append(own if any(one.datum for one in own) else used)
        hosts = [other for other in graph.predecessors(node) if other not in data]
        stages.append(_read_stage(label, *sides, injected=bool(hosts)))
    if not stages:
        raise ValueError("the graph has no stages; give the stage graph that the compiler wrote")
    return sorted(stages, key=lambda stage: stage.index)


@dataclasses.dataclass(frozen=True)
class _Node:
    """A data node: activations, a constant, a temporary, or (usage Fake) no datum."""

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
            raise ValueError(
                f"unknown data type {type_!r}, known are {sorted(_TYPE_BYTES)}; label: {label!r}"
            )
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
    """Returns the engine's operation from the label of a hardware stage."""
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
    """Returns the value of the first line `name = value` in a label."""
    match = re.search(rf"^ *{name} = ({pattern})", label, re.MULTILINE)
    if match is None:
        raise ValueError(f"the compiler's label has no {name!r}: {label[:300]!r}")
    return match[1]


def _is_data(label: str) -> bool:
    return label.startswith("Data ")
