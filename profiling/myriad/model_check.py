"""Preparation of networks for the MyriadX compiler, and the check that it read them correctly.

OpenVINO 2021.4 reads opset 13. It silently misreads some newer operators: since opset 18 the axes
of ReduceMean are an input, which it ignores. Networks of a newer opset are therefore converted to
opset 13, and the shape of every layer read is compared with ONNX's shape inference. The version
converter of onnx cannot convert downward: it supports neither Relu nor Add in that direction.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from jaxnas.onnxruntime_package import onnxruntime
from profiling.errors import CompileError
from profiling.onnx_file import inputs_of, one_line, opset_of

OPSET = 13
_IR_VERSION = 8

# Operators that leave nothing to compute.
_NO_LAYERS = {"Identity", "Dropout", "Cast"}
_CLOSE = 1e-3  # tolerance for outputs of equal networks, relative to the largest output

Shapes = tuple[tuple[int | None, ...], ...]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A node that the compiler must read.

    Attributes:
      names: names of its outputs; OpenVINO 2021.4 names the layer after one of them.
      shapes: shapes of its outputs; None is a size that ONNX's inference does not know.
    """

    names: tuple[str, ...]
    shapes: Shapes


@dataclasses.dataclass(frozen=True)
class Sent:
    """A network as it is sent to the compiler.

    Attributes:
      model: bytes of the ONNX model, opset 13 or lower.
      layers: layers that the compiler must read, in the network's order.
    """

    model: bytes
    layers: tuple[Layer, ...]


def prepared(model: bytes) -> Sent:
    """Returns an ONNX network of fixed shapes, prepared for the compiler.

    Raises:
      CompileError: the model is not an ONNX network, its shapes are inconsistent, or its opset is
        newer and it cannot be converted to opset 13.
    """
    try:
        network = onnx.load_model_from_string(model)
    except Exception as error:  # protobuf's own
        raise CompileError("the model is not an ONNX file") from error
    if not network.graph.node:
        raise CompileError("the model is not an ONNX file of a network: it has no layers")
    if opset_of(network) > OPSET:
        network = _in_older_opset(network)
    network.ir_version = min(network.ir_version, _IR_VERSION)
    try:
        network = onnx.shape_inference.infer_shapes(network, strict_mode=True, data_prop=True)
    except Exception as error:  # onnx's own, which shares no base class with protobuf's
        raise CompileError(f"the network's shapes are inconsistent: {one_line(error)}") from error
    return Sent(network.SerializeToString(), tuple(_layers(network.graph)))


def check(sent: Sent, read: Mapping[str, Sequence[Sequence[int]]], graph_text: str) -> None:
    """Compares the network that the compiler read with the one that it was sent.

    Args:
      sent: the network as it was sent.
      read: shapes of each layer's outputs as the compiler read them, by layer name.
      graph_text: the compiler's stage graph.

    Raises:
      CompileError: the compiler read another network, or would run it once per image of a batch.
    """
    batch = re.search(r"batchSize = (\d+)", graph_text)
    if batch is not None and int(batch[1]) > 1:
        raise CompileError(
            f"the network takes {batch[1]} images at once, and the MyriadX would run them one "
            f"after the other; export it with a batch of 1"
        )
    for layer in sent.layers:
        found = next((read[name] for name in layer.names if name in read), None)
        if found is None:
            raise CompileError(
                f"the compiler lost the layer {layer.names[0]}; {_REMEDY}", layer.names[0]
            )
        if not _agree(layer.shapes, found):
            raise CompileError(
                f"the compiler misread the layer {layer.names[0]}, whose output is "
                f"{_form(layer.shapes)} and not {_form(found)}; {_REMEDY}",
                layer.names[0],
            )


def depthwise_layers(model: bytes) -> frozenset[str]:
    """Returns the names of an ONNX network's grouped convolutions, and of their outputs."""
    return frozenset(
        name
        for node in onnx.load_model_from_string(model).graph.node
        if node.op_type == "Conv" and any(a.name == "group" and a.i > 1 for a in node.attribute)
        for name in (node.name, *node.output)
    )


_REMEDY = (
    "export the network with torch.onnx.export(..., dynamo=False, opset_version=13), or "
    "without this layer"
)


