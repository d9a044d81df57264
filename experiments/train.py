"""Trains one network from scratch, or from a supernet's weights, and hands over its files.

    python -m experiments.train --network=proxyless_mobile
    python -m experiments.train --network=runs/FOLDER_OF_A_SEARCH --start=supernet

The recipe is ProxylessNAS's for its mobile network: SGD with Nesterov momentum, a cosine, label
smoothing, no weight decay on batch norm, dropout. Every epoch is evaluated on held-out training
examples; the best one's weights are tested once and exported. The same command goes on where a
stopped run was.
"""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import jax
import numpy as np
import rich.console
import rich.panel
from flax import nnx

from experiments import networks, program
from experiments.delivery import check_parity
from experiments.network_training import Best, NetworkTrainer, steps_an_epoch
from experiments.train_config import TrainConfig, config_from_flags, define_flags
from experiments.workdir import Workdir, finished
from jaxnas import data, draw, export, parallel
from jaxnas.network import Network, count_macs, count_parameters
from profiling import command
from profiling.database import Store
from profiling.device import open_device
from profiling.errors import DeviceUnavailable
from profiling.measurement import measure_in_passes
from profiling.progress import Progress
from profiling.recording import Recording


def main(argv: Sequence[str]) -> int:
    """Trains as the flags say; returns the exit status."""
    del argv
    return program.run(train)


def train() -> int:
    """A training as the flags say, by this process or with others; returns the exit status."""
    program.join_processes()
    with command.usage_errors():
        config = config_from_flags()
        parallel.layout().check_batch_size(config.batch_size)
        result = parallel.of_first(lambda: finished(config))
        if result is None:
            parts = data.load(config.dataset, config.data_dir, seed=config.seed,
                              held_out=config.held_out)
            steps_an_epoch(config, len(parts.weights))
            network = starting_network(config)
            store = command.open_store(config.store) if parallel.is_first() else None
            workdir = Workdir(config)
    if result is None:
        with (store or contextlib.nullcontext(), workdir,
              Progress(quiet=not parallel.is_first()) as progress):
            result = run(config, network, parts, store, workdir, progress)
    elif parallel.is_first():
        print("this run is done; another --workdir or --seed makes another", file=sys.stderr)
    if parallel.is_first():
        show(result, config)
    return 0


def starting_network(config: TrainConfig) -> Network:
    """The network with the weights that its training starts from.

    Raises:
      ValueError: the supernet that they were to come from does not fit.
      CheckpointUnreadable: it is damaged.
    """
    num_classes = data.dataset(config.dataset).num_classes
    if config.start == "supernet":
        return networks.from_supernet(pathlib.Path(config.network), num_classes)
    spec = config.chosen.spec(num_classes, "jaxnas")
    return Network(spec, rng=np.random.default_rng(config.seed))


def run(config: TrainConfig, network: Network, parts: data.Parts, store: Store, workdir: Workdir,
        progress: Progress) -> dict[str, object]:
    """The whole training; returns the document of result.json."""
    workdir.write_json("architecture.json", {"schema": 1, **config.chosen.document()})
    with command.usage_errors():
        trainer = NetworkTrainer(config, network, parts, workdir, progress)
    trainer.compile()
    trainer.run()
    parallel.check_same("what the training came to", trainer.state)
    best = trainer.best()
    top1 = trainer.test(best)
    weights = jax.device_get((best.params, best.stats))
    nnx.update(network, *map(nnx.State, weights))
    result = parallel.of_first(lambda: deliver(trainer, network, best, top1, store))
    trainer.close()
    workdir.write_json("result.json", result)
    return result


