"""Server for OpenVINO 2021.4.2 over a pipe: one JSON request per line in, one JSON answer out.

It compiles networks for the MyriadX, times them on a device and runs them. It needs CPython 3.8 or
3.9 and openvino 2021.4.2, the last wheel with the MYRIAD plugin, and imports nothing else except
numpy, which openvino requires. This file alone can thus be started on another host. Messages
contain models, graphs and blobs themselves, never their paths.

    {"id": 1, "method": "hello"}
    {"id": 2, "method": "compile", "model": "<base64 ONNX>", "shaves": 6}
    {"id": 3, "method": "devices"}
    {"id": 4, "method": "infer", "model": "<base64 ONNX>", "shaves": 6, "device": "MYRIAD",
     "count": 100, "seconds": 10, "wait_s": 15}
    {"id": 5, "method": "scores", "model": "<base64 ONNX>", "shaves": 6, "device": "MYRIAD",
     "images": "<base64>", "dtype": "uint8", "wait_s": 15}

    {"id": 2, "ok": true, "graph": "digraph ...", "layers": {"name": [[1, 16, 112, 112]], ...},
     "blob": "<base64>", "versions": {...}}
    {"id": 2, "ok": false, "error": {"kind": "compile", "message": "...", "layer": "..."}}

Error kinds: "request" (the message is wrong), "model" (OpenVINO cannot read the model as ONNX),
"compile" (the compiler refuses the network; the message is its own), "device" (the device is absent
or failed), "library" (OpenVINO, its plugin or libusb cannot be loaded), "system" (files, memory).
The process ends when its input ends. The kernel ends it when a request takes longer than its
"deadline_s", since on another host the client cannot.
"""

import base64
import binascii
import contextlib
import hashlib
import json
import math
import os
import platform
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree

PROTOCOL = 4

# The plugin compiles, writes the graph and the blob, and then fails to create an inference request
# because no device was opened. Only this message means that the compilation succeeded.
COMPILED_WITHOUT_DEVICE = "there is no available devices"
FIRMWARE = "usb-ma2x8x.mvcmd"
# Phrases in error messages of the plugin and lower layers about the device, not the network.
DEVICE_WORDS = re.compile(r"\bNC_[A-Z]|\bX_?LINK|Myriad device|available device|devices available")


class Refused(Exception):
    """An error that is sent as the answer to a request."""

    def __init__(self, kind, message, layer=None):
        super().__init__(message)
        self.kind = kind
        self.layer = layer


def load_engine():
    """Returns a new IECore. The late import turns a missing library into an error answer."""
    try:
        from openvino.inference_engine import IECore
    except ImportError as error:
        raise Refused("library", f"cannot import openvino.inference_engine: {error}") from error
    return IECore()


def versions(engine):
    """Loads the plugin, and with it libusb, and returns the versions of the software.

    The plugin does not report the version of the stick's firmware. It boots the stick from a file
    in its own folder, so the digest of that file identifies the firmware.
    """
    from openvino import inference_engine

    try:
        plugin = engine.get_versions("MYRIAD")["MYRIAD"]
    except RuntimeError as error:
        raise Refused("library", f"cannot load the MYRIAD plugin: {error}") from error
    return {
        "python": platform.python_version(),
        "openvino": inference_engine.get_version(),
        "plugin": f"{plugin.major}.{plugin.minor}.{plugin.build_number}",
        "firmware": firmware(os.path.dirname(os.path.dirname(inference_engine.__file__))),
    }


def firmware(package):
    """Returns name and digest of the firmware in the wheel; "unknown" for other packages."""
    path = os.path.join(package, "libs", FIRMWARE)
    if not os.path.exists(path):
        return "unknown"
    with open(path, "rb") as file:
        return f"{FIRMWARE} sha256 {hashlib.sha256(file.read()).hexdigest()[:16]}"


def hello(request):
    """Returns the protocol number and the versions; fails if the plugin does not load."""
    return {"protocol": PROTOCOL, "versions": versions(load_engine())}


