"""Small ONNX networks as exporters write them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def network(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list],
    outputs: dict[str, list],
    weights: dict[str, np.ndarray],
    opset: int = 13,
    name: str = "net",
    ir_version: int = 8,
) -> onnx.ModelProto:
    """A model of float inputs and outputs, by name with their shapes."""
    graph = helper.make_graph(
        nodes,
        name,
        [
            helper.make_tensor_value_info(key, TensorProto.FLOAT, dims)
            for key, dims in inputs.items()
        ],
        [
            helper.make_tensor_value_info(key, TensorProto.FLOAT, dims)
            for key, dims in outputs.items()
        ],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )


def classifier(
    batch: object = 1,
    size: object = 32,
    opset: int = 13,
    name: str = "net",
    attention: bool = False,
    ir_version: int = 8,
) -> onnx.ModelProto:
    """Convolution, ReLU, if asked for channel attention by a mean, pool, classes; weights drawn.

    From opset 18 on the axes of a mean are an input, as torch.onnx writes it.
    """
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.normal(size=(16, 3, 3, 3)).astype(np.float32),
        "matrix": rng.normal(size=(16, 5)).astype(np.float32),
        "squeeze": rng.normal(size=(16, 16, 1, 1)).astype(np.float32),
    }

    def mean(source: str, target: str, keepdims: int) -> onnx.NodeProto:
        if opset < 18:
            return helper.make_node(
                "ReduceMean", [source], [target], name=target, axes=[2, 3], keepdims=keepdims
            )
        weights["axes"] = np.int64([2, 3])
        return helper.make_node(
            "ReduceMean", [source, "axes"], [target], name=target, keepdims=keepdims
        )

    nodes = [
        helper.make_node(
            "Conv",
            ["image", "kernel"],
            ["conv"],
            name="conv",
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
            strides=[2, 2],
        ),
        helper.make_node("Relu", ["conv"], ["relu"], name="relu"),
    ]
    last = "relu"
    if attention:
        nodes += [
            mean("relu", "mean", 1),
            helper.make_node("Conv", ["mean", "squeeze"], ["fc"], name="fc", kernel_shape=[1, 1]),
            helper.make_node("Sigmoid", ["fc"], ["gate"], name="gate"),
            helper.make_node("Mul", ["relu", "gate"], ["gated"], name="gated"),
        ]
        last = "gated"
    else:
        del weights["squeeze"]
    nodes += [
        mean(last, "pool", 0),
        helper.make_node("MatMul", ["pool", "matrix"], ["scores"], name="linear"),
    ]
    return network(
        nodes,
        {"image": [batch, 3, size, size]},
        {"scores": [batch, 5]},
        weights,
        opset,
        name,
        ir_version,
    )
