"""The MyriadX compiler behind a pipe: one JSON request a line in, one JSON answer a line out.

Runs on CPython 3.8 and 3.9 with openvino 2021.4.2, the last wheel that holds the MYRIAD plugin,
and imports nothing else: the file alone can be started on another host. Models, graphs and blobs
therefore travel inside the messages, never as paths.

    {"id": 1, "method": "hello"}
    {"id": 2, "method": "compile", "model": "<base64 ONNX>", "shaves": 6}

    {"id": 2, "ok": true, "graph": "digraph ...", "blob": "<base64>", "versions": {...}}
    {"id": 2, "ok": false, "error": {"kind": "compile", "message": "...", "layer": "..."}}

Error kinds: "request" (the message is wrong), "model" (OpenVINO cannot read it as ONNX), "compile"
(the compiler refuses the network, in its own words), "library" (OpenVINO, its plugin or libusb
cannot be loaded), "system" (files, memory). The process ends when its input ends.
"""

import base64
import binascii
import json
import os
import platform
import re
import sys
import tempfile

PROTOCOL = 1

# The plugin compiles, writes the graph and the blob, and then fails to make an inference request
# because no device was opened. Only this message means that the compilation itself went well.
COMPILED_WITHOUT_DEVICE = "there is no available devices"


class Refused(Exception):
    """A request that gets an error answer."""

    def __init__(self, kind, message, layer=None):
        super().__init__(message)
        self.kind = kind
        self.layer = layer


def load_engine():
    """Returns a fresh IECore; imported late so that a missing library becomes an answer."""
    try:
        from openvino.inference_engine import IECore
    except ImportError as error:
        raise Refused("library", f"cannot import openvino.inference_engine: {error}") from error
    return IECore()


def versions(engine):
    """Loads the plugin (and with it libusb) and returns what runs here."""
    from openvino.inference_engine import get_version

    try:
        plugin = engine.get_versions("MYRIAD")["MYRIAD"]
    except RuntimeError as error:
        raise Refused("library", f"cannot load the MYRIAD plugin: {error}") from error
    return {
        "python": platform.python_version(),
        "openvino": get_version(),
        "plugin": f"{plugin.major}.{plugin.minor}.{plugin.build_number}",
    }


def hello(request):
    """Returns the protocol number and the versions; fails where compiling could not work."""
    return {"protocol": PROTOCOL, "versions": versions(load_engine())}


def compile_model(request):
    """Compiles an ONNX network for the MyriadX; needs no device and opens none."""
    model = decode_model(request)
    shaves = request.get("shaves")
    if shaves is not None and (isinstance(shaves, bool) or not isinstance(shaves, int)):
        raise Refused("request", f"shaves is {shaves!r}; allowed: null or a whole number")
    # A fresh engine, since the cache folder is a setting of the engine and is new each time.
    engine = load_engine()
    with tempfile.TemporaryDirectory(prefix="jaxnas-myriad-") as folder:
        model_path = os.path.join(folder, "model.onnx")
        graph_path = os.path.join(folder, "stages.dot")
        cache_folder = os.path.join(folder, "cache")
        os.mkdir(cache_folder)
        with open(model_path, "wb") as file:
            file.write(model)
        found = versions(engine)
        network = read_network(engine, model_path)
        engine.set_config({"CACHE_DIR": cache_folder}, "")
        try:
            engine.load_network(network, "MYRIAD", compiler_config(graph_path, shaves))
        except RuntimeError as error:
            if COMPILED_WITHOUT_DEVICE not in str(error) or not os.path.exists(graph_path):
                words = str(error).strip()
                raise Refused("compile", words, layer_named(words)) from error
        with open(graph_path, encoding="utf-8") as file:
            graph = file.read()
        blob = read_blob(cache_folder)
    return {"graph": graph, "blob": base64.b64encode(blob).decode("ascii"), "versions": found}


def decode_model(request):
    """Returns the ONNX bytes of a request."""
    try:
        model = base64.b64decode(request["model"], validate=True)
    except KeyError as error:
        raise Refused("request", 'a request to compile needs "model", base64 of ONNX') from error
    except (TypeError, ValueError, binascii.Error) as error:
        raise Refused("request", f'"model" is not base64: {error}') from error
    if not model:
        raise Refused("model", "the model is empty; give the bytes of an ONNX file")
    return model


def read_network(engine, model_path):
    """Reads the ONNX file. OpenVINO takes bytes only for its own format, hence the file."""
    try:
        return engine.read_network(model_path)
    except RuntimeError as error:
        words = str(error).strip()
        if "Unknown model format" in words:
            words = "the model is not an ONNX file"
        else:
            words = "OpenVINO cannot read this ONNX file: " + words
        raise Refused("model", words, layer_named(words)) from error


def compiler_config(graph_path, shaves):
    """Returns the plugin's options for compiling without a device."""
    config = {
        "VPU_MYRIAD_PLATFORM": "VPU_MYRIAD_2480",
        "MYRIAD_DUMP_INTERNAL_GRAPH_FILE_NAME": graph_path,
        # Or the plugin writes the graph again after each of its 38 passes.
        "MYRIAD_DUMP_ALL_PASSES": "NO",
        # Before compiling, the plugin looks for a device: 5 s, busy, holding a lock of the whole
        # system. It sets this timeout first and gives the device up at once if it is refused,
        # as a negative one is. The blob is the same byte for byte, the graph but for addresses in
        # its names. A stick that is plugged in stays untouched.
        "MYRIAD_DEVICE_CONNECT_TIMEOUT": "-1",
    }
    if shaves is not None:
        config["MYRIAD_NUMBER_OF_SHAVES"] = str(shaves)
        config["MYRIAD_NUMBER_OF_CMX_SLICES"] = str(shaves)
        # By default two streams share the chip, and 9 shaves for each would be too many.
        config["MYRIAD_THROUGHPUT_STREAMS"] = "1"
    return config


def layer_named(words):
    """Returns the layer that the compiler's words name, or None."""
    match = re.search(r'layer "([^"]+)"', words)
    return match.group(1) if match else None


def read_blob(cache_folder):
    """Returns the compiled ELF without the XML line that OpenVINO's cache puts before it."""
    names = [name for name in os.listdir(cache_folder) if name.endswith(".blob")]
    if len(names) != 1:
        raise Refused("compile", f"expected one blob, the compiler left {names}")
    with open(os.path.join(cache_folder, names[0]), "rb") as file:
        file.readline()
        blob = file.read()
    if not blob.startswith(b"\x7felf"):
        raise Refused("compile", f"the compiler's blob does not start as one: {blob[:16]!r}")
    return blob


METHODS = {"hello": hello, "compile": compile_model}


def answer(line):
    """Returns the answer to one line; every fault of a request becomes an error answer."""
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
        result = METHODS[method](request)
    except Refused as error:
        fault = {"kind": error.kind, "message": str(error), "layer": error.layer}
    except (OSError, MemoryError, RuntimeError, ValueError) as error:
        fault = {"kind": "system", "message": f"{type(error).__name__}: {error}"}
    else:
        return dict(result, id=request_id, ok=True)
    return {"id": request_id, "ok": False, "error": fault}


def main():
    """Serves until the input ends."""
    # Native code prints to descriptor 1; the answers keep the real output to themselves.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        answers.write(json.dumps(answer(line)).encode("utf-8") + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
