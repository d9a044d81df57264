"""Calibrates the MyriadX cost model and reports its errors.

    python -m profiling.myriad.calibrate

compiles four public networks whose layers were timed on a Neural Compute Stick 2, fits the cost of
each kind of stage, and writes calibration.json and docs/myriadx_calibration.md with its figure.
Errors of a network come from the fit to the other networks. Further errors come from data that no
fit uses: depthwise and fully connected layers, two networks of the MyriadX poster, ResNet-18 and
MobileOne-S0.
"""

import csv
import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
import onnx
from absl import flags
from scipy import stats

from jaxnas import export
from jaxnas.network import Network
from jaxnas.zoo import find_network
from profiling import command
from profiling.myriad import calibration_report
from profiling.myriad.calibration import CALIBRATION, KINDS, Calibration
from profiling.myriad.client import Worker
from profiling.myriad.coefficient_fit import Timed, fit, left_out
from profiling.myriad.cost import estimate_stages, layer_kinds
from profiling.myriad.public_networks import PUBLIC_NETWORKS, depthwise, resnet_18
from profiling.myriad.stages import Stage, parse

COUNTERS = pathlib.Path(__file__).with_name("public_counters.csv")
HOST_MS = 1.3

SOURCES = {
    "counters": "Per-layer counters of Inception v1, v3, v4 and ResNet-50 on a Neural Compute "
    "Stick 2, OpenVINO 2019: embedded-machine-learning/inference_modules.",
    "coefficients": "Non-negative least squares over those layers; `python -m "
    "profiling.myriad.calibrate` writes this file.",
    "host_ms": "Time that host and USB add to tiny networks in public measurements of a Neural "
    "Compute Stick 2. A larger input takes longer.",
    "error_percent": "Half the interval from p10 to p90 of the time of all layers of a kind, from "
    "Student's t distribution over the errors of the four networks, each estimated by the fit to "
    "the other three; for depthwise convolutions over six single layers that no fit uses.",
}
# Counters without a stage: the compiler of 2019 permuted before the softmax, 2021.4.2 does not.
NO_LONGER_THERE = (
    "InceptionV1/Logits/Conv2d_0c_1x1/Conv2D/Transpose",
    "resnet_v1_50/logits/Conv2D/Transpose",
)
# The only Relu after an Add that has no counter. The Add's counter is longer by the Relu's time.
COUNTED_WITH = {
    "resnet_v1_50/block4/unit_3/bottleneck_v1/Relu": "resnet_v1_50/block4/unit_3/bottleneck_v1/add"
}
FULLY_CONNECTED = {
    "inception_v1": "InceptionV1/Logits/Conv2d_0c_1x1/Conv2D",
    "inception_v3": "classifier",
    "inception_v4": "classifier",
    "resnet_50": "resnet_v1_50/logits/Conv2D",
}
# Depthwise convolutions on the stick (ANNETTE): {(width, height, channels): {kernel: ms}}.
DEPTHWISE_MS = {
    (32, 16, 512): {1: 0.273, 3: 0.925, 5: 1.793, 7: 2.402},
    (8, 8, 3): {1: 0.016, 3: 0.024, 5: 0.022, 7: 0.028},
}
# Whole networks, ms including the host: the poster's two; MobileOne-S0 by Luxonis on an OAK-D (8
# SHAVEs, USB included); for ResNet-18 the range of two sources and Luxonis' 19.7.
PUBLISHED_MS = {"mobilenet_v2": 19.8, "proxyless_mobile": 24.1, "mobileone_s0": 11.1}
RESNET_18_MS = (19.0, 22.5)


