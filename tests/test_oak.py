"""An OAK camera up to opening it, and its log in its makers' words; a camera if one is there.

The blob's SHAVEs as depthai reads them are in test_myriad.py.
"""

import dataclasses
import json
import sys
import time
import types

import depthai
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from profiling import oak_device
from profiling.device import Options
from profiling.errors import CompileError, DeviceUnavailable
from profiling.measurement import LayerTime
from profiling.myriad.client import Worker
from profiling.myriad.worker_answers import Compiled
from tests.programs import run_program

# A log at level trace as Luxonis prints it: luxonis/depthai-python,
# docs/source/tutorials/low-latency.rst, "Measuring operation times".
LOG = """\
[SpatialDetectionNetwork(1)] [trace] SpatialDetectionNetwork syncing took '70.39142' ms.
[StereoDepth(4)] [trace] Warp node took '2.2945' ms.
[system] [trace] EV:0,S:0,IDS:27,IDD:10,TSS:2,TSN:601935518
[StereoDepth(4)] [trace] Stereo took '12.27392' ms.
[StereoDepth(4)] [trace] 'Median+Disparity to depth' pipeline took '0.86295' ms.
[SpatialDetectionNetwork(1)] [trace] NeuralNetwork inference took '62.274784' ms.
[MonoCamera(3)] [trace] Mono ISP took '1.726888' ms.
[SpatialDetectionNetwork(1)] [trace] DetectionParser took '3.464118' ms.
"""
# A warning as users of OAK cameras report it, without the camera's id and clock before it.
WARNING = (
    "[NeuralNetwork(5)] [warning] Number of inference threads assigned for network is 1, "
    "assigning 2 will likely yield in better performance"
)


def convolution(
    name: str = "image", type_: int = TensorProto.FLOAT, size: int = 16, batch: int = 1
) -> bytes:
    """ONNX of one 3×3 convolution, 3 to 8 channels, after a cast where the input is no float."""
    kernel = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", [name, "kernel"], ["features"], name="conv", pads=[1] * 4)]
    if type_ != TensorProto.FLOAT:
        nodes[0].input[0] = "cast"
        nodes.insert(0, helper.make_node("Cast", [name], ["cast"], to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info(name, type_, [batch, 3, size, size])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, 8, size, size])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


@pytest.fixture(scope="module")
def compiler(myriad):
    with Worker() as compiler:
        yield compiler


@pytest.fixture(scope="module")
def compiled(compiler) -> Compiled:
    return compiler.compile(convolution(), shaves=6)


def test_an_inferences_time_is_read_from_the_log():
    trace = oak_device.Trace()
    for line in LOG.splitlines():
        trace.hear(line)
    assert trace.times_ms == [62.274784]
    assert trace.heard() == "inference times in its log: 1, in 8 lines; no complaint"


def test_complaints_are_told():
    trace = oak_device.Trace()
    for line in [WARNING, *LOG.splitlines()[:5]]:
        trace.hear(line)
    assert trace.times_ms == []
    assert trace.heard() == f"inference times in its log: 0, in 6 lines; {WARNING}"


def test_the_firmware_that_depthai_boots_writes_that_line():
    firmware = depthai.Device.getEmbeddedDeviceBinary(False)
    # Where the code of the NeuralNetwork node lies; all 40 MB would take 8 s.
    part = bytes(firmware[26_000_000:27_000_000])
    assert b"NeuralNetwork inference took '{}' ms." in part


def test_a_measured_time_is_divided_as_the_estimate():
    estimated = (LayerTime("stem", 1.0), LayerTime("block01/depthwise", 3.0))
    assert oak_device.divide(8.0, estimated) == (
        LayerTime("stem", 2.0),
        LayerTime("block01/depthwise", 6.0),
    )


def test_a_blob_of_what_was_asked_for_is_read(compiled):
    blob = oak_device.read_blob(compiled, convolution(), 6)
    assert (blob.numShaves, blob.numSlices) == (6, 6)


