"""The CPU through OpenVINO; of GPU and NPU what can be told without one."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from openvino import opset13

import profiling.openvino_device
from jaxnas import export
from jaxnas.builtin_spaces import PROXYLESS_TINY
from jaxnas.network import Network, network_of
from jaxnas.openvino_package import openvino
from profiling.attribution import HALF_STEP_MS, Attribution
from profiling.device import Options
from profiling.errors import CompileError, DeviceUnavailable
from profiling.registry import open_device
from profiling.tables import ms_by_part
from tests.programs import run_program

# Block 1 and 3 have a residual add, block 4 is left out.
ARCH = "k3e3 k5e6 k7e3 k3e6 -"
PARTS = {
    "input",
    "stem",
    "first",
    "block00",
    "block01",
    "block02",
    "block03",
    "head",
    "pool",
    "classifier",
}


@pytest.fixture(scope="module")
def cpu():
    with open_device("CPU") as device:
        yield device


@pytest.fixture(scope="module")
def ours() -> onnx.ModelProto:
    spec = network_of(PROXYLESS_TINY, PROXYLESS_TINY.parse(ARCH), 10)
    return export.to_onnx(Network(spec, rng=np.random.default_rng(0)), 64)


def torch_style(
    *, named: bool = True, batch: int | str = 1, last: str = "Softmax"
) -> onnx.ModelProto:
    """A small network as torch's exporter writes it, batch norm left in."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def add(operator: str, value: str, output: str, shapes: tuple = (), **attributes) -> str:
        names = [f"{output}.{i}" for i in range(len(shapes))]
        weights.extend(
            numpy_helper.from_array(rng.random(shape, np.float32), name)
            for name, shape in zip(names, shapes, strict=True)
        )
        nodes.append(
            helper.make_node(
                operator,
                [*value.split(), *names],
                [output],
                f"/{output}/{operator}" if named else "",
                **attributes,
            )
        )
        return output

    first = add("Conv", "input", "conv1", ((8, 3, 3, 3),), pads=[1] * 4, strides=[2, 2])
    first = add("Relu", add("BatchNormalization", first, "bn1", ((8,),) * 4), "relu1")
    second = add("Conv", first, "conv2", ((8, 8, 3, 3),), pads=[1] * 4)
    second = add("BatchNormalization", second, "bn2", ((8,),) * 4)
    second = add("HardSwish", add("Add", f"{first} {second}", "add"), "act2")
    second = add("Flatten", add("GlobalAveragePool", second, "gap"), "flatten")
    add(last, add("Gemm", second, "fc", ((8, 10), (10,))), "output")
    graph = helper.make_graph(
        nodes,
        "main_graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, (batch, 3, 32, 32))],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, (batch, 10))],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def compiled(model: onnx.ModelProto) -> tuple[openvino.CompiledModel, dict[str, float]]:
    """A network on the CPU and a millisecond for each step that it executes."""
    core = openvino.Core()
    network = core.compile_model(
        core.read_model(model.SerializeToString()),
        "CPU",
        {"PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True},
    )
    request = network.create_infer_request()
    request.infer()
    counters = {
        step.node_name: 1.0
        for step in request.profiling_info
        if step.status == step.Status.EXECUTED
    }
    assert len(counters) > 5
    return network, counters


def test_layers_add_up_to_latency(cpu, ours):
    measurement = cpu.measure(ours.SerializeToString())
    assert sum(layer.ms for layer in measurement.layers) == pytest.approx(measurement.latency_ms)
    assert min(layer.ms for layer in measurement.layers) > 0
    assert 0 < measurement.p10_ms <= measurement.latency_ms <= measurement.p90_ms
    assert measurement.count >= 3 and measurement.host_ms == 0
    assert measurement.setup == cpu.setup


def test_our_layers_belong_to_the_networks_parts(cpu, ours):
    parts = ms_by_part(cpu.measure(ours.SerializeToString()))
    assert parts.pop("host") == 0
    assert parts.keys() == PARTS


@pytest.mark.parametrize("model", ["ours", "named", "unnamed"])
def test_each_step_belongs_to_one_layer(model, ours):
    model = ours if model == "ours" else torch_style(named=model == "named")
    network, counters = compiled(model)
    attribution = Attribution(model, network.get_runtime_model())
    layers = {node.name or node.output[0] for node in model.graph.node}
    for step, ms in counters.items():
        (layer,) = attribution.layers({step: ms})
        assert layer.name in layers and layer.ms == ms + HALF_STEP_MS
    together = attribution.layers(counters)
    assert {layer.name for layer in together} <= layers
    assert sum(layer.ms for layer in together) == pytest.approx(len(counters) * (1 + HALF_STEP_MS))


def test_fused_and_inserted_steps_go_to_a_layer_of_their_block(ours):
    network, counters = compiled(ours)
    attribution = Attribution(ours, network.get_runtime_model())
    layers = [layer.name for layer in attribution.layers(counters)]
    assert "block01/project" in layers and "block01/add" not in layers
    assert not [name for name in layers if name.endswith("clip")]
    (inserted,) = (step for step in counters if step.startswith("input/cast_"))
    assert attribution.layers({inserted: 1.0})[0].name == "stem/conv"


def test_layers_come_in_order_of_execution(ours):
    # The GPU lists its counters by name.
    network, counters = compiled(ours)
    attribution = Attribution(ours, network.get_runtime_model())
    layers = [layer.name for layer in attribution.layers(dict(sorted(counters.items())))]
    assert layers == sorted(layers, key=[node.name for node in ours.graph.node].index)
    assert layers[:2] == ["input/cast", "stem/conv"] and layers[-1] == "classifier/linear"


def test_counters_without_a_runtime_model(ours):
    # The NPU's runtime model has inputs and outputs only; names as its compiler forms them.
    image = opset13.parameter([1, 3, 64, 64], np.float32, name="image")
    dummy = openvino.Model([opset13.constant(np.zeros((1, 10), np.float32))], [image])
    layers = Attribution(ours, dummy).layers(
        {
            "image?t_Parameter/_convert": 1.0,
            "stem/conv/WithoutBiases?t_Convolution": 2.0,
            "stem/conv/WithoutBiases?t_Convolution/_cluster_0": 3.0,
            "block01/add?t_Add": 4.0,
            "logits?t_FullyConnected": 5.0,
            "output_spill": 6.0,
        }
    )
    assert [layer.name for layer in layers] == ["stem/conv", "block01/add", "classifier/linear"]
    assert [layer.ms for layer in layers] == pytest.approx(
        [6 + 3 * HALF_STEP_MS, 4 + HALF_STEP_MS, 11 + 2 * HALF_STEP_MS]
    )


def test_a_step_by_the_gpus_name_is_found(ours):
    network, counters = compiled(ours)
    attribution = Attribution(ours, network.get_runtime_model())
    (inserted,) = (step for step in counters if step.startswith("input/cast_"))
    assert attribution.layers({f"reorder:{inserted}": 1.0})[0].name == "stem/conv"
    assert attribution.layers({"convolution:head/conv/WithoutBiases": 1.0})[0].name == "head/conv"


@pytest.mark.parametrize("named", [True, False])
def test_a_network_of_somebody_else(cpu, named):
    measurement = cpu.measure(torch_style(named=named).SerializeToString())
    layers = {layer.name for layer in measurement.layers}
    assert (
        {"/add/Add", "/fc/Gemm", "/output/Softmax"} if named else {"add", "fc", "output"}
    ) <= layers
    assert sum(layer.ms for layer in measurement.layers) == pytest.approx(measurement.latency_ms)


def test_dynamic_shapes_are_refused(cpu):
    with pytest.raises(CompileError, match=r"dynamic shape: input \[\?,3,32,32\]; export it with"):
        cpu.measure(torch_style(batch="N").SerializeToString())


def one_node(kind: int, operator: str, *inputs: str) -> bytes:
    """One operator on an input and a constant `two`, both float32 or text."""
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["output"])],
        "one",
        [helper.make_tensor_value_info("input", kind, (1,))],
        [helper.make_tensor_value_info("output", kind, (1,))],
        [helper.make_tensor("two", TensorProto.FLOAT, (1,), [2])],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8
    ).SerializeToString()


