"""Export of a network to ONNX and OpenVINO IR.

Exported files take pixels: uint8, red, green, blue, 0 to 255. The network's scale is folded into
the stem, and batch norm into every convolution. What remains is one cast, convolutions, clips,
additions, one pooling and one fully connected layer; for published weights that expect pixels
without their mean, also its subtraction. Every node is named after its block
(`block07/depthwise`), so per-layer times of any device can be attributed to blocks by name.
"""

import functools
import importlib
import json
import pathlib
import pkgutil
from collections.abc import Sequence

import jax2onnx
import numpy as np
import onnx
from jax2onnx.plugins import plugin_system
from onnx import helper, numpy_helper

from jaxnas.folding import FoldedNetwork
from jaxnas.network import Network, NetworkSpec
from jaxnas.openvino_package import openvino
from jaxnas.space import Activation

OPSET = 13  # The newest that the MyriadX compiler (OpenVINO 2021.4.2) reads without a warning.
IR_VERSION = 8
EXPORT = 2  # Increased whenever `to_onnx` changes the graph of a given specification and size.
INPUT, OUTPUT = "image", "logits"
CAST, MEAN = "input/cast", "input/mean"
_OPERATORS: dict[Activation, str] = {"relu6": "Clip", "relu": "Relu"}


def to_onnx(network: Network, image_size: int) -> onnx.ModelProto:
    """Returns the network as ONNX opset 13: one image, NCHW uint8 `image` to float32 `logits`.

    Raises:
      ValueError: `image_size` is not positive.
      RuntimeError: jax2onnx returned a graph that differs from the network's layers.
    """
    if image_size < 1:
        raise ValueError(f"image size {image_size} px: give a positive number")
    _import_plugins()
    model = jax2onnx.to_onnx(
        FoldedNetwork(network, image_size),
        [(1, image_size, image_size, 3)],
        model_name=network.spec.name,
        opset=OPSET,
        inputs_as_nchw=[0],
        input_names=[INPUT],
        output_names=[OUTPUT],
    )
    return _named(model, network.spec, image_size)