def compile_model(request):
    """Compiles an ONNX network for the MyriadX; needs no device and opens none.

    Image inputs are 8-bit pixels, as a camera sends them, and outputs are FP16.
    """
    shaves = read_number(request, "shaves", int, or_null=True)
    with prepared(request) as (engine, network, folder):
        found = versions(engine)
        layers = layers_read(network, folder)
        take_pixels(network)
        give_fp16(network)
        cache_folder = os.path.join(folder, "cache")
        os.mkdir(cache_folder)
        engine.set_config({"CACHE_DIR": cache_folder}, "")
        try:
            engine.load_network(
                network,
                "MYRIAD",
                {
                    **schedule_config(folder, shaves),
                    "VPU_MYRIAD_PLATFORM": "VPU_MYRIAD_2480",
                    # Before it compiles, the plugin searches for a device: a busy wait of 5 s
                    # under a system-wide lock. It sets this timeout first. A negative timeout is
                    # refused, and the plugin then skips the search. The blob is identical to the
                    # byte, and the graph except for addresses in its names. A plugged-in stick is
                    # not opened.
                    "MYRIAD_DEVICE_CONNECT_TIMEOUT": "-1",
                },
            )
        except RuntimeError as error:
            if COMPILED_WITHOUT_DEVICE not in str(error) or not os.path.exists(graph_path(folder)):
                message = str(error).strip()
                raise Refused("compile", message, layer_named(message)) from error
        blob = read_blob(cache_folder)
        return {
            "graph": read_graph(folder),
            "layers": layers,
            "versions": found,
            "blob": base64.b64encode(blob).decode("ascii"),
        }


def devices(request):
    """Returns the full name of each stick and of the CPU, by device name."""
    engine = load_engine()
    return {
        "devices": {
            name: engine.get_metric(name, "FULL_DEVICE_NAME") for name in device_names(engine)
        }
    }


def infer(request):
    """Times single inferences as benchmark_app does: one untimed, then one after the other.

    As in benchmark_app, inputs are fixed random numbers and images are 8-bit. A stick's outputs are
    FP16, as in the blob of compile. The runtime measures latency from the start of the request to
    its end, without Python. Counters are read after each inference, outside of that time. A layer's
    time is the median of its counters, and the client takes the median of the latencies, so that a
    single outlier affects neither. The CPU plugin's counters are averages since the load.
    """
    device = request.get("device")
    if not isinstance(device, str) or not device:
        raise Refused("request", f"device is {device!r}; allowed: a name that devices returns")
    shaves = read_number(request, "shaves", int, or_null=True)
    count = read_number(request, "count", int)
    seconds = read_number(request, "seconds", (int, float))
    wait_s = read_number(request, "wait_s", (int, float))
    with prepared(request) as (engine, network, folder):
        wait_for(engine, device, wait_s)
        on_stick = is_stick(device)
        config = dict(device_config(device, folder, shaves), PERF_COUNT="YES")
        if on_stick:
            # Per stage, since per layer the plugin merges the conversions of input and output.
            config["MYRIAD_PERF_REPORT_MODE"] = "MYRIAD_PER_STAGE"
            give_fp16(network)
        take_pixels(network)
        executable = loaded(engine, network, device, config)
        try:
            before = temperature_c(executable)
            latency_ms, counters = time_inferences(executable.requests[0], count, seconds)
            after = temperature_c(executable)
        except RuntimeError as error:
            raise Refused("device", str(error).strip()) from error
        return {
            "latency_ms": latency_ms,
            "counters": counters,
            "temperature_c": [before, after],
            "graph": read_graph(folder) if on_stick else None,
            "originals": {} if on_stick else original_layers(executable, folder),
        }