def test_a_blob_is_fed_what_its_input_takes(compiled):
    inputs = oak_device.read_blob(compiled, convolution(), 6).networkInputs
    data = oak_device._data(depthai, inputs)
    tensor = data.getTensorInfo("image")
    assert (tensor.dims, tensor.dataType.name) == ([1, 3, 16, 16], "U8F")
    assert len(data.getData()) == 1 * 3 * 16 * 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shaves": 7}, "for 6 SHAVEs and 6 CMX slices, requested were 7"),
        (
            {"model": convolution("picture")},
            r"are \{'image': 768\}, the network's are \{'picture': ",
        ),
        ({"model": convolution(size=20)}, r"the network's are \{'image': 1200\}"),
        (
            {"blob": b"no blob" * 100},
            "cannot read the compiler's blob .*not seem to be a supported",
        ),
    ],
)
def test_a_blob_of_something_else_is_refused(compiled, change, message):
    blob = change.get("blob", compiled.blob)
    with pytest.raises(DeviceUnavailable, match=message):
        oak_device.read_blob(
            Compiled(compiled.graph, compiled.layers, blob, compiled.versions),
            change.get("model", convolution()),
            change.get("shaves", 6),
        )


def test_a_truncated_blob_is_refused(compiled):
    short = dataclasses.replace(compiled, blob=compiled.blob[:-100])
    with pytest.raises(DeviceUnavailable, match="cannot read the compiler's blob"):
        oak_device.read_blob(short, convolution(), 6)


def test_an_input_that_is_no_float_is_refused(compiler):
    model = convolution(type_=TensorProto.INT32)
    with pytest.raises(CompileError, match="'image' is .*export the network"):
        oak_device.read_blob(compiler.compile(model, shaves=6), model, 6)


def test_without_a_camera_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(oak_device, "_SEARCH_S", 0.1)
    with pytest.raises(DeviceUnavailable, match="no OAK camera 184430106183EB0F00") as missing:
        oak_device.Oak("OAK.184430106183EB0F00", Options())
    said = str(missing.value)
    assert "USB id 03e7" in said and "--device=MYRIADX_COMPILER" in said
    assert (
        'echo \'SUBSYSTEM=="usb", ATTRS{idVendor}=="03e7", MODE="0666"\' | '
        "sudo tee /etc/udev/rules.d/80-movidius.rules && sudo udevadm control"
    ) in said


@pytest.mark.parametrize(
    ("state", "platform", "status", "obstacle"),
    [
        ("UNBOOTED", "MYRIAD_X", "SUCCESS", None),
        ("BOOTLOADER", "MYRIAD_X", "SUCCESS", None),
        ("BOOTED", "MYRIAD_X", "SUCCESS", "is in use by another program"),
        ("UNBOOTED", "MYRIAD_X", "INSUFFICIENT_PERMISSIONS", "may not be opened by this user"),
        ("UNBOOTED", "MYRIAD_X", "INIT_USB_ERROR", "answers X_LINK_INIT_USB_ERROR"),
        ("GATE", "RVC4", "SUCCESS", "has no MyriadX (X_LINK_RVC4)"),
    ],
)
def test_a_camera_that_cannot_be_had_is_told_apart(state, platform, status, obstacle):
    info = depthai.DeviceInfo(
        "1.2",
        "14442C10D13EABCE00",
        depthai.XLinkDeviceState.__members__[f"X_LINK_{state}"],
        depthai.XLinkProtocol.X_LINK_USB_VSC,
        depthai.XLinkPlatform.__members__[f"X_LINK_{platform}"],
        depthai.XLinkError_t.__members__[f"X_LINK_{status}"],
    )
    assert oak_device._obstacle(depthai, info, "") == obstacle
    assert oak_device._obstacle(depthai, info, "14442C10D13EABCE00") == obstacle
    assert oak_device._obstacle(depthai, info, "184430106183EB0F00") == (
        obstacle or "has another id"
    )


def test_what_depthai_raises_is_told_with_the_log():
    trace = oak_device.Trace()
    trace.hear(WARNING)
    message = "failed while running a network: gone .*1 lines; .*Neur"
    with pytest.raises(DeviceUnavailable, match=message):
        with oak_device._camera_errors(depthai, "running a network", trace):
            raise RuntimeError("gone")


class Camera:
    """In a real camera's place: depthai's calls, answered as its documentation has them.

    Its log comes one inference late.
    """

    opened = 0
    times_ms = ("900.5", "800.25", *(f"{20 + n}.5" for n in range(100)))

    def __init__(self, info):
        Camera.opened += 1
        self.info, self.closed, self.hear, self.sent = info, False, None, []

    def close(self):
        self.closed = True

    def getDeviceId(self):
        return self.info.deviceId

    def getProductName(self):
        return "OAK-D"

    def getChipTemperature(self):
        return types.SimpleNamespace(average=40.0 + len(self.sent))

    def addLogCallback(self, hear):
        self.hear = hear

    def setLogLevel(self, level):
        assert level == depthai.LogLevel.TRACE

    def setLogOutputLevel(self, level):
        assert level == depthai.LogLevel.OFF

    def send(self, data):
        if self.sent:
            text = f"NeuralNetwork inference took '{self.times_ms[len(self.sent) - 1]}' ms."
            self.hear(
                types.SimpleNamespace(
                    nodeIdName="NeuralNetwork(0)", payload=text, level=depthai.LogLevel.TRACE
                )
            )
        self.sent.append(data)

    def get(self, timeout):
        assert timeout.total_seconds() == 30
        return depthai.NNData()