def deliver(trainer: NetworkTrainer, network: Network, best: Best, top1: float,
            store: Store) -> dict[str, object]:
    """Exports the network, checks and times the files, and gives the result's document.

    Raises:
      ParityBroken: ONNX or IR differ from JAX; nothing that is handed over may.
      CompileError: the device's compiler refuses the network.
    """
    config, folder = trainer.config, trainer.workdir.path
    files = {"onnx": "model.onnx", "ir": "model.xml"}
    with trainer.progress.phase("export", total=2) as phase:
        model = export.to_onnx(network, config.image_size)
        export.save(model, folder / files["onnx"], folder / files["ir"])
        parity = check_parity(network, folder, files, trainer.parts.test, config.image_size)
        phase.update(1, "ONNX and IR agree with JAX")
        device_part = measure(trainer, model.SerializeToString(), files, store)
        phase.end(f"largest difference of logits {parity.onnxruntime_max_abs:.1e} in ONNX Runtime,"
                  f" {parity.openvino_max_abs:.1e} in OpenVINO")
    files["figure"] = "architecture.svg"
    draw.save(draw.figure([network.spec], [_title(config)]), folder / files["figure"])
    return {
        "schema": 1, **config.chosen.document(), "start": config.start, **device_part,
        "image_size": config.image_size, "num_classes": network.spec.num_classes,
        "parameters": count_parameters(network.spec),
        "macs": count_macs(network.spec, config.image_size),
        "held_out": {"top1": best.top1, "examples": len(trainer.parts.alpha),
                     "epoch": best.step // trainer.epoch_steps, "epochs": config.epochs},
        "accuracy": {"dataset": config.dataset, "split": data.dataset(config.dataset).test_split,
                     "top1": top1, "image_size": config.train_image_size,
                     "examples": len(trainer.parts.test)},
        "parity": dataclasses.asdict(parity), "files": files}


def measure(trainer: NetworkTrainer, model: bytes, files: dict[str, str],
            store: Store) -> dict[str, object]:
    """The result's part about the device, which fills `files` with the blob where there is one.

    The device is opened here and not before: a training takes days, and a stick serves one process.
    """
    config = trainer.config
    try:
        device = open_device(config.device, config.options)
    except DeviceUnavailable as error:
        trainer.progress.print(f"the device is not there: {error}\nThe network is not measured.",
                               "yellow")
        return {"device_ms": None, "device": config.device, "kind": None}
    with Recording(device, store) as recording:
        measured = measure_in_passes(recording, model)
    if measured.blob is not None:
        files["blob"] = "model.blob"
        (trainer.workdir.path / files["blob"]).write_bytes(measured.blob)
    setup = measured.setup
    return {"device_ms": measured.latency_ms, "device": setup.device, "kind": setup.kind,
            "device_p10_ms": measured.p10_ms, "device_p90_ms": measured.p90_ms,
            "precision": setup.precision, "versions": dict(setup.versions),
            "settings": dict(setup.settings)}


def show(result: dict, config: TrainConfig) -> None:
    """Prints the summary of `result.json` on standard output."""
    console = rich.console.Console(highlight=False)
    spec = config.chosen.spec(result["num_classes"])
    held_out, accuracy = result["held_out"], result["accuracy"]
    latency = (f"{result['device_ms']:.2f} ms by {result['device']}, {result['kind']}, batch 1"
               if result["kind"] else f"{result['device']} was not there, nothing was measured")
    console.print(rich.panel.Panel(rich.console.Group(
        draw.terminal(spec), "", f"[bold]{result['architecture']}[/]",
        f"{result['parameters'] / 1e6:.2f} M parameters, {result['macs'] / 1e6:.0f} M "
        f"multiply-accumulates at {result['image_size']} px, {result['num_classes']} classes",
        latency, "",
        f"[bold]top-1 {accuracy['top1']:.2%}[/] on {accuracy['dataset']}'s {accuracy['split']} "
        f"split ({accuracy['examples']} examples, {accuracy['image_size']} px)",
        f"weights of epoch {held_out['epoch']} of {held_out['epochs']}, the best on held-out data: "
        f"{held_out['top1']:.2%} of {held_out['examples']} examples",
        f"files in {config.workdir}: {', '.join(result['files'].values())}"), title=_title(config)))


def _title(config: TrainConfig) -> str:
    name = config.architecture if config.space is None else f"a network of {config.space}"
    start = "from scratch" if config.start == "scratch" else "from the supernet's weights"
    return f"{name} on {config.dataset}, {start}"


if __name__ == "__main__":
    define_flags()
    program.define_process_flags()
    command.run(main)