def scores(request):
    """Returns the output for each image, one inference per image.

    The network must have one input and one output. The request contains the images one after the
    other, each of the input's shape, as uint8 pixels or float32 numbers.
    """
    import numpy

    device = request.get("device")
    shaves = read_number(request, "shaves", int, or_null=True)
    wait_s = read_number(request, "wait_s", (int, float))
    if request.get("dtype") not in ("uint8", "float32"):
        raise Refused("request", f"dtype is {request.get('dtype')!r}; allowed: uint8 and float32")
    with prepared(request) as (engine, network, folder):
        if len(network.input_info) != 1 or len(network.outputs) != 1:
            raise Refused(
                "compile",
                f"the network has {len(network.input_info)} inputs and "
                f"{len(network.outputs)} outputs; give a network with one of each",
            )
        ((name, info),) = network.input_info.items()
        shape = info.input_data.shape
        images = numpy.frombuffer(decode(request, "images"), request["dtype"])
        if images.size % numpy.prod(shape):
            raise Refused(
                "request",
                f"the images have {images.size} elements, not a multiple of the input's {shape}",
            )
        info.precision = "U8" if request["dtype"] == "uint8" else "FP32"
        wait_for(engine, device, wait_s)
        executable = loaded(engine, network, device, device_config(device, folder, shaves))
        try:
            outputs = [
                list(executable.infer({name: image}).values())[0].ravel()
                for image in images.reshape(-1, *shape)
            ]
        except RuntimeError as error:
            raise Refused("device", str(error).strip()) from error
        content = numpy.float32(outputs).tobytes()
        return {"scores": base64.b64encode(content).decode("ascii"), "count": len(outputs)}


def take_pixels(network):
    """Makes image inputs 8-bit, as benchmark_app does, which detects images in the same way."""
    for info in network.input_info.values():
        is_image = info.layout == "NCHW" and info.input_data.shape[1] == 3
        if is_image and info.precision.startswith("FP"):
            info.precision = "U8"


def give_fp16(network):
    """Makes FP32 outputs FP16, which is what the MyriadX computes."""
    for output in network.outputs.values():
        if output.precision == "FP32":
            output.precision = "FP16"


def loaded(engine, network, device, config):
    """Loads a network onto an available device."""
    try:
        return engine.load_network(network, device, config, num_requests=1)
    except RuntimeError as error:
        message = str(error).strip()
        kind = "device" if DEVICE_WORDS.search(message) else "compile"
        raise Refused(kind, message, layer_named(message)) from error


def time_inferences(request, count, seconds):
    """Returns the latency of each inference in ms, and the counters in order of execution."""
    import numpy

    random = numpy.random.RandomState(0)
    for blob in request.input_blobs.values():
        blob.buffer[:] = random.uniform(0, 256, blob.buffer.shape).astype(blob.buffer.dtype)
    request.infer()
    latency_ms, times_us, counters = [], {}, {}
    end_s = time.monotonic() + seconds
    while len(latency_ms) < count and (not latency_ms or time.monotonic() < end_s):
        request.infer()
        latency_ms.append(request.latency)
        for name, counter in request.get_perf_counts().items():
            if counter["status"] == "EXECUTED":
                times_us.setdefault(name, []).append(counter["real_time"])
                counters[name] = counter
    order = sorted(counters, key=lambda name: counters[name]["execution_index"])
    return latency_ms, [
        {
            "name": name,
            "type": counters[name]["layer_type"],
            "ms": statistics.median(times_us[name]) / 1000,
        }
        for name in order
    ]


def layers_read(network, folder):
    """Returns the shapes of each layer's outputs as OpenVINO read the network: {name: [shapes]}."""
    path = os.path.join(folder, "read.xml")
    network.serialize(path, os.path.join(folder, "read.bin"))
    return {
        layer.get("name"): [
            [int(dim.text) for dim in port.iter("dim")] for port in layer.findall("output/port")
        ]
        for layer in xml.etree.ElementTree.parse(path).getroot().iter("layer")
    }