class MuteCamera(Camera):
    """Runs nothing, and says why in the words of the firmware."""

    def send(self, data):
        self.hear(
            types.SimpleNamespace(
                nodeIdName="NeuralNetwork(0)",
                level=depthai.LogLevel.ERR,
                payload="Input layer 'image' (index: 0) not connected - skipping inference",
            )
        )

    def get(self, timeout):
        return None


class Pipeline:
    """One NeuralNetwork node; its end closes the camera, as depthai's does."""

    def __init__(self, camera):
        assert not camera.closed
        self.camera = camera

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.camera.close()

    def create(self, node):
        assert node is depthai.node.NeuralNetwork
        return types.SimpleNamespace(
            setBlob=lambda blob: None,
            setNumInferenceThreads=lambda count: None,
            setNumNCEPerInferenceThread=lambda count: None,
            input=types.SimpleNamespace(createInputQueue=lambda: self.camera),
            out=types.SimpleNamespace(createOutputQueue=lambda: self.camera),
        )

    def start(self):
        pass


def depthai_with(monkeypatch, camera: type) -> None:
    """The real depthai, except for the camera and what runs on it."""
    info = depthai.DeviceInfo(
        "1.2",
        "14442C10D13EABCE00",
        depthai.XLinkDeviceState.X_LINK_UNBOOTED,
        depthai.XLinkProtocol.X_LINK_USB_VSC,
        depthai.XLinkPlatform.X_LINK_MYRIAD_X,
        depthai.XLinkError_t.X_LINK_SUCCESS,
    )
    found = types.SimpleNamespace(getAllConnectedDevices=lambda state, skip: [info])
    monkeypatch.setitem(
        sys.modules,
        "depthai",
        types.SimpleNamespace(
            **{**vars(depthai), "Device": camera, "Pipeline": Pipeline, "XLinkConnection": found}
        ),
    )


def test_a_measurement_is_the_cameras_times_without_the_first_two(myriad, monkeypatch):
    depthai_with(monkeypatch, Camera)
    monkeypatch.setattr(Camera, "opened", 0)
    with oak_device.Oak("OAK", Options()) as camera:
        first, second = (camera.measure(convolution()) for _ in range(2))
    assert Camera.opened == 2  # the end of the first pipeline closed the one opened at the start
    # 20.5, 21.5, ... 69.5: the slow first two are left out.
    assert (first.latency_ms, first.count, first.host_ms) == (45.0, 50, 0.0)
    assert (first.p10_ms, first.p90_ms) == pytest.approx((25.4, 64.6))
    assert first.temperature_c == (40.0, 93.0)
    assert sum(layer.ms for layer in first.layers) == pytest.approx(45.0)
    assert [layer.name for layer in first.layers][:2] == ["image@FP16", "features"]
    assert second.latency_ms == 45.0
    setup = first.setup
    assert (setup.device, setup.kind, setup.settings) == ("OAK", "measured", {"shaves": None})
    assert setup.hardware == "OAK-D 14442C10D13EABCE00"
    assert setup.versions["layers"] == "shares of the compiler's estimate, no counters"
    assert depthai.OpenVINO.Blob(depthai.VectorUInt8(first.blob)).numShaves == 6


def test_a_batch_of_images_has_no_latency_of_one(myriad, monkeypatch):
    depthai_with(monkeypatch, Camera)
    with (
        oak_device.Oak("OAK", Options()) as camera,
        pytest.raises(CompileError, match="takes 8 images at once.* a batch of 1"),
    ):
        camera.measure(convolution(batch=8))


class Answering(Camera):
    """Answers with how many images were sent, and the sum of the last one's bytes."""

    def get(self, timeout):
        answer = depthai.NNData()
        total = int(np.sum(self.sent[-1].getData(), dtype=np.int64))
        answer.addTensor(
            "scores",
            np.float32([[len(self.sent), total]]),
            dataType=depthai.TensorInfo.DataType.FP32,
        )
        return answer