def test_a_network_that_executes_nothing_is_all_host(cpu):
    measurement = cpu.measure(one_node(TensorProto.FLOAT, "Add", "two", "two"))
    assert measurement.layers == () and measurement.host_ms == measurement.latency_ms > 0


def test_text_is_refused(cpu):
    with pytest.raises(CompileError, match="text inputs: input; give one whose inputs are num"):
        cpu.measure(one_node(TensorProto.STRING, "Identity", "input"))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            torch_style(last="Frobnicate").SerializeToString(),
            "OpenVINO cannot read the network: .*No conversion rule found for operations: Frobn",
        ),
        (b"no ONNX", "OpenVINO cannot read the network: .*format is supported"),
        (b"", "OpenVINO cannot read the network: .*format is supported"),
    ],
)
def test_a_compile_error_is_openvinos_words(cpu, model, words):
    with pytest.raises(CompileError, match=words) as refused:
        cpu.measure(model)
    assert "\n" not in str(refused.value)


def test_a_network_is_compiled_once(monkeypatch):
    monkeypatch.setattr(profiling.openvino_device, "MAX_COMPILED", 2)
    models = [
        torch_style(named=named, last=last).SerializeToString()
        for named, last in ((True, "Softmax"), (False, "Softmax"), (True, "Relu"))
    ]
    with open_device("CPU") as device:
        first, second = (device._network(model) for model in models[:2])
        assert device._network(models[0]) is first
        device._network(models[2])  # the second was used longest ago
        assert device._network(models[0]) is first
        assert device._network(models[1]) is not second
        assert len(device._compiled) == 2
    assert not device._compiled


