"""Classifiers' files as people have them, ours and others'."""

import json
import pathlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from experiments.runs.accuracy import columns_of
from experiments.runs.classifier import Normalization, read_classifier
from jaxnas import data
from jaxnas.export import add_metadata
from jaxnas.openvino_package import openvino


def linear(
    folder: pathlib.Path,
    *,
    shape=(1, 3, 4, 4),
    type_=TensorProto.FLOAT,
    classes=3,
    output_rank=2,
    outputs=1,
    names=None,
) -> pathlib.Path:
    """A file of one mean over the picture and one linear layer of drawn weights."""
    rng = np.random.default_rng(0)
    channels_last = shape[-1] == 3
    channels = shape[-1 if channels_last else 1]
    source, nodes = "x", []
    if type_ != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT))
        source = "float"
    axes = [1, 2] if channels_last else [2, 3]
    nodes += [
        helper.make_node("ReduceMean", [source], ["mean"], axes=axes, keepdims=0),
        helper.make_node("Gemm", ["mean", "w"], ["scores"]),
    ]
    if output_rank == 4:
        nodes.append(helper.make_node("Unsqueeze", ["scores", "axes"], ["scores4"]))
    values = [
        helper.make_tensor_value_info(
            "scores4" if output_rank == 4 else "scores", TensorProto.FLOAT, None
        )
    ]
    if outputs == 2:
        values.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, None))
    kernel = rng.normal(size=(channels, classes)).astype(np.float32)
    weights = [
        numpy_helper.from_array(kernel, "w"),
        numpy_helper.from_array(np.array([2, 3]), "axes"),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", type_, shape)], values, weights
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    if names is not None:
        add_metadata(model, names, 0.5)
    file = folder / "model.onnx"
    onnx.save(model, file)
    return file


def test_reads_what_a_file_takes_and_gives(tmp_path):
    one = read_classifier(linear(tmp_path, names=["red fox", "dog", "cat"]))
    assert (one.image_size, one.channels_last, one.num_classes) == (4, False, 3)
    assert one.dtype == np.float32 and one.class_names == ("red fox", "dog", "cat")
    assert one.crop_fraction == 0.5
    last = read_classifier(linear(tmp_path, shape=(1, 6, 6, 3), type_=TensorProto.UINT8))
    assert (last.image_size, last.channels_last) == (6, True)
    assert last.dtype == np.uint8 and last.class_names is None and last.crop_fraction == 1


@pytest.mark.parametrize("shape", [(None, 3, 8, 8), ("n", 3, "h", "w"), (1, 3, None, None)])
def test_a_dynamic_size_is_asked_for_and_a_dynamic_batch_is_not(tmp_path, shape):
    file = linear(tmp_path, shape=shape)
    if isinstance(shape[2], int):
        assert read_classifier(file).image_size == 8
    else:
        with pytest.raises(ValueError, match="has a dynamic size; give --image_size"):
            read_classifier(file)
        assert read_classifier(file, 32).image_size == 32


def test_names_of_the_model_api_are_read(tmp_path):
    network = openvino.Core().read_model(linear(tmp_path))
    network.set_rt_info("red~fox dog cat", ["model_info", "labels"])
    openvino.save_model(network, tmp_path / "model.xml")
    assert read_classifier(tmp_path / "model.xml").class_names == ("red fox", "dog", "cat")


def test_pixels_become_the_input(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (4, 4, 3), np.uint8)
    mean, scale = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    file = linear(tmp_path)
    plain = read_classifier(file).input_of(pixels)
    assert plain.dtype == np.float32
    np.testing.assert_array_equal(plain, pixels.transpose(2, 0, 1))
    normalized = read_classifier(file, None, Normalization(mean, scale)).input_of(pixels)
    for channel in range(3):
        np.testing.assert_allclose(
            normalized[channel], (pixels[..., channel] - mean[channel]) / scale[channel], rtol=1e-5
        )
    reverse = read_classifier(file, None, Normalization(mean, scale, True)).input_of(pixels)
    np.testing.assert_allclose(reverse[0], (pixels[..., 2] - mean[0]) / scale[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"outputs": 2}, "has 1 inputs and 2 outputs; give a classifier"),
        (
            {"shape": (1, 1, 8, 8)},
            r"its input is \[1,1,8,8\]; give a network that takes one picture",
        ),
        (
            {"shape": (8, 3, 8, 8)},
            r"its input is \[8,3,8,8\]; give a network that takes one picture",
        ),
        ({"shape": (1, 3, 8, 6)}, "is 8 x 6 px; only squares are supported"),
        ({"classes": 1}, r"its output is \[1,1\]; a classifier's is"),
        ({"type_": TensorProto.INT64}, "has the type i64; supported are 8-bit pixels"),
        ({"names": ["a", "b"]}, "names 2 classes and has 3 scores"),
    ],
)
def test_refuses_what_is_no_classifier_of_one_picture(tmp_path, file, message):
    with pytest.raises(ValueError, match=message):
        read_classifier(linear(tmp_path, **file))


def test_an_output_of_single_pixels_is_a_classifier_s(tmp_path):
    assert read_classifier(linear(tmp_path, output_rank=4)).num_classes == 3


def test_refuses_files_that_are_none_and_sizes_that_do_not_fit(tmp_path):
    (tmp_path / "noise.onnx").write_bytes(b"\x08\xff" * 100)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="noise.onnx cannot be read as a network"):
        read_classifier(tmp_path / "noise.onnx")
    for name in ("notes.txt", "gone.onnx"):
        with pytest.raises(
            ValueError, match="is not a model file; give a file that ends in .onnx or"
        ):
            read_classifier(tmp_path / name)
    with pytest.raises(ValueError, match="--image_size=8: .* takes 4 px; leave it out"):
        read_classifier(linear(tmp_path), 8)
    uint8 = linear(tmp_path, type_=TensorProto.UINT8)
    with pytest.raises(ValueError, match="takes 8-bit pixels, which cannot be normalized"):
        read_classifier(uint8, None, Normalization(mean=(1.0, 2.0, 3.0)))


class Named:
    """A part of which only the names are asked for."""

    def __init__(self, *names: str):
        self.class_names = names
        self.spec = data.SPECS["digits"]


def test_classes_go_by_their_names(tmp_path):
    named = read_classifier(linear(tmp_path, names=["fox", "dog", "cat"]))
    assert columns_of(named, Named("cat", "dog", "fox")).tolist() == [2, 1, 0]
    with pytest.raises(ValueError, match="has the class 'fox', which digits does not have"):
        columns_of(named, Named("cat", "dog", "owl"))
    nameless = read_classifier(linear(tmp_path))
    assert columns_of(nameless, Named("cat", "dog", "fox")).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="has 3 classes, digits has 2; give the data set"):
        columns_of(nameless, Named("cat", "dog"))


def test_class_names_with_blanks_survive_in_the_metadata(tmp_path):
    names = ["red fox", "a  b", "ünï"]
    file = linear(tmp_path, names=names)
    properties = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert json.loads(properties["class_names"]) == names
    assert properties["model_info labels"] == "red~fox a~~b ünï"
    assert read_classifier(file).class_names == tuple(names)