def _in_older_opset(network: onnx.ModelProto) -> onnx.ModelProto:
    """Returns an equivalent network in opset 13."""
    refusal = (
        f"the network has opset {opset_of(network)}, the compiler reads opset {OPSET}, and the "
        f"network cannot be converted"
    )
    older = onnx.ModelProto()
    older.CopyFrom(network)
    try:
        _write_older(older)
        onnx.checker.check_model(older)
        differ = _outputs_differ(network, older)
    except Exception as error:  # onnx and ONNX Runtime share no base class below Exception
        raise CompileError(f"{refusal} ({one_line(error)}); {_REMEDY}") from error
    if differ:
        raise CompileError(f"{refusal} without changing its outputs; {_REMEDY}")
    return older


def _write_older(network: onnx.ModelProto) -> None:
    """Converts the nodes of a network to opset 13, in place.

    Raises:
      ValueError: opset 13 has no such operator, or not in this form.
    """
    opset = opset_of(network)
    constants = {tensor.name: tensor for tensor in network.graph.initializer}
    for node in network.graph.node:
        if node.op_type == "Constant":
            constants.update(
                (node.output[0], one.t) for one in node.attribute if one.name == "value"
            )
    for node in network.graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        newer = onnx.defs.get_schema(node.op_type, opset)
        if newer.since_version > OPSET:
            _write_node_older(node, newer, constants)
    for entry in network.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = OPSET
    network.ir_version = min(network.ir_version, _IR_VERSION)


def _write_node_older(
    node: onnx.NodeProto, newer: onnx.defs.OpSchema, constants: Mapping[str, onnx.TensorProto]
) -> None:
    """Converts one node to opset 13, in place; `newer` is its schema in the network's opset."""
    name = f"{node.op_type} {node.name or node.output[0]}"
    if not onnx.defs.has(node.op_type, OPSET):
        raise ValueError(f"{name} is new in opset {newer.since_version}")
    older = onnx.defs.get_schema(node.op_type, OPSET)
    if "axes" in older.attributes and "axes" not in newer.attributes and len(node.input) > 1:
        if node.input[1] not in constants:
            raise ValueError(f"{name} has axes that are not constant")
        axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
        node.attribute.append(helper.make_attribute("axes", axes))
        del node.input[1:]
    while len(node.input) > older.max_input and not node.input[-1]:
        del node.input[-1]
    if len(node.input) > older.max_input:
        raise ValueError(f"{name} has an input that is new in opset {newer.since_version}")
    for attribute in [one for one in node.attribute if one.name not in older.attributes]:
        default = newer.attributes[attribute.name].default_value
        # Opset 13 splits into equal parts without num_outputs, too.
        if attribute.name != "num_outputs" and attribute.SerializeToString() != (
            default.SerializeToString()
        ):
            raise ValueError(f"{name}: its {attribute.name} is new in opset {newer.since_version}")
        node.attribute.remove(attribute)


def _outputs_differ(one: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    """Returns whether the outputs of two networks differ for the same random inputs."""
    rng = np.random.default_rng(0)
    given = {
        value.name: rng.random([dim.dim_value for dim in value.type.tensor_type.shape.dim]).astype(
            helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        )
        for value in inputs_of(one)
    }
    outputs = []
    for network in (one, other):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # fatal only; errors are raised
        session = onnxruntime.InferenceSession(
            network.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        outputs.append(session.run(None, given))
    return any(
        left.shape != right.shape
        or not np.allclose(
            left, right, rtol=0, atol=_CLOSE * max(1e-6, float(np.abs(left).max(initial=0)))
        )
        for left, right in zip(*outputs, strict=True)
    )


def _layers(graph: onnx.GraphProto) -> list[Layer]:
    """Returns the nodes that compute something from the inputs and whose shapes are inferred."""
    shapes = {
        value.name: tuple(dim.dim_value or None for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    computed = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    layers = []
    for node in graph.node:
        if node.op_type in ("Shape", "Size") or not computed & set(node.input):
            continue
        computed |= set(node.output)
        made = [name for name in node.output if name]
        if node.op_type not in _NO_LAYERS and all(name in shapes for name in made):
            layers.append(Layer(tuple(made), tuple(shapes[name] for name in made)))
    return layers


def _agree(expected: Shapes, found: Sequence[Sequence[int]]) -> bool:
    """Returns whether the shapes found have all the expected sizes that are known."""

    def same(wanted: Sequence[int | None], shape: Sequence[int]) -> bool:
        return len(wanted) == len(shape) and all(
            size in (None, other) for size, other in zip(wanted, shape, strict=True)
        )

    return len(expected) == len(found) and all(map(same, expected, found))


def _form(shapes: Sequence[Sequence[int | None]]) -> str:
    """Returns shapes as text for an error message."""
    return " and ".join(
        "x".join("?" if size is None else str(size) for size in shape) or "a scalar"
        for shape in shapes
    )