def test_threads_are_openvinos_choice_or_the_users(cpu, ours):
    network, _ = compiled(ours)
    assert cpu.setup.settings == {"threads": network.get_property("INFERENCE_NUM_THREADS")}
    with open_device("CPU", Options(threads=1)) as device:
        measurement = device.measure(ours.SerializeToString())
        request = device._network(ours.SerializeToString()).request
    assert device.setup.settings == measurement.setup.settings == {"threads": 1}
    assert request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 1


def test_setup_says_what_was_measured(cpu, ours):
    network, _ = compiled(ours)
    precision = network.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    assert cpu.setup.precision == {"f32": "FP32", "f16": "FP16", "bf16": "BF16"}[precision]
    assert cpu.setup.hardware == openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
    assert (cpu.setup.device, cpu.setup.kind) == ("CPU", "measured")
    assert cpu.setup.versions["openvino"] == openvino.get_version()


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("GPU", "intel-opencl-icd"),
        ("NPU", "linux-npu-driver"),
        ("GPU.7", "intel-opencl-icd"),
        ("CPU.1", "x86-64"),
    ],
)
def test_a_device_that_is_not_there(name, remedy):
    available = openvino.Core().available_devices
    if any(device.startswith(name) for device in available):
        pytest.skip(f"there is a {name}")
    with pytest.raises(DeviceUnavailable) as missing:
        profiling.openvino_device.OpenVinoDevice(name, Options())
    assert f"finds no {name}, it finds {', '.join(available)}." in str(missing.value)
    assert remedy in str(missing.value)


def test_program_measures_a_file(tmp_path):
    file = tmp_path / "network.onnx"
    onnx.save(torch_style(), file)
    done = run_program(
        "profiling.measure",
        f"--model={file}",
        "--device=NPU,CPU",
        "--threads=1",
        "--json",
        f"--store={tmp_path / 'store'}",
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["device"], document["kind"]) == ("CPU", "measured")
    assert document["settings"] == {"threads": 1}
    assert document["latency_ms"]["count"] >= 3 * 40
    assert sum(layer["ms"] for layer in document["layers"]) == pytest.approx(
        document["latency_ms"]["median"]
    )