def original_layers(executable, folder):
    """Returns the network's layers behind each layer of the CPU plugin: {name: [names]}.

    The names are followed by those of the next layer in the chain that has any. A layer that the
    plugin inserted, such as a conversion, thereby counts for the layer that it feeds.
    """
    path = os.path.join(folder, "execution.xml")
    executable.get_exec_graph_info().serialize(path, os.path.join(folder, "execution.bin"))
    graph = xml.etree.ElementTree.parse(path).getroot()
    names = {layer.get("id"): layer.get("name") for layer in graph.iter("layer")}
    originals = {
        layer.get("id"): layer.find("data").get("originalLayersNames", "")
        for layer in graph.iter("layer")
    }
    feeds = {edge.get("from-layer"): edge.get("to-layer") for edge in graph.iter("edge")}
    found = {}
    for layer, name in names.items():
        fed = feeds.get(layer)
        while fed is not None and not originals[fed]:
            fed = feeds.get(fed)
        found[name] = ",".join((originals[layer], originals.get(fed, ""))).split(",")
    return found


def temperature_c(executable):
    """Returns the device's temperature, or None if the device does not report it."""
    if "DEVICE_THERMAL" not in executable.get_metric("SUPPORTED_METRICS"):
        return None
    return float(executable.get_metric("DEVICE_THERMAL"))


def device_names(engine):
    """Returns the names of the sticks that can be opened, and CPU."""
    try:
        return [f"MYRIAD.{stick}" for stick in engine.get_metric("MYRIAD", "AVAILABLE_DEVICES")] + [
            "CPU"
        ]
    except RuntimeError as error:
        raise Refused("library", f"cannot load the MYRIAD plugin: {error}") from error


def wait_for(engine, device, wait_s):
    """Waits until a device is listed, since a stick disappears while it reboots after a fault."""
    end_s = time.monotonic() + wait_s
    while True:
        names = device_names(engine)
        if any(name == device or name.startswith(device + ".") for name in names):
            return
        if time.monotonic() >= end_s:
            raise Refused("device", f"{device} was not found; available: {', '.join(names)}")
        time.sleep(0.5)


@contextlib.contextmanager
def prepared(request):
    """Reads a request's network; yields an engine, the network and a folder for one request.

    The engine is new for each request, since the cache folder is a setting of the engine and is new
    each time, and since the end of an engine releases its stick.
    """
    model = decode_model(request)
    engine = load_engine()
    with tempfile.TemporaryDirectory(prefix="jaxnas-myriad-") as folder:
        model_path = os.path.join(folder, "model.onnx")
        with open(model_path, "wb") as file:
            file.write(model)
        yield engine, read_network(engine, model_path), folder


def read_number(request, name, types, or_null=False):
    """Returns a number in a request; None only if or_null."""
    value = request.get(name)
    if value is None and or_null:
        return None
    if isinstance(value, bool) or not isinstance(value, types):
        allowed = "a whole number" if types is int else "a number"
        raise Refused("request", f"{name} is {value!r}; allowed: {'null or ' * or_null}{allowed}")
    return value


def decode(request, name):
    """Returns the bytes of a base64 field in a request."""
    try:
        return base64.b64decode(request[name], validate=True)
    except KeyError as error:
        raise Refused("request", f'the request needs "{name}", base64') from error
    except (TypeError, ValueError, binascii.Error) as error:
        raise Refused("request", f'"{name}" is not base64: {error}') from error


def decode_model(request):
    """Returns the bytes of the ONNX model in a request."""
    model = decode(request, "model")
    if not model:
        raise Refused("model", "the model is empty; give the bytes of an ONNX file")
    return model


def read_network(engine, model_path):
    """Reads an ONNX file; OpenVINO accepts bytes only in its own format."""
    try:
        return engine.read_network(model_path)
    except RuntimeError as error:
        message = str(error).strip()
        if "Unknown model format" in message:
            message = "the model is not an ONNX file"
        else:
            message = "OpenVINO cannot read this ONNX file: " + message
        raise Refused("model", message, layer_named(message)) from error


