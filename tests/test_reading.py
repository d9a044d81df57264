"""What the real MyriadX compiler reads is what it was sent, or an error."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import helper

from profiling.device import Options
from profiling.errors import CompileError
from profiling.myriad import model_check
from profiling.myriad.compiler import MyriadXCompiler
from tests.onnx_networks import classifier, network


@pytest.fixture(scope="module")
def compiler(myriad):
    with MyriadXCompiler("MYRIADX_COMPILER", Options()) as device:
        yield device


@pytest.mark.parametrize("opset", [18, 20, 21])
@pytest.mark.parametrize("attention", [False, True])
def test_a_newer_opset_takes_as_long_as_the_same_network_in_opset_13(compiler, opset, attention):
    older = compiler.measure(classifier(attention=attention).SerializeToString())
    newer = compiler.measure(classifier(attention=attention, opset=opset).SerializeToString())
    assert newer.latency_ms == older.latency_ms and newer.blob is not None
    assert {layer.name for layer in newer.layers} == {layer.name for layer in older.layers}


def test_what_cannot_be_written_in_opset_13_is_refused(compiler):
    model = network(
        [helper.make_node("Gelu", ["x"], ["y"], name="gelu")],
        {"x": [1, 8]},
        {"y": [1, 8]},
        {},
        opset=20,
    )
    with pytest.raises(
        CompileError,
        match=r"has opset 20, the compiler reads opset 13, and the network "
        r"cannot be converted .*opset_version=13",
    ):
        compiler.measure(model.SerializeToString())


def test_a_layer_that_it_does_not_have_is_named_in_one_line(compiler):
    model = network(
        [helper.make_node("HardSigmoid", ["x"], ["y"])],
        {"x": [1, 3, 8, 8]},
        {"y": [1, 3, 8, 8]},
        {},
    )
    with pytest.raises(CompileError) as refusal:
        compiler.measure(model.SerializeToString())
    assert str(refusal.value) == (
        'Failed to compile layer "y": unsupported layer type "HardSigmoid"'
    )


@pytest.mark.parametrize("batch", [2, 8])
def test_a_batch_of_pictures_has_no_latency_of_one(compiler, batch):
    with pytest.raises(CompileError, match=f"takes {batch} images at once.* a batch of 1"):
        compiler.measure(classifier(batch=batch).SerializeToString())


def test_rows_that_are_no_batch_for_the_compiler_are_compiled_whole(compiler):
    def rows(count):
        weights = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
        return network(
            [helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")],
            {"x": [count, 64]},
            {"y": [count, 256]},
            {"w": weights},
        )

    one, many = (compiler.measure(rows(count).SerializeToString()) for count in (1, 64))
    assert many.latency_ms > one.latency_ms


def test_a_layer_that_was_read_otherwise_or_not_at_all_is_an_error():
    sent = model_check.prepared(classifier(attention=True).SerializeToString())
    read = {layer.names[0]: [list(shape) for shape in layer.shapes] for layer in sent.layers}
    model_check.check(sent, read, "")
    assert read["mean"] == [[1, 16, 1, 1]]
    # As OpenVINO 2021.4 reads a mean of opset 18: over all axes.
    with pytest.raises(
        CompileError, match="misread the layer mean, whose output is 1x16x1x1 and not 1x1x1x1"
    ):
        model_check.check(sent, read | {"mean": [[1, 1, 1, 1]]}, "")
    unknown = dataclasses.replace(sent, layers=(model_check.Layer(("mean",), ((1, None, 1, 1),)),))
    model_check.check(unknown, read, "")
    with pytest.raises(CompileError, match=r"is 1x\?x1x1 and not 1x16x2x2"):
        model_check.check(unknown, read | {"mean": [[1, 16, 2, 2]]}, "")
    del read["gate"]
    with pytest.raises(CompileError, match="lost the layer gate"):
        model_check.check(sent, read, "")


def test_the_compiler_itself_misreads_what_is_not_converted(compiler, monkeypatch):
    """The reason for all this; and the check finds it without the conversion."""
    monkeypatch.setattr(model_check, "OPSET", 99)
    with pytest.raises(CompileError, match="misread the layer|misread|cannot read"):
        compiler.measure(classifier(attention=True, opset=18).SerializeToString())


@pytest.mark.parametrize(
    ("options", "size", "millions"),
    [
        ({"dilations": [2, 2], "pads": [2, 2, 2, 2]}, 3, 29),
        ({"pads": [8, 8, 8, 8]}, 17, 928),
        ({"strides": [1, 2], "pads": [1, 1, 1, 1]}, 3, 14),
    ],
)
def test_a_layer_whose_time_is_unknown_has_no_estimate(compiler, options, size, millions):
    """The SHAVEs compute it, and no counter of such a layer was public."""
    kernel = np.zeros((64, 64, size, size), np.float32)
    layer = helper.make_node("Conv", ["x", "w"], ["y"], name="wide", kernel_shape=[size, size])
    layer.attribute.extend(helper.make_attribute(name, value) for name, value in options.items())
    width = 14 if "strides" in options else 28
    model = network([layer], {"x": [1, 64, 28, 28]}, {"y": [1, 64, 28, width]}, {"w": kernel})
    with pytest.raises(CompileError) as refusal:
        compiler.measure(model.SerializeToString())
    assert f"y is computed by the SHAVEs as Conv, with {millions} million" in str(refusal.value)


@pytest.mark.parametrize("shape", [[1, 64, 64], [64, 64], [1, 512, 512], [512, 512]])
def test_a_product_of_activations_has_an_estimate_if_it_is_small(compiler, shape):
    axes = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=axes),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    model = network(nodes, {"x": shape}, {"y": shape}, {})
    if shape[-1] == 64:
        assert compiler.measure(model.SerializeToString()).latency_ms > 0
        return
    with pytest.raises(CompileError, match="as GEMM, with 134 million multiplications"):
        compiler.measure(model.SerializeToString())


def test_a_large_softmax_takes_as_long_as_another_layer_of_its_size(compiler):
    def layer_ms(kind: str, shape: list[int]) -> float:
        node = helper.make_node(kind, ["x"], ["y"], **({"axis": 1} if kind == "Softmax" else {}))
        measured = compiler.measure(
            network([node], {"x": shape}, {"y": shape}, {}).SerializeToString()
        )
        return {layer.name: layer.ms for layer in measured.layers}["y"]

    large = [1, 21, 256, 256]
    assert layer_ms("Softmax", large) > 0.4 * layer_ms("Sigmoid", large) > 0.5
    assert layer_ms("Softmax", [1, 1000]) == pytest.approx(0.034, abs=0.002)  # the calibration's


@pytest.mark.parametrize("name", ["", "same"])
def test_layers_go_by_their_outputs_whatever_the_nodes_names(compiler, name):
    model = classifier()
    for node in model.graph.node:
        node.name = name
    names = {layer.name for layer in compiler.measure(model.SerializeToString()).layers}
    assert names & {"conv", "relu"} and "scores" in names


def test_many_kinds_of_layers_are_read_as_sent(compiler):
    """No false alarm: shapes by ONNX's inference and by OpenVINO 2021.4's reader agree."""
    rng = np.random.default_rng(1)
    weights = {
        "k": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "t": rng.normal(size=(8, 4, 2, 2)).astype(np.float32),
        "scale": np.ones(8, np.float32),
        "shift": np.zeros(8, np.float32),
        "slope": np.full((8, 1, 1), 0.2, np.float32),
        "halves": np.int64([4, 4]),
        "shape": np.int64([1, -1]),
        "pads": np.int64([0, 0, 1, 1, 0, 0, 1, 1]),
        "m": rng.normal(size=(10, 4 * 18 * 18)).astype(np.float32),
        "zero": np.float32(0),
        "six": np.float32(6),
        "scales": np.float32([1, 1, 2, 2]),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "scale", "shift", "shift", "scale"], ["bn"]),
        node("PRelu", ["bn", "slope"], ["pr"]),
        node("Clip", ["pr", "zero", "six"], ["cl"]),
        node("MaxPool", ["cl"], ["mp"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("Sigmoid", ["mp"], ["hs"]),
        node("Mul", ["mp", "hs"], ["hsw"]),
        node("Split", ["hsw", "halves"], ["s1", "s2"], axis=1),
        node("Concat", ["s2", "s1"], ["cc"], axis=1),
        node("ConvTranspose", ["cc", "t"], ["up"], strides=[2, 2]),
        node("Pad", ["up", "pads"], ["pd"]),
        node("AveragePool", ["pd"], ["ap"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node(
            "Resize",
            ["ap", "", "scales"],
            ["rs"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        node("MaxPool", ["rs"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Identity", ["half"], ["id"]),
        node("Dropout", ["id"], ["dr"]),
        node("Reshape", ["dr", "shape"], ["flat"]),
        node("Gemm", ["flat", "m"], ["g"], transB=1),
        node("Softmax", ["g"], ["y"], axis=1),
    ]
    model = network(nodes, {"x": [1, 3, 16, 16]}, {"y": [1, 10]}, weights)
    onnx.checker.check_model(model, full_check=True)
    assert compiler.measure(model.SerializeToString()).latency_ms > 0


def test_prepared_networks_compute_the_same():
    sent = model_check.prepared(classifier(attention=True, opset=18).SerializeToString())
    assert not model_check._outputs_differ(
        onnx.load_model_from_string(sent.model), classifier(attention=True)
    )
