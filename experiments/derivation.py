"""From α to a network that meets the budget on the device, closing the loop by what it measures."""

import dataclasses

import numpy as np

from experiments.config import Config
from experiments.progress import Progress
from experiments.training import Trainer
from jaxnas import export, paths, supernet
from jaxnas.latency import LatencyTable
from jaxnas.space import format_arch
from profiling.device import Device, Measurement

MAX_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Derived:
    """The architecture that a search gives.

    Attributes:
      architecture: its text form.
      predicted_ms: by the table as it stood when it was derived.
      rounds: architecture, predicted_ms and device_ms (None: not there) of each derivation.
    """

    architecture: str
    predicted_ms: float
    rounds: list[dict[str, object]]


def choose_path(config: Config, alpha: np.ndarray, table: LatencyTable, allowed: np.ndarray,
                progress: Progress) -> np.ndarray:
    """The path that `--derive` asks for.

    Raises:
      ValueError: no path is within the budget.
    """
    if config.derive == "argmax":
        return paths.likeliest_path(alpha, allowed)
    log_p = np.asarray(paths.log_probabilities(alpha, allowed))
    least_ms = (1 - config.tolerance) * config.target_ms
    try:
        return paths.budgeted_path(log_p, table, config.target_ms, least_ms)
    except ValueError:
        # A small space may have nothing between; the budget is what must hold.
        path = paths.budgeted_path(log_p, table, config.target_ms)
        progress.print(f"no path takes {least_ms:.2f} to {config.target_ms:.2f} ms; the likeliest "
                       f"below takes {table.path_ms(path):.2f} ms")
        return path


def measure_path(trainer: Trainer, path: np.ndarray, device: Device) -> Measurement:
    """The path's network, as it stands in the supernet, on the device at deployment size."""
    network = supernet.extract(trainer.space, trainer.state.params, trainer.state.stats, path,
                               trainer.num_classes)
    model = export.to_onnx(network, trainer.config.image_size)
    return device.measure(model.SerializeToString())


def derive(trainer: Trainer, table: LatencyTable, device: Device | None) -> Derived:
    """Derives, measures, rescales the table by what was measured, and derives again.

    A round is accepted where device and prediction differ by at most the tolerance and, with
    `--derive=budget`, the device's figure is within the budget. After MAX_ROUNDS the one nearest
    to the budget from below is taken, or else the last. The answer stands in architecture.json,
    whence a run that was stopped later takes it.
    """
    config, progress, workdir = trainer.config, trainer.progress, trainer.workdir
    if trainer.finetuning and (known := workdir.read_json("architecture.json")) is not None:
        derived = Derived(known["architecture"], known["predicted_ms"], known["rounds"])
        trainer.path = trainer.space.path(trainer.space.parse(derived.architecture))
        return derived
    alpha = np.asarray(trainer.state.alpha)
    rounds: list[dict[str, object]] = []
    with progress.phase("derive", total=MAX_ROUNDS) as phase:
        while len(rounds) < MAX_ROUNDS:
            path = choose_path(config, alpha, table, trainer.space.allowed, progress)
            predicted_ms = table.path_ms(path)
            device_ms = measure_path(trainer, path, device).latency_ms if device else None
            rounds.append({"architecture": format_arch(trainer.space.arch(path)),
                           "predicted_ms": predicted_ms, "device_ms": device_ms})
            workdir.log(trainer.step, "derive", round=len(rounds), **rounds[-1])
            if device_ms is None:
                break
            phase.update(len(rounds), f"predicted {predicted_ms:.2f} ms, device {device_ms:.2f} ms")
            within = config.derive == "argmax" or device_ms <= config.target_ms
            if within and abs(device_ms - predicted_ms) <= config.tolerance * device_ms:
                break
            table = table.scaled(device_ms, predicted_ms)
        phase.end("; ".join(map(_note, rounds)))
    chosen = rounds[-1]
    if config.derive == "budget" and device is not None:
        met = [r for r in rounds if r["device_ms"] <= config.target_ms]
        chosen = max(met, key=lambda r: r["device_ms"], default=chosen)
    derived = Derived(chosen["architecture"], chosen["predicted_ms"], rounds)
    trainer.path = trainer.space.path(trainer.space.parse(derived.architecture))
    workdir.write_json("architecture.json", {
        "schema": 1, "space": trainer.space.name, **dataclasses.asdict(derived)})
    return derived


def _note(one: dict[str, object]) -> str:
    device = "not there" if one["device_ms"] is None else f"{one['device_ms']:.3f} ms"
    return f"predicted {one['predicted_ms']:.3f} ms, device {device}"
