"""OAK camera with a MyriadX (OAK-1, OAK-D): runs the blob and reads inference times from its log.

The camera has no per-layer counters. At level trace, its log contains one line per inference,

    NeuralNetwork inference took '62.274784' ms.

which is the time on the device, without host and bus. The measured time of the whole network is
divided among the layers in proportion to their estimates, which `profiling.myriad.cost` makes from
the compiler's stage graph: the sum is measured, the shares are estimated. `Setup.versions` states
this under "layers".

Luxonis' own benchmark reads the same line: github.com/luxonis/modelconverter, log_latency.py.
"""

import collections
import contextlib
import datetime
import itertools
import math
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Self

import numpy as np
import onnx

from profiling.device import Options
from profiling.errors import CompileError, DeviceUnavailable
from profiling.measurement import LayerTime, Measurement, Setup
from profiling.myriad.client import Worker
from profiling.myriad.cost import estimate
from profiling.myriad.stick import UDEV_RULE
from profiling.myriad.worker_answers import Compiled
from profiling.onnx_file import inputs_of, onnx_bytes

NAME = "OAK"
# The number that a pipeline with a streaming camera leaves to each of two inference threads.
SHAVES = 6
UNTIMED, TIMED = 2, 50
_LEAST_TIMED = 5  # of a network that takes seconds

REMEDY = (
    f"Plug in an OAK camera (USB id 03e7). On Linux it needs a udev rule, once: "
    f"`echo '{UDEV_RULE}' | sudo tee /etc/udev/rules.d/80-movidius.rules && sudo udevadm control "
    f"--reload-rules && sudo udevadm trigger`. Start a container with -v /dev/bus/usb:/dev/bus/usb "
    f"--device-cgroup-rule='c 189:* rmw'. Without a camera, --device=MYRIADX_COMPILER estimates"
)

_INSTALL = "`pip install depthai==3.12.0`"
_SEARCH_S = 5.0
_REBOOT_S = 20.0  # limit from the end of a pipeline until the camera can be opened again
_INFERENCE_S = 30.0
_TRACE_S = 120.0
_TOOK = re.compile(r"\bNeuralNetwork inference took\s+'(\d+(?:\.\d+)?)'\s+ms\b")
_DTYPES = {"U8F": np.uint8, "FP32": np.float32}  # keys are depthai's type names
_COMPLAINT = re.compile(r"\[(warn|err|crit)")


class Trace:
    """Inference times, warnings and errors from a camera's log.

    Attributes:
      times_ms: times of the inferences, in order.
    """

    def __init__(self) -> None:
        self.times_ms: list[float] = []
        self._lines = 0
        self._complaints: collections.deque[str] = collections.deque(maxlen=5)

    def hear(self, line: str) -> None:
        """Reads one line, `[node] [level] text`; keeps times and the last 5 complaints."""
        self._lines += 1
        took = _TOOK.search(line)
        if took:
            self.times_ms.append(float(took[1]))
        elif _COMPLAINT.search(line):
            self._complaints.append(line)

    def heard(self) -> str:
        """Returns a summary of the log, for the error message if it contains too few times."""
        complaints = "; ".join(self._complaints) or "no complaint"
        return (
            f"inference times in its log: {len(self.times_ms)}, in {self._lines} lines; "
            f"{complaints}"
        )


def read_blob(compiled: Compiled, model: bytes, shaves: int) -> Any:
    """Returns the `depthai.OpenVINO.Blob` of a compiled network, checked against the request.

    Args:
      compiled: result of `Worker.compile` for `model`.
      model: bytes of the ONNX file.
      shaves: number of SHAVE processors requested from the compiler.

    Raises:
      DeviceUnavailable: depthai cannot read the blob, or its resources or inputs differ from those
        requested.
      CompileError: an input has an unsupported data type.
    """
    dai = _depthai()
    try:
        blob = dai.OpenVINO.Blob(dai.VectorUInt8(compiled.blob))
    except (RuntimeError, ValueError) as error:
        raise DeviceUnavailable(
            f"depthai {dai.__version__} cannot read the compiler's blob ({error}): {_INSTALL}"
        ) from error
    if (blob.numShaves, blob.numSlices) != (shaves, shaves):
        raise DeviceUnavailable(
            f"the blob is for {blob.numShaves} SHAVEs and {blob.numSlices} CMX slices, requested "
            f"were {shaves} of each: `python -m profiling.myriad.install` renews the compiler"
        )
    expected = _inputs(model)
    found = {name: math.prod(info.dims) for name, info in blob.networkInputs.items()}
    if found != expected:
        raise DeviceUnavailable(
            f"the blob's inputs and their elements are {found}, the network's are {expected}: "
            f"`python -m profiling.myriad.install` renews the compiler"
        )
    for name, info in blob.networkInputs.items():
        if info.dataType.name not in _DTYPES:
            raise CompileError(
                f"input {name!r} is {info.dataType.name}, supported on an OAK are "
                f"{' and '.join(_DTYPES)}; export the network with one of them"
            )
    return blob


