"""Exports a trained network and measures accuracy and latency of the exported files."""

import dataclasses
import importlib.metadata
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import onnx

from experiments.runs import answers
from experiments.runs.accuracy import score
from experiments.runs.classifier import read_classifier
from experiments.runs.published_figures import REFERENCES, rivals
from experiments.runs.run_folder import REPORT
from jaxnas import data, export, network_figure, nn_archive, parity
from jaxnas.json_file import write_object
from jaxnas.network import Network, count_macs, count_parameters
from jaxnas.zoo import find_network
from profiling import oak_device, openvino_device, tables
from profiling.device import Executor, Options, measure_repeatedly
from profiling.measurement import Measurement
from profiling.myriad.compiler import MyriadXCompiler
from profiling.progress import Phase, Progress
from profiling.recording_device import Recording

ONNX, IR, LABELS, BLOB, ARCHIVE, FIGURE = (
    "model.onnx",
    "model.xml",
    "labels.txt",
    "model.blob",
    "model.rvc2.tar.xz",
    "architecture.svg",
)
LATENCY = "latency.json"
PARITY_IMAGES = 8
# Packages whose versions a result records, since figures may depend on them.
_SOFTWARE = ("jax", "jaxlib", "flax", "optax", "numpy", "jax2onnx", "onnxruntime", "openvino")
# Allowed difference between the top-1 of a float32 file and JAX's. One picture is always allowed.
TOP1_TOLERANCE = 0.005

Document = dict[str, Any]


class ParityBroken(RuntimeError):
    """The exported files do not compute the same as the network."""


def deliver(
    network: Network,
    jax_top1: float,
    part: data.Part,
    image_size: int,
    title: str,
    device: Recording | None,
    options: Options,
    folder: pathlib.Path,
    progress: Progress,
) -> Document:
    """Exports a network, checks and times the files, and returns their part of result.json.

    Only process 0 calls this function.

    Args:
      network: network with the weights to deliver.
      jax_top1: its top-1 on the part in JAX at `image_size`.
      part: test part of the data set.
      image_size: deployment size in px.
      title: title of the figure.
      device: device to time the network on, and to run it on if it executes networks; None if it
        is unavailable.
      options: options of the device.
      folder: folder for the files.
      progress: shows the phases.

    Raises:
      ParityBroken: the files do not match JAX and must not be used.
      CompileError: the device's compiler refuses the network.
      DeviceUnavailable: the device fails.
    """
    spec = network.spec
    with progress.phase("export", total=1) as phase:
        model = write_files(network, image_size, part.class_names, part.spec.eval_fraction, folder)
        compared = check_parity(network, folder, part, image_size)
        network_figure.save(network_figure.figure([spec], [title]), folder / FIGURE)
        phase.end(
            f"logits differ by {compared.onnxruntime_max_abs:.1e} in ONNX Runtime, "
            f"{compared.openvino_max_abs:.1e} in OpenVINO"
        )
    files = {"onnx": ONNX, "ir": IR, "labels": LABELS, "figure": FIGURE}
    latency: Document = {"device_ms": None, "kind": None, "references": {}, "rivals": None}
    if device is not None:
        with progress.phase("latency", total=3) as phase:
            measured = measure_repeatedly(device, model.SerializeToString())
            phase.update(1, f"{device.setup.device} {measured.latency_ms:.2f} ms")
            write_object(folder / LATENCY, measured.document(ONNX))
            latency = {
                **_latency(measured),
                "references": _references(device, spec.num_classes, image_size, phase),
                "rivals": rivals(measured.setup.device, measured.setup.settings, image_size),
            }
            if measured.blob is not None:
                (folder / BLOB).write_bytes(measured.blob)
                latency["archive"] = _archive(
                    model.SerializeToString(),
                    measured,
                    options,
                    folder,
                    part.class_names,
                    image_size,
                )
                files |= {"blob": BLOB, "archive": ARCHIVE}
            phase.end(f"{device.setup.device} {measured.latency_ms:.2f} ms")
    accuracy = check_accuracy(folder, part, jax_top1, device, progress)
    return {
        "image_size": image_size,
        "num_classes": spec.num_classes,
        "parameters": count_parameters(spec),
        "macs": count_macs(spec, image_size),
        **latency,
        "accuracy": accuracy,
        "parity": dataclasses.asdict(compared),
        "software": software(),
        "files": {"report": REPORT, **files},
    }


def write_files(
    network: Network,
    image_size: int,
    class_names: Sequence[str],
    crop_fraction: float,
    folder: pathlib.Path,
) -> onnx.ModelProto:
    """Writes ONNX, IR and the names of the classes to a folder; returns the ONNX model.

    Args:
      network, image_size: as for `export.to_onnx`.
      class_names, crop_fraction: as for `export.add_metadata`.
      folder: folder for the files.
    """
    model = export.to_onnx(network, image_size)
    export.add_metadata(model, class_names, crop_fraction)
    export.save(model, folder / ONNX, folder / IR)
    (folder / LABELS).write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")
    return model