def test_scores_are_the_cameras_answers_to_each_image(myriad, monkeypatch, tmp_path):
    depthai_with(monkeypatch, Answering)
    (tmp_path / "model.onnx").write_bytes(convolution())
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), np.uint8)
    with oak_device.Oak("OAK", Options()) as camera:
        scores = camera.scores(tmp_path / "model.onnx", iter(images))
    sums = images.sum((1, 2, 3))
    np.testing.assert_array_equal(scores, [[1, sums[0]], [2, sums[1]]])
    assert scores.dtype == np.float32


def test_scores_take_pixels_alone_and_any_size_that_the_file_leaves_open(
    myriad, monkeypatch, tmp_path
):
    depthai_with(monkeypatch, Answering)
    model = onnx.load_model_from_string(convolution())
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim[2:]:
            dim.dim_param = "side"
    onnx.save(model, tmp_path / "model.onnx")
    images = np.zeros((2, 3, 16, 16), np.uint8)
    with oak_device.Oak("OAK", Options()) as camera:
        assert len(camera.scores(tmp_path / "model.onnx", iter(images))) == 2
        with pytest.raises(CompileError, match="model.onnx takes float32 values, and the camera's"):
            camera.scores(tmp_path / "model.onnx", iter(images.astype(np.float32)))


def test_a_camera_that_runs_nothing_is_told_with_its_log(myriad, monkeypatch):
    depthai_with(monkeypatch, MuteCamera)
    with oak_device.Oak("OAK", Options()) as camera:
        with pytest.raises(DeviceUnavailable, match="no output within 30.0 s") as mute:
            camera.measure(convolution())
    assert "[NeuralNetwork(0)] [err] Input layer 'image' (index: 0) not" in str(mute.value)


def test_a_slow_network_has_fewer_times(myriad, monkeypatch):
    class Slow(Camera):
        def send(self, data):
            time.sleep(0.1)
            super().send(data)

    depthai_with(monkeypatch, Slow)
    monkeypatch.setattr(oak_device, "_TRACE_S", 3.0)
    with oak_device.Oak("OAK", Options()) as camera:
        assert oak_device._LEAST_TIMED <= camera.measure(convolution()).count < oak_device.TIMED


def test_a_camera_whose_log_has_no_times_is_told(myriad, monkeypatch):
    depthai_with(monkeypatch, type("Silent", (Camera,), {"send": lambda self, data: None}))
    monkeypatch.setattr(oak_device, "_TRACE_S", 0.05)
    with oak_device.Oak("OAK", Options()) as camera:
        with pytest.raises(DeviceUnavailable, match="no 7 times within .* in its log: 0, in 0 li"):
            camera.measure(convolution())


def test_without_depthai_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "depthai", None)  # so that importing it fails
    with pytest.raises(DeviceUnavailable, match="pip install depthai==3.12.0"):
        oak_device.Oak("OAK", Options())


def test_another_generation_of_depthai_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "depthai", types.SimpleNamespace(__version__="2.30.0.0"))
    with pytest.raises(DeviceUnavailable, match="2.30.0.0.*pip install depthai==3.12.0"):
        oak_device.Oak("OAK", Options())


def test_without_a_camera_the_next_device_measures_and_output_is_json_alone(myriad, tmp_path):
    (tmp_path / "model.onnx").write_bytes(convolution())
    done = run_program(
        "profiling.measure",
        f"--model={tmp_path / 'model.onnx'}",
        "--device=OAK,MYRIADX_COMPILER",
        "--json",
        DEPTHAI_DEVICE_ID_LIST="none",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["device"] == "MYRIADX_COMPILER"
    assert "OAK is not available: no OAK camera" in done.stderr


def test_a_camera_measures(myriad, monkeypatch):
    monkeypatch.setattr(oak_device, "_SEARCH_S", 1.0)
    try:
        camera = oak_device.Oak("OAK", Options(shaves=8))
    except DeviceUnavailable as error:
        pytest.skip(str(error))  # also where CI is set: no package installs a camera
    with camera:
        for _ in range(2):  # the second after the camera has booted anew
            measured = camera.measure(convolution(size=64))
            assert measured.count == oak_device.TIMED
            assert 0 < measured.p10_ms <= measured.latency_ms <= measured.p90_ms
            assert sum(layer.ms for layer in measured.layers) == pytest.approx(measured.latency_ms)
    assert camera.setup.settings == {"shaves": 8}
