"""Networks as the MyriadX compiler is given them, and the check that it read just those.

OpenVINO 2021.4 reads opset 13. Of what came later it takes some for something else, without a word:
from opset 18 on the axes of a mean are an input, which it leaves out. So a newer network is written
in opset 13, and every layer that was read is compared with ONNX's own inference of its shape. (The
converter of onnx goes up; down it knows neither ReLU nor addition.)
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from profiling.errors import CompileError
from profiling.onnx_file import inputs_of, one_line, opset_of

OPSET = 13
_IR_VERSION = 8

# Operators that leave nothing to compute.
_NO_LAYERS = {"Identity", "Dropout", "Cast", "Shape", "Size"}
_CLOSE = 1e-3  # outputs of the same network, relative to the largest

Shapes = tuple[tuple[int | None, ...], ...]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A node that the compiler must have read.

    Attributes:
      names: of its outputs, of which OpenVINO 2021.4 calls it by one.
      shapes: of its outputs; None where ONNX's inference does not know a size.
    """

    names: tuple[str, ...]
    shapes: Shapes


@dataclasses.dataclass(frozen=True)
class Sent:
    """A network as the compiler is given it.

    Attributes:
      model: ONNX of opset 13 or lower.
      layers: in the network's order.
    """

    model: bytes
    layers: tuple[Layer, ...]


def prepared(model: bytes) -> Sent:
    """An ONNX network of fixed shapes, made ready for the compiler.

    Raises:
      CompileError: no ONNX network, or one of a newer opset that cannot be written in opset 13.
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
    except Exception as error:  # onnx's own, which has no class in common with protobuf's
        raise CompileError(
            f"the network's shapes do not fit together: {one_line(error)}"
        ) from error
    return Sent(network.SerializeToString(), tuple(_layers(network.graph)))


def check(sent: Sent, read: Mapping[str, Sequence[Sequence[int]]], graph_text: str) -> None:
    """Compares what the compiler read with what it was sent.

    Args:
      read: the shapes of each layer's outputs, by its name.
      graph_text: the stage graph that it made.

    Raises:
      CompileError: it read another network, or will run it once for each picture of a batch.
    """
    batch = re.search(r"batchSize = (\d+)", graph_text)
    if batch is not None and int(batch[1]) > 1:
        raise CompileError(
            f"the network takes {batch[1]} pictures at once, and the MyriadX runs "
            f"them one after the other; give it with a batch of 1"
        )
    for layer in sent.layers:
        found = next((read[name] for name in layer.names if name in read), None)
        if found is None:
            raise CompileError(
                f"the compiler lost the layer {layer.names[0]}; {_REMEDY}", layer.names[0]
            )
        shapes = tuple(map(tuple, found))
        if not _agree(layer.shapes, shapes):
            raise CompileError(
                f"the compiler misread the layer {layer.names[0]}, whose output is "
                f"{_form(layer.shapes)} and not {_form(shapes)}; {_REMEDY}",
                layer.names[0],
            )


_REMEDY = (
    "export the network by torch.onnx.export(..., dynamo=False, opset_version=13), or "
    "without this layer"
)


def _in_older_opset(network: onnx.ModelProto) -> onnx.ModelProto:
    """The network in opset 13, which computes the same."""
    refusal = (
        f"the network is of opset {opset_of(network)}, the compiler reads {OPSET}, and it "
        f"cannot be written in that"
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
        raise CompileError(f"{refusal} without a change of its outputs; {_REMEDY}")
    return older


def _write_older(network: onnx.ModelProto) -> None:
    """Writes a network's nodes as opset 13 has them.

    Raises:
      ValueError: a node that it does not have, or not so.
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
    name = f"{node.op_type} {node.name or node.output[0]}"
    if not onnx.defs.has(node.op_type, OPSET):
        raise ValueError(f"{name} is new in opset {newer.since_version}")
    older = onnx.defs.get_schema(node.op_type, OPSET)
    if "axes" in older.attributes and "axes" not in newer.attributes and len(node.input) > 1:
        if node.input[1] not in constants:
            raise ValueError(f"{name} has axes that are computed")
        axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
        node.attribute.append(helper.make_attribute("axes", axes))
        del node.input[1:]
    while len(node.input) > older.max_input and not node.input[-1]:
        del node.input[-1]
    if len(node.input) > older.max_input:
        raise ValueError(f"{name} has an input that is new in opset {newer.since_version}")
    for attribute in [one for one in node.attribute if one.name not in older.attributes]:
        default = newer.attributes[attribute.name].default_value
        # Without it, opset 13 splits into equal parts, too.
        if attribute.name != "num_outputs" and attribute.SerializeToString() != (
            default.SerializeToString()
        ):
            raise ValueError(f"{name}: its {attribute.name} is new in opset {newer.since_version}")
        node.attribute.remove(attribute)


def _outputs_differ(one: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    """Whether two networks give other outputs for the same random inputs."""
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
        options.log_severity_level = 4  # fatal; what fails is raised
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
    """The nodes that compute something from the inputs, and have shapes."""
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


def _agree(expected: Shapes, found: Shapes) -> bool:
    """Whether all sizes that are known are those that were found."""

    def same(wanted: Sequence[int | None], shape: Sequence[int]) -> bool:
        return len(wanted) == len(shape) and all(
            size in (None, other) for size, other in zip(wanted, shape, strict=True)
        )

    return len(expected) == len(found) and all(map(same, expected, found))


def _form(shapes: Shapes) -> str:
    return " and ".join(
        "x".join("?" if size is None else str(size) for size in shape) or "a number"
        for shape in shapes
    )
