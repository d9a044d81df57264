"""CPU, GPU and NPU through the current OpenVINO.

Timing follows OpenVINO's benchmark_app: latency hint, one untimed inference, then single requests
in sequence, of which the median counts. Unless the user sets them, OpenVINO chooses the number of
CPU threads and the precision; every measurement states both.

Layer times come from the device's counters. Counting costs below 0.3 % on a CPU, which is not
measurable, but reading the counters after each inference disturbs its caches by 1 to 3 %, so they
are read once per measurement. CPU and GPU report the mean since the network was compiled, the NPU
its last inference.
"""

import collections
import dataclasses
import hashlib
import itertools
import pathlib
import time
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
import onnx

from jaxnas.openvino_package import openvino, opset13
from profiling.attribution import Attribution
from profiling.device import Options
from profiling.errors import CompileError, DeviceUnavailable
from profiling.measurement import LayerTime, Measurement, Setup

NAMES = ("CPU", "GPU", "NPU")

# Machines drift and other processes come and go: many short turns affect all networks alike.
PASSES = 40
TIMED_S = 0.05
MIN_COUNT = 3
MAX_COMPILED = 32  # more than the networks of a table; about 35 MB each

_REMEDY = {
    "CPU": "OpenVINO supports x86-64 and 64-bit Arm",
    "GPU": "an Intel GPU needs Intel's compute runtime (packages intel-opencl-icd and "
    "libze-intel-gpu1) and a user in the group render",
    "NPU": "it needs an Intel Core Ultra, Intel's NPU driver (linux-npu-driver) and a user in "
    "the group render",
}
_PRECISION = {"f32": "FP32", "f16": "FP16", "bf16": "BF16"}


@dataclasses.dataclass(frozen=True)
class _Compiled:
    """A network compiled for the device, after at least one inference.

    Attributes:
      request: request that infers it.
      attribution: mapping of its steps to layers.
      setup: setup of its measurements.
      executed: names of all steps ever reported as executed. A step that takes less than the
        counter's microsecond on average is reported as not executed.
    """

    request: openvino.InferRequest
    attribution: Attribution
    setup: Setup
    executed: set[str]


