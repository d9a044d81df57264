"""The files of the network that was found, its test, and `result.json`."""

import dataclasses
import pathlib

import numpy as np

from experiments.derivation import Derived
from experiments.training import Trainer
from jaxnas import data, draw, export, parallel, supernet
from jaxnas.latency import LatencyTable
from jaxnas.network import Network, count_macs, count_parameters
from jaxnas.zoo import find_network
from profiling import tables
from profiling.measurement import measure_in_passes
from profiling.recording import Recording

REFERENCES = ("mobilenet_v2", "proxyless_mobile")
PARITY_IMAGES = 8


class ParityBroken(RuntimeError):
    """The exported files do not compute what the network computes."""


def deliver(trainer: Trainer, derived: Derived, table: LatencyTable,
            device: Recording | None) -> dict[str, object]:
    """Exports the fine-tuned network, checks and times it, and gives the result's document.

    Raises:
      ParityBroken: ONNX or IR differ from JAX; nothing that is handed over may.
    """
    top1 = trainer.test()
    return parallel.of_first(lambda: _handed_over(trainer, derived, table, device, top1))


def _handed_over(trainer: Trainer, derived: Derived, table: LatencyTable,
                 device: Recording | None, top1: float) -> dict[str, object]:
    config, progress, folder = trainer.config, trainer.progress, trainer.workdir.path
    network = supernet.extract(trainer.space, trainer.state.params, trainer.state.stats,
                               trainer.path, trainer.num_classes, name="jaxnas")
    files = {"onnx": "model.onnx", "ir": "model.xml"}
    with progress.phase("export", total=3) as phase:
        model = export.to_onnx(network, config.image_size)
        export.save(model, folder / files["onnx"], folder / files["ir"])
        parity = check_parity(network, folder, files, trainer.parts.test, config.image_size)
        phase.update(1, "ONNX and IR agree with JAX")
        device_part, references = {"device_ms": None, "device": table.device, "kind": None}, {}
        if device is not None:
            measured = measure_in_passes(device, model.SerializeToString())
            device_part = {"device_ms": measured.latency_ms, "device": measured.setup.device,
                           "kind": measured.setup.kind, "device_p10_ms": measured.p10_ms,
                           "device_p90_ms": measured.p90_ms,
                           "precision": measured.setup.precision,
                           "versions": dict(measured.setup.versions)}
            if measured.blob is not None:
                files["blob"] = "model.blob"
                (folder / files["blob"]).write_bytes(measured.blob)
            phase.update(2, f"{device.setup.device} {measured.latency_ms:.2f} ms")
            # What was measured is measured again beside the found network; estimates stay.
            of_references = tables.measure_specs(
                device, [find_network(name, trainer.num_classes) for name in REFERENCES],
                config.image_size, max_age_days=None if measured.setup.kind == "estimated" else 0,
                progress=lambda done, total: phase.update(
                    2 + done / total, f"{' and '.join(REFERENCES)}, {done} of {total} runs"))
            for name, reference in zip(REFERENCES, of_references, strict=True):
                references[name] = {"device_ms": reference.latency_ms}
        phase.end(f"largest difference of logits {parity.onnxruntime_max_abs:.1e} in ONNX Runtime,"
                  f" {parity.openvino_max_abs:.1e} in OpenVINO")
    draw.save(draw.figure([network.spec], [f"{config.space} for {config.device}, "
                                           f"{config.target_ms:g} ms"]),
              folder / "architecture.svg")
    device_ms = device_part["device_ms"]
    return {
        "schema": 1, "architecture": derived.architecture, "space": config.space,
        "target_ms": config.target_ms, "predicted_ms": derived.predicted_ms, **device_part,
        "target_met": None if device_ms is None else device_ms <= config.target_ms,
        "image_size": config.image_size, "num_classes": trainer.num_classes,
        "settings": dict(table.settings),
        "parameters": count_parameters(network.spec),
        "macs": count_macs(network.spec, config.image_size),
        "references": references,
        "accuracy": {"dataset": config.dataset, "split": data.dataset(config.dataset).test_split,
                     "top1": top1, "image_size": config.train_image_size,
                     "examples": len(trainer.parts.test)},
        "parity": dataclasses.asdict(parity), "rounds": derived.rounds,
        "files": {**files, "table": "latency_table.json", "figure": "architecture.svg"}}


def check_parity(network: Network, folder: pathlib.Path, files: dict[str, str], part: data.Part,
                 image_size: int) -> export.Parity:
    """JAX against the files as written, on images of a part at deployment size.

    Raises:
      ParityBroken: they differ.
    """
    batch = next(iter(data.evaluation_batches(part, batch_size=PARITY_IMAGES,
                                              image_size=image_size)))
    parity = export.parity(network, folder / files["onnx"], folder / files["ir"],
                           np.asarray(batch["image"]))
    if not parity.holds:
        raise ParityBroken(f"the exported network differs from JAX's: {parity}")
    return parity
