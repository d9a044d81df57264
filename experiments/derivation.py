"""From α to a network that meets the budget on the device, closing the loop by what it measures."""

import dataclasses

import numpy as np

from experiments.config import Config
from experiments.training import Trainer
from jaxnas import export, paths, supernet
from jaxnas.latency import LatencyTable
from jaxnas.space import format_arch
from profiling.measurement import Device, Measurement, measure_in_passes

MAX_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Derived:
    """The architecture that a search gives.

    Attributes:
      architecture: its text form.
      predicted_ms: by the table as it stood when it was derived.
      rounds: of each derivation the architecture, predicted_ms, device_ms (None: not there), and
        table_scale, by which the entries of latency_table.json were multiplied to predict.
    """

    architecture: str
    predicted_ms: float
    rounds: list[dict[str, object]]


def choose_path(config: Config, alpha: np.ndarray, table: LatencyTable,
                allowed: np.ndarray) -> np.ndarray:
    """The path that `--derive` asks for.

    A budget is there to be spent: the latency term pulls towards faster networks whether or not
    E[LAT] is under the target, so that the likeliest path below the target alone may lie far below.
    Where a small space has no path in between, any below the target will do.

    Raises:
      ValueError: no path is within the budget.
    """
    if config.derive == "argmax":
        return paths.likeliest_path(alpha, allowed)
    log_p = np.asarray(paths.log_probabilities(alpha, allowed))
    try:
        return paths.budgeted_path(log_p, table, config.target_ms, least_ms(config))
    except ValueError:
        return paths.budgeted_path(log_p, table, config.target_ms)


def least_ms(config: Config) -> float:
    """The least that a budgeted path should take; half the tolerance is left to the device."""
    return (1 - config.tolerance / 2) * config.target_ms


def measure_path(trainer: Trainer, path: np.ndarray, device: Device) -> Measurement:
    """The path's network, as it stands in the supernet, on the device at deployment size."""
    network = supernet.extract(trainer.space, trainer.state.params, trainer.state.stats, path,
                               trainer.num_classes)
    model = export.to_onnx(network, trainer.config.image_size)
    return measure_in_passes(device, model.SerializeToString())


def derive(trainer: Trainer, table: LatencyTable, device: Device | None) -> Derived:
    """Derives, measures, rescales the table by what was measured, and derives again.

    A round is accepted where device and prediction differ by at most the tolerance and, with
    `--derive=budget`, the device's figure spends the budget and is within it. After MAX_ROUNDS, or
    where the rescaled table has no path within the budget, the one nearest to the budget from below
    is taken, or else the last. The answer stands in architecture.json, whence a run that was
    stopped later takes it.
    """
    config, progress, workdir = trainer.config, trainer.progress, trainer.workdir
    known = workdir.read_json("architecture.json")
    if known is not None and trainer.may_keep(known["rounds"][-1]["device_ms"], device):
        trainer.path = trainer.space.path(trainer.space.parse(known["architecture"]))
        return Derived(known["architecture"], known["predicted_ms"], known["rounds"])
    alpha = np.asarray(trainer.state.alpha)
    rounds: list[dict[str, object]] = []
    scale = 1.0
    with progress.phase("derive", total=MAX_ROUNDS) as phase:
        while len(rounds) < MAX_ROUNDS:
            try:
                path = choose_path(config, alpha, table, trainer.space.allowed)
            except ValueError as error:
                if not rounds:
                    raise
                progress.print(f"after rescaling, {error}", "yellow")
                break
            predicted_ms = table.path_ms(path)
            device_ms = measure_path(trainer, path, device).latency_ms if device else None
            rounds.append({"architecture": format_arch(trainer.space.arch(path)),
                           "table_scale": scale, "predicted_ms": predicted_ms,
                           "device_ms": device_ms})
            workdir.log(trainer.step, "derive", round=len(rounds), **rounds[-1])
            if device_ms is None or accepted(config, predicted_ms, device_ms):
                break
            phase.update(len(rounds), _note(rounds[-1]))
            table = table.scaled(device_ms, predicted_ms)
            scale *= device_ms / predicted_ms
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


def accepted(config: Config, predicted_ms: float, device_ms: float) -> bool:
    """Whether a round's network is what was asked for."""
    if abs(device_ms - predicted_ms) > config.tolerance * device_ms:
        return False
    if config.derive == "argmax":
        return True
    nothing_nearer = predicted_ms < least_ms(config)
    spent = device_ms >= (1 - config.tolerance) * config.target_ms
    return device_ms <= config.target_ms and (spent or nothing_nearer)


def _note(one: dict[str, object]) -> str:
    device = "not there" if one["device_ms"] is None else f"{one['device_ms']:.3f} ms"
    return f"predicted {one['predicted_ms']:.3f} ms, device {device}"