class OpenVinoDevice:
    """The device CPU, GPU or NPU; a name such as GPU.1 selects one of several.

    Measures networks of static shape, one request at a time. Not thread-safe.
    """

    repeats = PASSES

    def __init__(self, name: str, options: Options, precision: str | None = None):
        """Finds the device and runs one inference on it.

        Args:
          name: OpenVINO's name for the device.
          options: options, of which `threads` applies to the CPU.
          precision: `f32` or another of OpenVINO's type names; None leaves it to OpenVINO.

        Raises:
          DeviceUnavailable: the device is missing or fails; the message lists the devices found or
            the error, and the remedy.
        """
        self._name = name
        self._kind = name.split(".")[0]
        self._core = openvino.Core()
        available = self._core.available_devices
        if not any(
            name in (device, f"{device}.0") or device.startswith(f"{name}.") for device in available
        ):
            raise DeviceUnavailable(
                f"OpenVINO {openvino.get_version()} finds no {name}, it finds "
                f"{', '.join(available) or 'none'}. For {self._kind}: {_REMEDY[self._kind]}."
            )
        self._config = {"PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True}
        if options.threads is not None and self._kind == "CPU":
            self._config["INFERENCE_NUM_THREADS"] = options.threads
        if precision is not None:
            self._config["INFERENCE_PRECISION_HINT"] = precision
        self._compiled: collections.OrderedDict[bytes, _Compiled] = collections.OrderedDict()
        image = opset13.parameter([1, 3, 32, 32], np.float32)
        try:
            compiled = self._core.compile_model(
                openvino.Model([opset13.relu(image)], [image]), name, self._config
            )
            compiled.create_infer_request().infer()
        except RuntimeError as error:
            raise DeviceUnavailable(
                f"{name} was found but an inference failed: {_message(error)}. For "
                f"{self._kind}: {_REMEDY[self._kind]}."
            ) from error
        self.setup = self._setup(compiled)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._compiled.clear()

    def measure(self, model: bytes) -> Measurement:
        """Measures an ONNX network of static shape; compiles it unless a recent call did.

        The counters do not quite add up to the latency, because of work between the layers: the
        CPU's own, or that of host and bus for an accelerator. Layers are scaled to add up to it.

        Raises:
          CompileError: OpenVINO refuses the network, with its message; or an input has a dynamic
            shape or is text.
          DeviceUnavailable: the device fails during inference.
        """
        network = self._network(model)
        try:
            times_ms = _time(network.request)
            steps = network.request.profiling_info
        except RuntimeError as error:
            raise DeviceUnavailable(
                f"{self._name} failed during inference: {_message(error)}"
            ) from error
        network.executed.update(_executed(steps))
        counters: collections.defaultdict[str, float] = collections.defaultdict(float)
        for step in steps:
            if step.node_name in network.executed:
                counters[step.node_name] += 1e3 * step.real_time.total_seconds()
        layers = network.attribution.layers(counters)
        latency_ms, p10_ms, p90_ms = np.percentile(times_ms, [50, 10, 90]).tolist()
        factor = latency_ms / sum(layer.ms for layer in layers) if layers else 0.0
        return Measurement(
            network.setup,
            latency_ms,
            p10_ms,
            p90_ms,
            len(times_ms),
            tuple(LayerTime(layer.name, layer.ms * factor) for layer in layers),
            host_ms=0.0 if layers else latency_ms,
        )

    def scores(self, file: pathlib.Path, images: Iterable[np.ndarray]) -> np.ndarray:
        """See `Executor.scores`; OpenVINO chooses how many requests run at once."""
        images = iter(images)
        first = next(images)
        config = {**self._config, "PERFORMANCE_HINT": "THROUGHPUT", "PERF_COUNT": False}
        try:
            network = self._core.read_model(file)
            if network.is_dynamic():
                network.reshape([1, *first.shape])
            compiled = self._core.compile_model(network, self._name, config)
        except RuntimeError as error:
            raise CompileError(f"{self._name} refuses {file}: {_message(error)}") from error
        most = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        running: collections.deque[openvino.InferRequest] = collections.deque()
        scores: list[np.ndarray] = []

        def finish_oldest() -> openvino.InferRequest:
            request = running.popleft()
            request.wait()
            scores.append(request.get_output_tensor().data.astype(np.float32).ravel())
            return request

        # No AsyncInferQueue: its callbacks need the interpreter's lock in OpenVINO's threads, which
        # may still wait for it when this thread, with the lock, waits for them to end.
        try:
            for image in itertools.chain([first], images):
                request = (
                    finish_oldest() if len(running) == most else compiled.create_infer_request()
                )
                request.start_async([image[None]])
                running.append(request)
            while running:
                finish_oldest()
        except RuntimeError as error:
            raise DeviceUnavailable(
                f"{self._name} failed during inference: {_message(error)}"
            ) from error
        return np.stack(scores)

    def _network(self, model: bytes) -> _Compiled:
        """Returns the compiled network from a cache of the MAX_COMPILED most recently used."""
        digest = hashlib.sha256(model).digest()
        if digest not in self._compiled:
            self._compiled[digest] = self._compile(model)
            if len(self._compiled) > MAX_COMPILED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(digest)
        return self._compiled[digest]

    def _compile(self, model: bytes) -> _Compiled:
        """Compiles a network and runs its first inference; raises CompileError."""
        try:
            network = self._core.read_model(model)
        except RuntimeError as error:
            raise CompileError(f"OpenVINO cannot read the network: {_message(error)}") from error
        dynamic = [
            f"{value.get_any_name()} {value.get_partial_shape()}"
            for value in network.inputs
            if value.get_partial_shape().is_dynamic
        ]
        if dynamic:
            raise CompileError(
                f"the network has inputs of dynamic shape: {', '.join(dynamic)}; "
                f"export it with fixed sizes and batch 1"
            )
        text = [
            value.get_any_name()
            for value in network.inputs
            if value.get_element_type() == openvino.Type.string
        ]
        if text:
            raise CompileError(
                f"the network has text inputs: {', '.join(text)}; give one whose inputs are numbers"
            )
        try:
            compiled = self._core.compile_model(network, self._name, self._config)
            request = compiled.create_infer_request()
            _fill(request)
            request.infer()
            # The GPU's runtime model is complete only after an inference.
            runtime = compiled.get_runtime_model()
        except RuntimeError as error:
            raise CompileError(f"{self._name} refuses the network: {_message(error)}") from error
        return _Compiled(
            request,
            Attribution(onnx.load_model_from_string(model), runtime),
            self._setup(compiled),
            _executed(request.profiling_info),
        )

    def _setup(self, compiled: openvino.CompiledModel) -> Setup:
        versions = {"openvino": openvino.get_version()}
        for key in self._core.get_property(self._name, "SUPPORTED_PROPERTIES"):
            if key.endswith("DRIVER_VERSION"):
                versions["driver"] = str(self._core.get_property(self._name, key))
        precision = "FP16"  # of the NPU, which has no such property
        if "INFERENCE_PRECISION_HINT" in compiled.get_property("SUPPORTED_PROPERTIES"):
            type_name = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
            precision = _PRECISION.get(type_name, type_name)
        threads = (
            {"threads": compiled.get_property("INFERENCE_NUM_THREADS")}
            if self._kind == "CPU"
            else {}
        )
        return Setup(
            self._kind,
            "measured",
            self._core.get_property(self._name, "FULL_DEVICE_NAME"),
            precision,
            versions,
            threads,
        )


def _fill(request: openvino.InferRequest) -> None:
    """Fills the request's own tensors with random images, which saves accelerators a copy."""
    rng = np.random.default_rng(0)
    for tensor in request.input_tensors:
        if tensor.element_type.is_real():
            tensor.data[...] = rng.random(tensor.shape, np.float32)
        elif tensor.element_type == openvino.Type.u8:
            tensor.data[...] = rng.integers(0, 256, tensor.shape, np.uint8)
        else:
            tensor.data[...] = 0


def _time(request: openvino.InferRequest) -> list[float]:
    """Returns the milliseconds of single inferences after an untimed one."""
    request.infer()
    times_ms: list[float] = []
    end = time.perf_counter() + TIMED_S
    while len(times_ms) < MIN_COUNT or time.perf_counter() < end:
        start = time.perf_counter()
        request.infer()
        times_ms.append(1e3 * (time.perf_counter() - start))
    return times_ms


def _executed(steps: Sequence[openvino.ProfilingInfo]) -> set[str]:
    return {step.node_name for step in steps if step.status == step.Status.EXECUTED}


def _message(error: RuntimeError) -> str:
    """Returns OpenVINO's error message on one line, without locations in its source code."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(
        line for line in lines if line and not line.startswith(("Exception from src/", "Check '"))
    ) or " ".join(lines)
