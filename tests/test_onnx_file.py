"""ONNX files as they come: read whole, or refused in one line."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from profiling.onnx_file import read_network
from tests.onnx_networks import classifier, network


@pytest.fixture
def saved(tmp_path):
    def save(model: onnx.ModelProto, name: str = "net.onnx", **options):
        onnx.save(model, tmp_path / name, **options)
        return tmp_path / name

    return save


def read(file, shape=None) -> onnx.ModelProto:
    return onnx.load_model_from_string(read_network(file, shape))


def dims_of(model: onnx.ModelProto) -> list[int]:
    return [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]


def test_weights_in_another_file_are_read_from_beside_it(saved, monkeypatch, tmp_path):
    whole = classifier()
    file = saved(
        classifier(), save_as_external_data=True, location="net.onnx.data", size_threshold=0
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "net.onnx.data").write_bytes(bytes(4096))  # of another network
    monkeypatch.chdir(elsewhere)
    found = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in read(file).graph.initializer
    }
    for tensor in whole.graph.initializer:
        np.testing.assert_array_equal(found[tensor.name], onnx.numpy_helper.to_array(tensor))
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(ValueError, match=r"its weights in net\.onnx\.data, which is not in the"):
        read(file)


def test_a_cut_file_of_weights_is_refused(saved, tmp_path):
    file = saved(classifier(), save_as_external_data=True, location="w", size_threshold=0)
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"net\.onnx"):
        read(file)


def test_weights_outside_of_the_folder_are_not_read(saved, tmp_path):
    model = classifier()
    tensor = model.graph.initializer[0]
    count = len(onnx.numpy_helper.to_array(tensor).tobytes())
    (tmp_path / "secret").write_bytes(bytes(count))
    (tmp_path / "inner").mkdir()
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret"
    file = saved(model, "inner/net.onnx")
    with pytest.raises(ValueError, match="cannot be read"):
        read(file)


def test_more_than_two_gigabytes_are_refused_before_they_are_read(saved, tmp_path):
    file = saved(classifier(), save_as_external_data=True, location="w", size_threshold=0)
    with (tmp_path / "w").open("r+b") as weights:
        weights.truncate(3_000_000_000)  # sparse
    with pytest.raises(ValueError, match=r"has 3\.0 GB of weights; .* at most 2 GB"):
        read(file)


@pytest.mark.parametrize("batch", ["N", None])
def test_an_open_batch_is_one(saved, batch):
    assert dims_of(read(saved(classifier(batch=batch)))) == [1, 3, 32, 32]


def test_other_open_sizes_are_the_users_to_say(saved):
    file = saved(classifier(batch="N", size="side"))
    with pytest.raises(
        ValueError,
        match=r"input image is \[1, 3, side, side\], not a fixed shape; "
        r"give its shape with --shape, such as --shape=1,3,224,224",
    ):
        read(file)
    model = read(file, [1, 3, 64, 64])
    assert dims_of(model) == [1, 3, 64, 64]
    sizes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.value_info
    }
    assert sizes["conv"] == [1, 16, 32, 32]
    with pytest.raises(ValueError, match=r"--shape=1,64: input image of .* give 4 numbers"):
        read(file, [1, 64])


def test_a_fixed_size_can_be_another(saved):
    assert dims_of(read(saved(classifier(batch=8)), [1, 3, 48, 48])) == [1, 3, 48, 48]


def test_shapes_that_do_not_fit_are_refused(saved):
    model = network(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": [1, 16]},
        {"y": [1, 4]},
        {"w": np.zeros((16, 4), np.float32)},
    )
    with pytest.raises(ValueError, match="net.onnx is not a valid network: .*MatMul"):
        read(saved(model), [1, 8])


def test_several_inputs_have_no_one_shape(saved):
    model = network(
        [helper.make_node("Add", ["a", "b"], ["c"])],
        {"a": [1, "n"], "b": [1, "n"]},
        {"c": [1, "n"]},
        {},
    )
    file = saved(model)
    with pytest.raises(ValueError, match=r"has 2 inputs \(a, b\); it is for a network with one"):
        read(file, [1, 4])
    with pytest.raises(
        ValueError,
        match="input a is .1, n., not a fixed shape; fix its shape with "
        "`python -m onnxruntime.tools.make_dynamic_shape_fixed`",
    ):
        read(file)


def test_an_unnamed_graph_has_its_files_name(saved):
    model = classifier()
    model.graph.ClearField("name")
    assert read(saved(model, "my_net.onnx")).graph.name == "my_net"


def test_a_newer_ir_version_is_no_obstacle_and_a_newer_opset_is(saved):
    model = classifier(ir_version=onnx.IR_VERSION + 3)
    assert read(saved(model)).ir_version == onnx.IR_VERSION
    newest = onnx.defs.onnx_opset_version()
    model.opset_import[0].version = newest + 4
    with pytest.raises(ValueError, match=f"has opset {newest + 4}, the newest supported is"):
        read(saved(model))


@pytest.mark.parametrize("content", [b"", b"no network", b"PK\x03\x04" + bytes(60)])
def test_other_files_are_none(tmp_path, content):
    file = tmp_path / "net.onnx"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="net.onnx is not an ONNX file"):
        read(file)
    with pytest.raises(ValueError, match="is not a file; give an ONNX file"):
        read(tmp_path)


def loop(turns: str, ends_by: str) -> onnx.ModelProto:
    """Returns a loop that doubles x `turns` times, until the body's own condition ends it."""
    condition = {
        "never": helper.make_node("Identity", ["go"], ["goes_on"]),
        "value": helper.make_node("Less", ["y_in", "limit"], ["less"]),
    }[ends_by]
    body_nodes = [helper.make_node("Add", ["y_in", "y_in"], ["y_out"]), condition]
    if ends_by == "value":
        body_nodes.append(helper.make_node("ReduceMin", ["cast"], ["least"], keepdims=0))
        body_nodes.insert(2, helper.make_node("Cast", ["less"], ["cast"], to=TensorProto.INT32))
        body_nodes.append(helper.make_node("Cast", ["least"], ["goes_on"], to=TensorProto.BOOL))
    body = helper.make_graph(
        body_nodes,
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y_in", TensorProto.FLOAT, [4]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y_out", TensorProto.FLOAT, [4]),
        ],
    )
    model = network(
        [helper.make_node("Loop", [turns, "yes", "x"], ["y"], name="turning", body=body)],
        {"x": [4]},
        {"y": [4]},
        {"three": np.int64(3), "yes": np.bool_(True), "limit": np.float32([9])},
    )
    if turns == "count":
        model.graph.input.append(helper.make_tensor_value_info("count", TensorProto.INT64, []))
    return model


