"""Builder of ONNX models of published networks, with random weights."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 13
IR_VERSION = 8  # the newest that OpenVINO 2021.4.2 reads

Size = tuple[int, int, int]  # channels, height, width
Padding = Literal["same"] | int  # TensorFlow's `same`, or pixels on every side


class Builder:
    """Builder of one network; the name of a layer is also the name of its output tensor.

    Methods that add layers return the name of the last one's output. A ReLU of `conv` is named
    `<name>/relu`.

    Attributes:
      sizes: size of each tensor, by name.
      macs: number of multiply-accumulate operations so far.
    """

    def __init__(self, image_size: int):
        self.sizes: dict[str, Size] = {"data": (3, image_size, image_size)}
        self.macs = 0
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(0)

    def conv(
        self,
        name: str,
        source: str,
        channels: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: Padding = "same",
        *,
        relu: bool = True,
        depthwise: bool = False,
    ) -> str:
        """Adds a convolution; a kernel that is not square is (height, width)."""
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        inputs, (out_h, out_w), pads = self._window(source, kernel, stride, padding)
        group = channels if depthwise else 1
        self._parameter(f"{name}/weights", (channels, inputs // group, *kernel))
        self._parameter(f"{name}/biases", (channels,))
        self._node(
            "Conv",
            [source, f"{name}/weights", f"{name}/biases"],
            name,
            name,
            group=group,
            kernel_shape=kernel,
            strides=(stride, stride),
            pads=pads,
        )
        output = f"{name}/relu" if relu else name
        if relu:
            self._node("Relu", [name], output, output)
        self.sizes[output] = (channels, out_h, out_w)
        self.macs += channels * inputs // group * kernel[0] * kernel[1] * out_h * out_w
        return output

    def pool(
        self,
        name: str,
        source: str,
        kind: str,
        kernel: int,
        stride: int,
        padding: Padding = "same",
    ) -> str:
        """Adds max or average pooling; the average counts padding, as in Caffe."""
        channels, (out_h, out_w), pads = self._window(source, (kernel, kernel), stride, padding)
        extra = {"count_include_pad": 1} if kind == "average" else {}
        self._node(
            {"max": "MaxPool", "average": "AveragePool"}[kind],
            [source],
            name,
            name,
            kernel_shape=(kernel, kernel),
            strides=(stride, stride),
            pads=pads,
            **extra,
        )
        self.sizes[name] = (channels, out_h, out_w)
        return name

    def concat(self, name: str, *sources: str) -> str:
        """Adds a concatenation of tensors of one size by their channels."""
        self._node("Concat", sources, name, name, axis=1)
        channels = sum(self.sizes[source][0] for source in sources)
        self.sizes[name] = (channels, *self.sizes[sources[0]][1:])
        return name

    def add_relu(self, name: str, relu_name: str, first: str, second: str) -> str:
        """Adds the sum of two tensors and its ReLU."""
        self._node("Add", [first, second], name, name)
        self._node("Relu", [name], relu_name, relu_name)
        self.sizes[relu_name] = self.sizes[first]
        return relu_name

    def classifier(self, name: str, source: str, classes: int) -> str:
        """Adds a fully connected layer on a tensor of one pixel."""
        self._node("Flatten", [source], f"{name}/flat", f"{name}/flat", axis=1)
        self._parameter(f"{name}/weights", (classes, self.sizes[source][0]))
        self._parameter(f"{name}/biases", (classes,))
        self._node(
            "Gemm", [f"{name}/flat", f"{name}/weights", f"{name}/biases"], name, name, transB=1
        )
        self.sizes[name] = (classes, 1, 1)
        self.macs += classes * self.sizes[source][0]
        return name

    def softmax(self, name: str, source: str) -> str:
        """Adds the softmax of a tensor of one pixel over its channels."""
        self._node("Softmax", [source], name, name, axis=1)
        self.sizes[name] = self.sizes[source]
        return name

    def model(self, output: str) -> onnx.ModelProto:
        """Returns the network that ends in `output`, with one float32 image as input."""
        channels, height, width = self.sizes["data"]
        flat = self._nodes[-1].op_type in ("Softmax", "Gemm")
        shape = [1, *self.sizes[output][: 1 if flat else 3]]
        graph = helper.make_graph(
            self._nodes,
            "public",
            [
                helper.make_tensor_value_info(
                    "data", TensorProto.FLOAT, [1, channels, height, width]
                )
            ],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self._weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = IR_VERSION
        return model

    def _window(
        self, source: str, kernel: tuple[int, int], stride: int, padding: Padding
    ) -> tuple[int, list[int], list[int]]:
        """Returns input channels, output height and width, and ONNX's pads of a sliding window."""
        channels, *size = self.sizes[source]
        outs, before, after = [], [], []
        for extent, window in zip(size, kernel, strict=True):
            if isinstance(padding, int):
                first = last = padding
                out = (extent + 2 * padding - window) // stride + 1
            else:
                out = -(-extent // stride)
                total = max((out - 1) * stride + window - extent, 0)
                first, last = total // 2, total - total // 2
            outs.append(out)
            before.append(first)
            after.append(last)
        return channels, outs, before + after

    def _parameter(self, name: str, shape: tuple[int, ...]) -> None:
        values = self._rng.standard_normal(shape, np.float32) * 0.05
        self._weights.append(numpy_helper.from_array(values, name))

    def _node(
        self, kind: str, inputs: Sequence[str], output: str, name: str, **attributes: Any
    ) -> None:
        self._nodes.append(helper.make_node(kind, list(inputs), [output], name=name, **attributes))