def is_stick(device):
    """Returns whether a name that `devices` returns is a stick's, and not the CPU's."""
    return device.split(".")[0] == "MYRIAD"


def device_config(device, folder, shaves):
    """Returns the options with which a device runs a network in the precision of its kind."""
    if is_stick(device):
        return schedule_config(folder, shaves)
    # On a processor with bfloat16 the CPU plugin would compute in it.
    return {"ENFORCE_BF16": "NO"}


def schedule_config(folder, shaves):
    """Returns the plugin's options that set the schedule and write its graph into the folder."""
    config = {
        "MYRIAD_DUMP_INTERNAL_GRAPH_FILE_NAME": graph_path(folder),
        # Otherwise the plugin rewrites the graph after each of its 38 passes.
        "MYRIAD_DUMP_ALL_PASSES": "NO",
    }
    if shaves is not None:
        config["MYRIAD_NUMBER_OF_SHAVES"] = str(shaves)
        config["MYRIAD_NUMBER_OF_CMX_SLICES"] = str(shaves)
        # By default, two streams share the chip, which has too few SHAVEs for 9 or more per stream.
        config["MYRIAD_THROUGHPUT_STREAMS"] = "1"
    return config


def graph_path(folder):
    return os.path.join(folder, "stages.dot")


def read_graph(folder):
    """Returns the stage graph that the compiler wrote."""
    with open(graph_path(folder), encoding="utf-8") as file:
        return file.read()


def layer_named(message):
    """Returns the layer that a message of the compiler names, or None."""
    match = re.search(r'layer "([^"]+)"', message)
    return match.group(1) if match else None


def read_blob(cache_folder):
    """Returns the compiled ELF without the XML line that OpenVINO's cache prepends."""
    names = [name for name in os.listdir(cache_folder) if name.endswith(".blob")]
    if len(names) != 1:
        raise Refused("compile", f"expected one blob, the compiler wrote {names}")
    with open(os.path.join(cache_folder, names[0]), "rb") as file:
        file.readline()
        blob = file.read()
    if not blob.startswith(b"\x7felf"):
        raise Refused("compile", f"the compiler's blob is not an ELF file: {blob[:16]!r}")
    return blob


METHODS = {
    "hello": hello,
    "compile": compile_model,
    "devices": devices,
    "infer": infer,
    "scores": scores,
}


def answer(line):
    """Returns the answer to one line; an error in a request becomes an error answer."""
    request_id = None
    try:
        try:
            request = json.loads(line.decode("utf-8"))
        except ValueError as error:
            raise Refused("request", f"the line is not JSON: {error}") from error
        if not isinstance(request, dict):
            raise Refused("request", f"a request is an object, not {type(request).__name__}")
        request_id = request.get("id")
        method = request.get("method")
        if not isinstance(method, str) or method not in METHODS:
            allowed = ", ".join(sorted(METHODS))
            raise Refused("request", f"unknown method {method!r}; allowed: {allowed}")
        # The kernel ends the process even if native code hangs and no signal handler can run.
        deadline_s = read_number(request, "deadline_s", (int, float), or_null=True)
        signal.alarm(math.ceil(deadline_s or 0))
        result = METHODS[method](request)
    except Refused as error:
        fault = {"kind": error.kind, "message": str(error), "layer": error.layer}
    except (OSError, MemoryError, RuntimeError, ValueError) as error:
        fault = {"kind": "system", "message": f"{type(error).__name__}: {error}"}
    else:
        return dict(result, id=request_id, ok=True)
    finally:
        signal.alarm(0)
    return {"id": request_id, "ok": False, "error": fault}


def end_with_parent():
    """Ends this process a second after its parent: during an inference nothing reads the input."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main():
    """Serves until the input ends."""
    end_with_parent()
    # Native code prints to descriptor 1, so only answers use the real standard output.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        answers.write(json.dumps(answer(line)).encode("utf-8") + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