@pytest.mark.parametrize(("turns", "ends_by"), [("count", "never"), ("three", "value")])
def test_a_loop_that_values_end_has_no_latency(saved, turns, ends_by):
    with pytest.raises(ValueError, match="values determine what Loop turning runs, and so its lat"):
        read(saved(loop(turns, ends_by)))


def test_a_loop_of_fixed_turns_is_read(saved):
    assert read(saved(loop("three", "never"))).graph.node[0].op_type == "Loop"


def test_mutated_files_are_read_or_refused(tmp_path):
    content = classifier(attention=True).SerializeToString()
    rng, file = np.random.default_rng(5), tmp_path / "net.onnx"
    done = {True: 0, False: 0}
    for trial in range(700):
        bytes_ = bytearray(content)
        match trial % 3:
            case 0:
                for place in rng.integers(0, len(bytes_), rng.integers(1, 5)):
                    bytes_[place] = rng.integers(256)
            case 1:
                del bytes_[rng.integers(len(bytes_)) :]
            case 2:  # lengths swapped: protobuf's small numbers
                one, other = rng.integers(0, min(400, len(bytes_)), 2)
                bytes_[one], bytes_[other] = bytes_[other], bytes_[one]
        file.write_bytes(bytes(bytes_))
        try:
            read_network(file)
            done[True] += 1
        except ValueError as error:
            assert "\n" not in str(error) and str(file) in str(error)
            done[False] += 1
    assert min(done.values()) > 50