@dataclasses.dataclass(frozen=True)
class Counter:
    """A line of public_counters.csv: an ONNX node, its layer type and its time on the stick."""

    network: str
    layer: str
    type: str
    measured_ms: float


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Stages of all networks that the calibration uses.

    Attributes:
      public: stages of the four networks timed by layer, by network name.
      depthwise: stages of single depthwise convolutions, by (width, height, channels) and kernel.
      whole: stages of the networks with a known total latency, by network name.
    """

    public: dict[str, list[Stage]]
    depthwise: dict[tuple[tuple[int, int, int], int], list[Stage]]
    whole: dict[str, list[Stage]]


def counters() -> list[Counter]:
    """Returns the public counters; public_counters.csv holds only executed layers."""
    with COUNTERS.open(newline="") as file:
        return [
            Counter(row["network"], row["layer"], row["type"], float(row["measured_ms"]))
            for row in csv.DictReader(file)
        ]


def compile_all(compiler: Worker) -> Compiled:
    """Compiles the four public networks, the depthwise convolutions and the whole networks."""

    def stages(name: str, model: onnx.ModelProto) -> list[Stage]:
        print(f"compiling {name}", file=sys.stderr)
        return parse(compiler.compile(model.SerializeToString()).graph)

    def zoo_model(name: str) -> onnx.ModelProto:
        return export.to_onnx(Network(find_network(name), rng=np.random.default_rng(0)), 224)

    return Compiled(
        public={name: stages(name, make()[0]) for name, make in PUBLIC_NETWORKS.items()},
        depthwise={
            (size, kernel): stages(f"depthwise {kernel}x{kernel}", depthwise(*size, kernel))
            for size, points in DEPTHWISE_MS.items()
            for kernel in points
        },
        whole={
            "resnet_18": stages("resnet_18", resnet_18()[0]),
            **{name: stages(name, zoo_model(name)) for name in PUBLISHED_MS},
        },
    )


def timed_networks(public: dict[str, list[Stage]]) -> dict[str, Timed]:
    """Pairs the stages of each network with its counters; holds out fully connected layers."""
    return {
        name: Timed(
            stages,
            {
                c.layer: c.measured_ms
                for c in counters()
                if c.network == name and c.layer not in NO_LONGER_THERE
            },
            frozenset([FULLY_CONNECTED[name]]),
            COUNTED_WITH,
        )
        for name, stages in public.items()
    }


def calibrate(
    compiled: Compiled, networks: dict[str, Timed], without: dict[str, Calibration]
) -> Calibration:
    """Returns the fit to all networks, with errors by kind from the leave-one-out fits.

    Args:
      networks: timed networks by name.
      without: for each network, the fit to all the others.
    """
    fitted = fit(list(networks.values()))
    errors: dict[str, list[float]] = {kind: [] for kind in KINDS}
    errors["depthwise"] = [
        measured / estimated - 1
        for _, kernel, measured, estimated in depthwise_ms(compiled, fitted)
        if kernel > 1  # a depthwise 1x1 is a scaling of channels
    ]
    for name, network in networks.items():
        kinds = layer_kinds(network.stages, ())
        estimated_ms = network.estimated_ms(without[name])
        for kind in set(KINDS) - {"depthwise"}:
            layers = [
                layer
                for layer in estimated_ms
                if kinds.get(layer, "other") == kind and layer not in network.held_out
            ]
            measured = sum(network.measured_ms[layer] for layer in layers)
            errors[kind].append(measured / sum(estimated_ms[layer] for layer in layers) - 1)
    percent = {
        kind: 100 * float(np.sqrt(np.mean(np.square(some))) * stats.t.ppf(0.9, len(some)))
        for kind, some in errors.items()
    }
    return Calibration(fitted.coefficients, HOST_MS, percent)


def depthwise_ms(
    compiled: Compiled, calibration: Calibration
) -> list[tuple[tuple[int, int, int], int, float, float]]:
    """Returns (width, height, channels), kernel, measured and estimated ms of each single layer."""
    return [
        (
            size,
            kernel,
            DEPTHWISE_MS[size][kernel],
            next(
                layer.ms
                for layer in estimate_stages(stages, calibration).layers
                if layer.name == "depthwise"
            ),
        )
        for (size, kernel), stages in compiled.depthwise.items()
    ]


def convolution_sizes(model: onnx.ModelProto) -> dict[str, tuple[str, int]]:
    """Returns each convolution's kernel, as text, and the height of its output in px, by name."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    heights = {
        value.name: value.type.tensor_type.shape.dim[2].dim_value
        for value in (*graph.value_info, *graph.output)
        if len(value.type.tensor_type.shape.dim) == 4
    }
    kernels = {tensor.name: tensor.dims[2:] for tensor in graph.initializer}
    return {
        node.name: ("×".join(map(str, kernels[node.input[1]])), heights[node.output[0]])
        for node in graph.node
        if node.op_type == "Conv"
    }


def report(
    compiled: Compiled,
    networks: dict[str, Timed],
    without: dict[str, Calibration],
    calibration: Calibration,
) -> calibration_report.Report:
    """Returns the numbers of the document."""
    types = {(c.network, c.layer): c for c in counters()}
    sizes = {name: convolution_sizes(make()[0]) for name, make in PUBLIC_NETWORKS.items()}
    layers = []
    for name, network in networks.items():
        fitted, unseen = network.estimated_ms(calibration), network.estimated_ms(without[name])
        layers += [
            calibration_report.Layer(
                name,
                layer,
                types[name, layer].type,
                measured,
                fitted[layer],
                unseen[layer],
                layer in network.held_out,
                sizes[name].get(layer),
            )
            for layer, measured in network.measured_ms.items()
        ]
    points = [
        calibration_report.Point(
            f"depthwise {kernel}×{kernel}, {width}×{height}, {channels} channels",
            measured,
            estimated,
        )
        for (width, height, channels), kernel, measured, estimated in depthwise_ms(
            compiled, calibration
        )
    ]
    points += [
        calibration_report.Point(
            f"fully connected, {layer.network}", layer.measured_ms, layer.fitted_ms
        )
        for layer in layers
        if layer.held_out
    ]
    whole = {
        name: estimate_stages(
            stages,
            calibration,
            {s.layer for s in stages if s.layer is not None and s.layer.endswith("/depthwise")},
        )
        for name, stages in compiled.whole.items()
    }
    return calibration_report.Report(layers, points, whole, PUBLISHED_MS, RESNET_18_MS, calibration)


def main(argv: Sequence[str]) -> int:
    """Calibrates and writes the files; see the module."""
    del argv
    folder = pathlib.Path(flags.FLAGS.report_dir)
    with command.usage_errors():
        if not folder.is_dir():
            raise ValueError(f"--report_dir={folder}: give an existing folder")
        command.check_output("calibration", pathlib.Path(flags.FLAGS.calibration))
        for name in (calibration_report.DOCUMENT, calibration_report.FIGURE):
            command.check_output("report_dir", folder / name)
    with command.device_errors(), Worker() as compiler:
        compiled = compile_all(compiler)
    networks = timed_networks(compiled.public)
    without = left_out(networks)
    calibration = calibrate(compiled, networks, without)
    result = report(compiled, networks, without, calibration)
    calibration.save(pathlib.Path(flags.FLAGS.calibration), SOURCES)
    text = calibration_report.markdown(result, SOURCES)
    (folder / calibration_report.DOCUMENT).write_text(text)
    calibration_report.figure(result).savefig(folder / calibration_report.FIGURE, dpi=120)
    print(text)
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("calibration", str(CALIBRATION), "Path of the coefficients file to write.")
    flags.DEFINE_string("report_dir", "docs", "Existing folder for the document and its figure.")
    command.run(main)