def divide(latency_ms: float, estimated: Sequence[LayerTime]) -> tuple[LayerTime, ...]:
    """Divides the time of a whole network among its layers in proportion to their estimates."""
    scale = latency_ms / sum(layer.ms for layer in estimated)
    return tuple(LayerTime(layer.name, layer.ms * scale) for layer in estimated)


class Oak:
    """The device OAK; OAK.<id> selects one of several, with the id that depthai prints.

    Latency is the median of single inferences in sequence, on one thread and one convolution
    engine. The blob is compiled for `Options.shaves` SHAVEs, by default 6. A Neural Compute Stick 2
    has the same USB id before it boots: if one is connected too, give the camera's id.
    """

    repeats = 3

    def __init__(self, name: str, options: Options):
        """Opens the camera and starts the compiler, which is installed on first use.

        Raises:
          ValueError: worker_prefix is not a command.
          DeviceUnavailable: depthai, camera or compiler is missing; the message names the remedy.
        """
        dai = _depthai()
        self._shaves = options.shaves or SHAVES
        self._id = name.partition(".")[2]
        self._compiler = Worker(prefix=options.worker_prefix)  # starts nothing yet
        self._camera = _open(dai, self._id, _SEARCH_S)
        try:
            with _camera_errors(dai, "reporting its name"):
                self._id = self._camera.getDeviceId()
                product = self._camera.getProductName() or self._camera.getDeviceName()
            versions = {
                **self._compiler.hello(),
                "depthai": dai.__version__,
                "layers": "shares of the compiler's estimate, no counters",
            }
        except BaseException:
            self.__exit__()
            raise
        self.setup = Setup(
            NAME, "measured", f"{product} {self._id}", "FP16", versions, {"shaves": options.shaves}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._compiler.close()
        if self._camera is not None:
            self._camera.close()

    def measure(self, model: bytes) -> Measurement:
        """See `Device.measure`."""
        compiled = self._compiler.compile(model, shaves=self._shaves)
        blob = read_blob(compiled, model, self._shaves)
        try:
            estimated = estimate(compiled.graph).layers
        except ValueError as error:
            raise CompileError(
                f"the cost model cannot read the compiler's stage graph of this network: {error}"
            ) from error
        times_ms, temperature_c = self._time(blob)
        latency_ms, p10_ms, p90_ms = map(float, np.percentile(times_ms, (50, 10, 90)))
        return Measurement(
            self.setup,
            latency_ms,
            p10_ms,
            p90_ms,
            len(times_ms),
            divide(latency_ms, estimated),
            temperature_c=temperature_c,
            blob=compiled.blob,
        )

    def scores(self, file: pathlib.Path, images: Iterable[np.ndarray]) -> np.ndarray:
        """See `Executor.scores`."""
        images = iter(images)
        first = next(images)
        if first.dtype != np.uint8:
            raise CompileError(
                f"{file} takes {first.dtype} values, and the camera's blob is compiled for pixels, "
                f"0 to 255: give a file with 8-bit input that normalizes inside"
            )
        model = onnx_bytes(file, NAME, (1, *first.shape))
        blob = read_blob(self._compiler.compile(model, shaves=self._shaves), model, self._shaves)
        (name,) = blob.networkInputs
        dai, trace, scores = _depthai(), Trace(), []
        with self._running(blob, trace) as (_, infer):
            for image in itertools.chain([first], images):
                data = dai.NNData()
                _add_tensor(dai, data, name, image[None])
                scores.append(np.float32(infer(data).getFirstTensor(dequantize=True)).ravel())
        return np.stack(scores)

    def _time(self, blob: Any) -> tuple[list[float], tuple[float, float]]:
        """Returns the ms of TIMED inferences and the chip temperatures in °C before and after."""
        trace = Trace()
        with self._running(blob, trace) as (camera, infer):
            before_c = camera.getChipTemperature().average
            data = _data(_depthai(), blob.networkInputs)
            end_s = time.monotonic() + _TRACE_S
            # The log has its own channel and arrives later than the outputs.
            while len(trace.times_ms) < UNTIMED + TIMED:
                if time.monotonic() > end_s:
                    if len(trace.times_ms) >= UNTIMED + _LEAST_TIMED:
                        break  # a slow network has fewer times
                    raise TimeoutError(f"no {UNTIMED + _LEAST_TIMED} times within {_TRACE_S} s")
                infer(data)
            after_c = camera.getChipTemperature().average
        return trace.times_ms[UNTIMED : UNTIMED + TIMED], (before_c, after_c)

    @contextlib.contextmanager
    def _running(self, blob: Any, trace: Trace) -> Iterator[tuple[Any, Callable[[Any], Any]]]:
        """Runs a pipeline of the network; yields the camera and a function for one inference."""
        dai = _depthai()
        # The end of a pipeline closes its camera, which then reboots.
        camera = self._camera or _open(dai, self._id, _REBOOT_S)
        self._camera = None
        with contextlib.closing(camera), _camera_errors(dai, "running a network", trace):
            camera.addLogCallback(
                lambda message: trace.hear(
                    f"[{message.nodeIdName}] [{message.level.name.lower()}] {message.payload}"
                )
            )
            camera.setLogLevel(dai.LogLevel.TRACE)
            camera.setLogOutputLevel(dai.LogLevel.OFF)  # otherwise printed to standard output
            with dai.Pipeline(camera) as pipeline:
                network = pipeline.create(dai.node.NeuralNetwork)
                network.setBlob(blob)
                network.setNumInferenceThreads(1)
                network.setNumNCEPerInferenceThread(1)
                inputs = network.input.createInputQueue()
                outputs = network.out.createOutputQueue()
                pipeline.start()

                def infer(data: Any) -> Any:
                    inputs.send(data)
                    output = outputs.get(datetime.timedelta(seconds=_INFERENCE_S))
                    if output is None:
                        raise TimeoutError(f"no output within {_INFERENCE_S} s")
                    return output

                yield camera, infer


def _depthai() -> ModuleType:
    """Imports depthai, which only this device needs; raises DeviceUnavailable."""
    # depthai would log to standard output, among the program's output. It also raises its errors.
    os.environ.setdefault("DEPTHAI_LEVEL", "off")
    try:
        import depthai
    except ImportError as error:
        raise DeviceUnavailable(
            f"depthai, the library of OAK cameras, cannot be imported ({error}): {_INSTALL}"
        ) from error
    if not depthai.__version__.startswith("3."):
        raise DeviceUnavailable(
            f"depthai is {depthai.__version__}, this program needs depthai 3: {_INSTALL}"
        )
    return depthai


def _open(dai: ModuleType, device_id: str, search_s: float) -> Any:
    """Opens the camera with this id, or the first one, once it is found; waits search_s at most."""
    end_s = time.monotonic() + search_s
    while True:
        with _camera_errors(dai, "being searched for"):
            # Includes cameras that are in use or not permitted. Each search takes half a second.
            seen = dai.XLinkConnection.getAllConnectedDevices(
                dai.XLinkDeviceState.X_LINK_ANY_STATE, False
            )
        obstacles = [_obstacle(dai, info, device_id) for info in seen]
        for info, obstacle in zip(seen, obstacles, strict=True):
            if obstacle is None:
                with _camera_errors(dai, "being opened"):
                    return dai.Device(info)
        if time.monotonic() > end_s:
            why = "; ".join(
                f"{info.deviceId or info.name} {obstacle}"
                for info, obstacle in zip(seen, obstacles, strict=True)
            )
            wanted = f"OAK camera {device_id}" if device_id else "OAK camera"
            raise DeviceUnavailable(
                f"no {wanted} was found in {search_s} s ({why or 'nothing is connected'}). {REMEDY}"
            )


def _obstacle(dai: ModuleType, info: Any, device_id: str) -> str | None:
    """Returns why a camera that was found cannot be opened; None if it can."""
    if info.platform != dai.XLinkPlatform.X_LINK_MYRIAD_X:
        return f"has no MyriadX ({info.platform.name})"
    if info.status == dai.XLinkError_t.X_LINK_INSUFFICIENT_PERMISSIONS:
        return "may not be opened by this user"
    if info.status != dai.XLinkError_t.X_LINK_SUCCESS:
        return f"answers {info.status.name}"
    if info.state == dai.XLinkDeviceState.X_LINK_BOOTED:
        return "is in use by another program"
    if device_id not in ("", info.deviceId):
        return "has another id"
    return None


@contextlib.contextmanager
def _camera_errors(dai: ModuleType, doing: str, trace: Trace | None = None) -> Iterator[None]:
    """Raises depthai's errors as DeviceUnavailable, with a summary of the log."""
    try:
        yield
    except (RuntimeError, TimeoutError, dai.MessageQueue.QueueException) as error:
        log = f" ({trace.heard()})" if trace else ""
        raise DeviceUnavailable(
            f"the OAK camera failed while {doing}: {error}{log}. Unplug it, plug it into a USB 3 "
            f"port and try again"
        ) from error


def _inputs(model: bytes) -> dict[str, int]:
    """Returns the number of elements of each input of a static ONNX network, by name."""
    return {
        value.name: math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in inputs_of(onnx.load_model_from_string(model))
    }


def _data(dai: ModuleType, inputs: Mapping[str, Any]) -> Any:
    """Draws inputs for a blob, whose dimensions are listed innermost first."""
    rng, data = np.random.default_rng(0), dai.NNData()
    for name, info in inputs.items():
        values = rng.uniform(0, 256, info.dims[::-1]).astype(_DTYPES[info.dataType.name])
        _add_tensor(dai, data, name, values)
    return data


def _add_tensor(dai: ModuleType, data: Any, name: str, values: np.ndarray) -> None:
    """Adds an input with the data type of its values."""
    (type_name,) = (key for key, dtype in _DTYPES.items() if dtype == values.dtype)
    data.addTensor(name, values, dataType=getattr(dai.TensorInfo.DataType, type_name))