@functools.cache
def _import_plugins() -> None:
    """Imports the plug-ins of jax2onnx for JAX and Flax only.

    By default jax2onnx imports all plug-ins at the first export. Those for Equinox create and
    compile layers during the import, which takes ten seconds.
    """
    for name in ("jax", "flax"):
        package = importlib.import_module(f"jax2onnx.plugins.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    plugin_system._already_imported_plugins = True


def _layers(spec: NetworkSpec) -> list[tuple[str, str]]:
    """Returns (node name, ONNX operator) of every node after the cast, in order."""
    operator = _OPERATORS[spec.activation]

    def activated(name: str) -> list[tuple[str, str]]:
        return [(name, "Conv"), (f"{name}_clip", operator)]

    layers = [(MEAN, "Sub")] if spec.normalization.mean else []
    layers += [("stem/conv", "Conv"), ("stem/clip", operator)]
    if spec.stem_pool:
        layers.append(("stem/pool", "MaxPool"))
    for block in spec.blocks:
        for layer in block.layers:
            name = f"{block.name}/{layer.part}"
            layers += activated(name) if layer.activated else [(name, "Conv")]
        if block.shortcut_layer is not None:
            layers.append((f"{block.name}/{block.shortcut_layer.part}", "Conv"))
        if block.shortcut:
            layers.append((f"{block.name}/add", "Add"))
        if block.kind == "residual":
            layers.append((f"{block.name}/clip", operator))
    if spec.head is not None:
        layers += [("head/conv", "Conv"), ("head/clip", operator)]
    return [
        *layers,
        ("pool", "GlobalAveragePool"),
        ("classifier/flatten", "Flatten"),
        ("classifier/linear", "Gemm"),
    ]


def _named(raw: onnx.ModelProto, spec: NetworkSpec, image_size: int) -> onnx.ModelProto:
    """Returns jax2onnx's graph with our names, its mean as a pooling, and newly inferred shapes.

    jax2onnx leaves a transposition before the mean over height and width, writes that mean in a
    form newer than opset 13, and annotates NHWC shapes although the graph is NCHW.
    """
    weights = {t.name: t for t in raw.graph.initializer}
    values = {INPUT: CAST}  # jax2onnx's value name → ours
    steps = iter(_layers(spec))
    nodes = [helper.make_node("Cast", [INPUT], [CAST], name=CAST, to=onnx.TensorProto.FLOAT)]
    bounds = {"clip/min": 0, "clip/max": 6} if spec.activation == "relu6" else {}
    constants = dict(bounds)
    if spec.normalization.mean:
        constants[f"{MEAN}/value"] = spec.normalization.mean
    initializers = [
        numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in constants.items()
    ]
    for node in raw.graph.node:
        if node.op_type in ("Transpose", "Pad"):  # the padding is the maximum's, below
            values[node.output[0]] = values[node.input[0]]
            continue
        name, operator = next(steps)
        if node.op_type == "ReduceMean" and operator == "GlobalAveragePool":
            nodes.append(
                helper.make_node("GlobalAveragePool", [values[node.input[0]]], [name], name=name)
            )
            flatten, _ = next(steps)
            nodes.append(helper.make_node("Flatten", [name], [flatten], name=flatten, axis=1))
            values[node.output[0]] = flatten
            continue
        if node.op_type == operator == "MaxPool":
            pool = helper.make_node(
                "MaxPool",
                [values[node.input[0]]],
                [name],
                name=name,
                kernel_shape=[3, 3],
                strides=[2, 2],
                pads=[1, 1, 1, 1],
            )
            nodes.append(pool)
            values[node.output[0]] = name
            continue
        if node.op_type != operator:
            raise RuntimeError(
                f"jax2onnx gave {node.op_type} where {spec.name} has {name} "
                f"({operator}); this release of jax2onnx is not supported"
            )
        inputs = [values[i] for i in node.input if i not in weights]
        if operator == "Clip":
            inputs += bounds
        elif operator == "Sub":
            inputs.append(f"{MEAN}/value")
        for role, tensor in zip(
            ("kernel", "bias"),
            (i for i in node.input if i in weights and operator in ("Conv", "Gemm")),
            strict=False,
        ):
            renamed = onnx.TensorProto()
            renamed.CopyFrom(weights[tensor])
            renamed.name = f"{name}/{role}"
            initializers.append(renamed)
            inputs.append(renamed.name)
        output = OUTPUT if operator == "Gemm" else name
        copy = helper.make_node(operator, inputs, [output], name=name)
        copy.attribute.extend(node.attribute)
        nodes.append(copy)
        values[node.output[0]] = output
    graph = helper.make_graph(
        nodes,
        spec.name,
        [
            helper.make_tensor_value_info(
                INPUT, onnx.TensorProto.UINT8, (1, 3, image_size, image_size)
            )
        ],
        [helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, (1, spec.num_classes))],
        initializers,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="jaxnas",
    )
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def add_metadata(model: onnx.ModelProto, class_names: Sequence[str], crop_fraction: float) -> None:
    """Adds metadata about the classes and the input, with keys of OpenVINO's Model API among them.

    Args:
      class_names: names in the order of the logits. The Model API's list separates them by spaces
        and has `~` for a space in a name; `class_names`, JSON, has the names unchanged.
      crop_fraction: side of the centered square of a picture that the network is given, over the
        picture's shorter side. The Model API uses the whole shorter side.
    """
    model_info = {
        "model_type": "Classification",
        "labels": " ".join("~".join(name.split(" ")) for name in class_names),
        "resize_type": "crop",
        # Users of the Model API pass images as OpenCV reads them: blue, green, red.
        "reverse_input_channels": "YES",
    }
    helper.set_model_props(
        model,
        {
            "class_names": json.dumps(class_names, ensure_ascii=False),
            "crop_fraction": repr(crop_fraction),
            **{f"model_info {key}": value for key, value in model_info.items()},
        },
    )


def save(model: onnx.ModelProto, onnx_path: pathlib.Path, xml_path: pathlib.Path) -> None:
    """Writes the ONNX file and, with OpenVINO's own converter, IR (`.xml` with its `.bin`).

    The IR keeps float32 weights: a device that computes in FP16 rounds them itself.
    """
    onnx.save(model, onnx_path)
    network = openvino.Core().read_model(onnx_path)
    # OpenVINO stores the metadata under `framework`; the Model API reads it elsewhere.
    for entry in model.metadata_props:
        if entry.key.startswith("model_info "):
            network.set_rt_info(entry.value, entry.key.split(" "))
    openvino.save_model(network, xml_path, compress_to_fp16=False)
