import collections
import dataclasses

import jax
import numpy as np
import onnx
import pytest
from flax import nnx

from jaxnas import export, parity
from jaxnas.folding import FoldedNetwork
from jaxnas.network import Network, network_of
from jaxnas.onnxruntime_package import onnxruntime
from jaxnas.pixels import from_pixels
from jaxnas.zoo import find_network
from tests.conftest import NUM_CLASSES, SMALL

SIZE = 32


def trained(network: Network) -> Network:
    """Statistics, scales and biases as training leaves them: none is one or zero."""
    rng = np.random.default_rng(5)
    for _, module in nnx.iter_modules(network):
        if hasattr(module, "variance"):
            channels = module.scale.shape
            module.scale.set_value(rng.uniform(0.5, 1.5, channels).astype(np.float32))
            module.bias.set_value(rng.normal(0, 0.3, channels).astype(np.float32))
            module.mean.set_value(rng.normal(0, 0.3, channels).astype(np.float32))
            module.variance.set_value(rng.uniform(0.5, 2, channels).astype(np.float32))
    return network


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    spec = network_of(SMALL, SMALL.parse("k5e3 k3e2 - k5e2 k3e3"), NUM_CLASSES)
    network = trained(Network(spec, rng=np.random.default_rng(1)))
    folder = tmp_path_factory.mktemp("export")
    model = export.to_onnx(network, SIZE)
    export.save(model, folder / "model.onnx", folder / "model.xml")
    return network, model, folder


def test_nodes_are_named_after_their_blocks(exported):
    names = [node.name for node in exported[1].graph.node]
    assert names == [
        "input/cast",
        "stem/conv",
        "stem/clip",
        "first/depthwise",
        "first/depthwise_clip",
        "first/project",
        "first/add",
        "block00/expand",
        "block00/expand_clip",
        "block00/depthwise",
        "block00/depthwise_clip",
        "block00/project",
        "block01/expand",
        "block01/expand_clip",
        "block01/depthwise",
        "block01/depthwise_clip",
        "block01/project",
        "block03/expand",
        "block03/expand_clip",
        "block03/depthwise",
        "block03/depthwise_clip",
        "block03/project",
        "block03/add",
        "block04/expand",
        "block04/expand_clip",
        "block04/depthwise",
        "block04/depthwise_clip",
        "block04/project",
        "block04/add",
        "head/conv",
        "head/clip",
        "pool",
        "classifier/flatten",
        "classifier/linear",
    ]


def test_published_network_exports_to_few_operators():
    model = export.to_onnx(Network(find_network("mobilenet_v2"), rng=np.random.default_rng(0)), 224)
    assert collections.Counter(node.op_type for node in model.graph.node) == {
        "Cast": 1,
        "Conv": 52,
        "Clip": 35,
        "Add": 10,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    }


def test_shapes_are_right_and_complete(exported):
    _, model, folder = exported
    assert model.opset_import[0].version == 13
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]
    }
    assert shapes["image"] == [1, 3, SIZE, SIZE]
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert shapes["stem/conv"] == [1, 4, 16, 16]
    assert shapes["block01/depthwise"] == [1, 12, 8, 8]
    assert shapes["logits"] == [1, NUM_CLASSES]
    assert set(shapes) >= {output for node in model.graph.node for output in node.output}


def test_onnx_runtime_loads_without_a_warning(exported, capfd):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 2
    onnxruntime.InferenceSession(
        exported[2] / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    assert "warning" not in "".join(capfd.readouterr()).lower()


def test_jax_onnx_and_ir_agree(exported):
    network, _, folder = exported
    pixels = np.random.default_rng(2).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    result = parity.compare(network, folder / "model.onnx", folder / "model.xml", pixels)
    assert result.images == 4
    assert result.holds
    assert max(result.onnxruntime_max_abs, result.openvino_max_abs) < 1e-5


def test_parity_notices_a_changed_weight(exported, tmp_path):
    network, model, folder = exported
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    bias = next(t for t in changed.graph.initializer if t.name == "classifier/linear/bias")
    array = onnx.numpy_helper.to_array(bias) + np.float32([1e-3] + [0] * (NUM_CLASSES - 1))
    bias.CopyFrom(onnx.numpy_helper.from_array(array, bias.name))
    onnx.save(changed, tmp_path / "model.onnx")
    pixels = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    result = parity.compare(network, tmp_path / "model.onnx", folder / "model.xml", pixels)
    assert not result.holds
    assert result.onnxruntime_max_abs == pytest.approx(1e-3, rel=1e-2)


def test_folding_leaves_the_layer_as_it_was(exported):
    network = exported[0]
    before = jax.tree.map(np.array, nnx.state(network))
    folded = FoldedNetwork(network, SIZE)
    network.eval()
    pixels = np.random.default_rng(3).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    np.testing.assert_allclose(folded(np.float32(pixels)), network(from_pixels(pixels)), atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, nnx.state(network)))


def test_refuses_an_impossible_size(exported):
    with pytest.raises(ValueError, match="image size 0 px"):
        export.to_onnx(exported[0], 0)


def test_a_graph_of_another_shape_is_an_error(exported):
    network = exported[0]
    spec = dataclasses.replace(network.spec, blocks=network.spec.blocks[:-1])
    with pytest.raises(
        RuntimeError, match="jax2onnx gave Conv where .* has head/clip|jax2onnx gave .* where"
    ):
        network.spec, kept = spec, network.spec
        try:
            export.to_onnx(network, SIZE)
        finally:
            network.spec = kept


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("repvgg_a0", {"Conv": 22, "Relu": 22}),
        ("mobileone_s0", {"Conv": 43, "Relu": 43}),
        ("resnet_18", {"Conv": 20, "Relu": 17, "MaxPool": 1, "Add": 8}),
    ],
)
def test_networks_of_others_are_exported_as_they_are_built(name, operators, tmp_path):
    """Three runtimes agree; on 45 px, where every layer's padding is uneven."""
    network = trained(Network(find_network(name, NUM_CLASSES), rng=np.random.default_rng(0)))
    model = export.to_onnx(network, 45)
    found = collections.Counter(node.op_type for node in model.graph.node)
    assert {operator: found[operator] for operator in operators} == operators
    export.save(model, tmp_path / "m.onnx", tmp_path / "m.xml")
    pixels = np.random.default_rng(2).integers(0, 256, (2, 45, 45, 3), np.uint8)
    assert parity.compare(network, tmp_path / "m.onnx", tmp_path / "m.xml", pixels).holds


@pytest.mark.parametrize(
    ("difference", "largest", "holds"),
    [(9e-5, 0.5, True), (1.1e-4, 0.5, False), (9e-4, 10.0, True), (1.1e-3, 10.0, False)],
)
def test_parity_is_relative_to_logits_above_one(difference, largest, holds):
    for pair in ((difference, 0.0), (0.0, difference)):
        assert parity.Parity(8, *pair, True, largest).holds is holds
        assert not parity.Parity(8, *pair, False, largest).holds