def check_parity(
    network: Network, folder: pathlib.Path, part: data.Part, image_size: int
) -> parity.Parity:
    """Compares the logits of the written files with JAX's, on pictures of a part.

    Raises:
      ParityBroken: the logits differ.
    """
    batch = next(
        iter(data.evaluation_batches(part, batch_size=PARITY_IMAGES, image_size=image_size))
    )
    result = parity.compare(network, folder / ONNX, folder / IR, batch["image"])
    if not result.holds:
        raise ParityBroken(f"the exported network differs from the network in JAX: {result}")
    return result


def check_accuracy(
    folder: pathlib.Path,
    part: data.Part,
    jax_top1: float,
    device: Recording | None,
    progress: Progress,
) -> Document:
    """Returns the `accuracy` of result.json: that of the file, in its runtime, on the whole part.

    Writes answers.json, some pictures with the file's answers.

    A device that executes networks runs the file in the precision that it is timed in. Otherwise
    OpenVINO's CPU runs the IR in float32.

    Raises:
      ParityBroken: the file runs in float32 and its top-1 differs from JAX's.
    """
    executor: Executor
    if device is not None and device.setup.kind == "measured":
        executor, precision = device, None
    else:
        executor, precision = openvino_device.OpenVinoDevice("CPU", Options(), "f32"), "f32"
    setup = executor.setup
    classifier = read_classifier(folder / (IR if setup.device in openvino_device.NAMES else ONNX))
    with progress.phase("test", total=1) as phase:
        scores = score(classifier, executor, part, phase.update)
        figures = scores.figures()
        summary = (
            f"top-1 {figures['top1']:.4f} of {classifier.file.name} in {runtime_of(executor)}"
            f" on {len(part)} examples, {jax_top1:.4f} in JAX"
        )
        phase.end(summary)
    write_object(folder / answers.FILE, answers.document(scores, part))
    if abs(figures["top1"] - jax_top1) > max(TOP1_TOLERANCE, 1.5 / len(part)):
        if setup.precision == "FP32":
            raise ParityBroken(f"{summary}: the exported file differs from the trained network")
        progress.print(f"{summary}: the precision changes the accuracy", "yellow")
    return {
        "dataset": part.spec.name,
        "split": part.spec.test_split,
        "examples": len(part),
        "image_size": classifier.image_size,
        "file": classifier.file.name,
        "runtime": runtime_of(executor),
        "device": setup.device,
        "inference_precision": precision,
        **figures,
        "jax_top1": jax_top1,
    }


def software() -> Document:
    """Returns the versions of Python and of the packages that a run's figures depend on."""
    versions = {name: importlib.metadata.version(name) for name in _SOFTWARE}
    return {"python": platform.python_version(), **versions}


def runtime_of(executor: Executor) -> str:
    """Returns the runtime of a device, the device and its precision, for people."""
    setup = executor.setup
    runtime = "depthai" if setup.device == oak_device.NAME else "openvino"
    precision = setup.precision.lower().replace("fp", "f")
    return f"{runtime} {setup.device} {precision}"


def _latency(measured: Measurement) -> Document:
    setup = measured.setup
    return {
        "device_ms": measured.latency_ms,
        "device": setup.device,
        "kind": setup.kind,
        "device_p10_ms": measured.p10_ms,
        "device_p90_ms": measured.p90_ms,
        "precision": setup.precision,
        "versions": dict(setup.versions),
        "settings": dict(setup.settings),
    }


def _references(
    device: Recording, num_classes: int, image_size: int, phase: Phase
) -> dict[str, Document]:
    """Returns the latencies of published networks with the same number of classes.

    Networks are measured again, under the same conditions as this one; stored estimates are reused.
    """
    measured = tables.measure_specs(
        device,
        [find_network(name, num_classes) for name in REFERENCES],
        image_size,
        max_age_days=None if device.setup.kind == "estimated" else 0,
        progress=lambda done, total: phase.update(
            1 + done / total, f"{' and '.join(REFERENCES)}, {done} of {total} runs"
        ),
    )
    return {
        name: {"device_ms": measurement.latency_ms}
        for name, measurement in zip(REFERENCES, measured, strict=True)
    }


def _archive(
    model: bytes,
    measured: Measurement,
    options: Options,
    folder: pathlib.Path,
    class_names: tuple[str, ...],
    image_size: int,
) -> Document:
    """Writes the NN Archive, whose blob uses as many CMX slices as SHAVEs, as cameras require.

    Compiles another blob if the measured one is for another number of SHAVEs.
    """
    shaves, blob = options.shaves or oak_device.SHAVES, measured.blob
    estimated_ms: float | None = None
    is_camera = measured.setup.device == oak_device.NAME  # which compiles for as many if unset
    made_for = measured.setup.settings.get("shaves") or (oak_device.SHAVES if is_camera else None)
    if made_for != shaves:
        options = dataclasses.replace(options, shaves=shaves)
        with MyriadXCompiler("MYRIADX_COMPILER", options) as compiler:
            estimate = compiler.measure(model)
        blob, estimated_ms = estimate.blob, estimate.latency_ms
    assert blob is not None  # the MyriadX compiler returns one
    nn_archive.save_archive(folder / ARCHIVE, "jaxnas", blob, class_names, image_size)
    return {"shaves": shaves, "estimated_ms": estimated_ms}
