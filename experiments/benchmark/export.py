"""Part `export`: time to export a network, and latency of the exported IR on OpenVINO's CPU."""

import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmark.timing import in_turn, summary
from jaxnas import export
from jaxnas.network import Network
from jaxnas.openvino_package import openvino
from jaxnas.zoo import find_network

NETWORKS = ("mobilenet_v2", "proxyless_mobile")
PRECISIONS = ("f32", "bf16")
_HINTS = {"PERFORMANCE_HINT": "LATENCY"}
_WARMUP = 20  # untimed inferences of each compiled model


def exported(
    folder: pathlib.Path, image_size: int, rounds: int, networks: tuple[str, ...] = NETWORKS
) -> dict[str, Any]:
    """Exports published networks and times single requests of their IR files, interleaved.

    The files stay in the folder, so that files of another exporter can be timed beside them.

    Args:
      folder: folder of the files, created if missing.
      image_size: deployment size in px.
      rounds: number of timed inferences of each network in each precision.
      networks: names of published networks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    core = openvino.Core()
    calls: dict[tuple[str, str], Callable[[], None]] = {}
    rows: dict[str, dict[str, Any]] = {}
    image = np.random.default_rng(0).integers(0, 256, (1, 3, image_size, image_size), np.uint8)
    for name in networks:
        network = Network(find_network(name), rng=np.random.default_rng(0))
        start = time.perf_counter()
        model = export.to_onnx(network, image_size)
        exported_at = time.perf_counter()
        xml = folder / f"{name}.xml"
        export.save(model, folder / f"{name}.onnx", xml)
        rows[name] = {
            "to_onnx_s": exported_at - start,
            "to_ir_s": time.perf_counter() - exported_at,
        }
        for precision in PRECISIONS:
            request = core.compile_model(
                xml, "CPU", {**_HINTS, "INFERENCE_PRECISION_HINT": precision}
            ).create_infer_request()
            request.set_tensor(export.INPUT, openvino.Tensor(image))
            for _ in range(_WARMUP):
                request.infer()
            calls[name, precision] = functools.partial(_infer, request)
    for (name, precision), times_ms in in_turn(calls, rounds).items():
        rows[name][precision] = summary(times_ms)
    return {"image_size": image_size, "networks": rows}


def _infer(request: openvino.InferRequest) -> None:
    request.infer()
