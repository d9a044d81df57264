"""From α to a network that meets the budget on the device, closing the loop by what it measures."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.runs.folder import Workdir
from experiments.search.config import Config
from experiments.search.trainer import Trainer
from experiments.train.fit import has_begun
from jaxnas import budget, export, parallel, sampling
from jaxnas.latency import LatencyTable
from jaxnas.space import format_arch
from profiling.device import Device, measure_repeatedly

MAX_ROUNDS = 3
Round = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Derived:
    """The architecture that a search gives.

    Attributes:
      architecture: its text form.
      predicted_ms: by the table as it stood when it was derived.
      rounds: of each derivation the architecture, predicted_ms, device_ms (None: not there), and
        table_scale, by which the entries of latency_table.json were multiplied to predict; with
        `--finalists` above 1 also finalists, of each, the likeliest first, the architecture,
        predicted_ms, and inherited_top1 on the part held out for α: with the supernet's weights,
        for choosing.
    """

    architecture: str
    predicted_ms: float
    rounds: list[Round]


def candidate_paths(
    config: Config, alpha: np.ndarray, table: LatencyTable, allowed: np.ndarray
) -> np.ndarray:
    """The paths that `--derive` and `--finalists` ask for, int32 [n, blocks], the likeliest first.

    A budget is there to be spent: the latency term pulls towards faster networks whether or not
    E[LAT] is under the target, so that the likeliest path below the target alone may lie far below.
    Where a small space has no path in between, any below the target will do.

    Raises:
      ValueError: no path is within the budget.
    """
    if config.derive == "argmax":
        return budget.most_probable_path(alpha, allowed)[None]
    log_p = np.asarray(sampling.log_probabilities(alpha, allowed))
    try:
        return budget.k_best_paths(
            log_p, table, config.target_ms, least_ms(config), config.finalists
        )
    except ValueError:
        return budget.k_best_paths(log_p, table, config.target_ms, 0.0, config.finalists)


def least_ms(config: Config) -> float:
    """The least that a budgeted path should take; half the tolerance is left to the device."""
    return (1 - config.tolerance / 2) * config.target_ms


def measured_ms(trainer: Trainer, path: np.ndarray, device: Device) -> float:
    """The path's network, as it stands in the supernet, on the device at deployment size."""

    def measure() -> float:
        model = export.to_onnx(trainer.extract(path), trainer.config.image_size)
        return measure_repeatedly(device, model.SerializeToString()).latency_ms

    return parallel.from_process_0(measure)


def derive(trainer: Trainer, table: LatencyTable, device: Device | None) -> Derived:
    """The network of the run, by `approach` and `nearest`.

    The answer stands in architecture.json, whence a run that was stopped later takes it.
    """
    config, progress, workdir = trainer.config, trainer.progress, trainer.workdir
    known = known_derivation(workdir, device is not None)
    if known is not None:
        return known
    rounds: list[Round] = []
    with progress.phase("derive", total=MAX_ROUNDS) as phase:
        for one in approach(config, trainer, table, device):
            rounds.append(one)
            workdir.log(trainer.step, "derive", round=len(rounds), **one)
            phase.update(len(rounds), _note(one))
        phase.end("; ".join(map(_note, rounds)))
    chosen = nearest(config, rounds)
    derived = Derived(chosen["architecture"], chosen["predicted_ms"], rounds)
    workdir.write_json(
        "architecture.json", {"schema": 1, "space": config.space, **dataclasses.asdict(derived)}
    )
    return derived


def known_derivation(workdir: Workdir, has_device: bool) -> Derived | None:
    """The derivation that this run has made before; None where there is none that stands.

    One that nobody has measured, though the device is there now, stands once its training has
    begun.
    """
    known = workdir.read_json("architecture.json")
    if known is None or not may_keep(workdir, known["rounds"][-1]["device_ms"], has_device):
        return None
    return Derived(known["architecture"], known["predicted_ms"], known["rounds"])


def may_keep(workdir: Workdir, device_ms: float | None, has_device: bool) -> bool:
    """Whether a network derived before stands; see `known_derivation`."""
    return device_ms is not None or not has_device or has_begun(workdir)


def approach(
    config: Config, trainer: Trainer, table: LatencyTable, device: Device | None
) -> Iterator[Round]:
    """Derives, measures, rescales the table by what was measured, and derives again.

    The last round is one where device and prediction differ by at most the tolerance and, with
    `--derive=budget`, the device's figure spends the budget and is within it; or the MAX_ROUNDS-th;
    or the one after which the rescaled table has no path within the budget.

    Args:
      config: whose derive, finalists, target_ms and tolerance hold; the trainer's own, or one that
        differs in these.
      trainer: at the end of its search; its state stays as it is.
      table: by which the first round predicts.
      device: which measures each round's network; where it is None, the first round is the last.

    Yields:
      at least one round, as `Derived.rounds` has them.

    Raises:
      ValueError: no path is within the budget by the table as given.
    """
    alpha = np.asarray(trainer.state.alpha)
    scale = 1.0
    for number in range(MAX_ROUNDS):
        try:
            candidates = candidate_paths(config, alpha, table, trainer.space.allowed)
        except ValueError as error:
            if number == 0:
                raise
            trainer.progress.print(f"after rescaling, {error}", "yellow")
            return
        path, scores = candidates[0], {}
        if config.finalists > 1:
            path, scores["finalists"] = _most_accurate(trainer, candidates, table)
        predicted_ms = table.path_ms(path)
        device_ms = measured_ms(trainer, path, device) if device else None
        yield {
            "architecture": format_arch(trainer.space.arch(path)),
            "table_scale": scale,
            "predicted_ms": predicted_ms,
            "device_ms": device_ms,
            **scores,
        }
        if device_ms is None or accepted(config, predicted_ms, device_ms):
            return
        table = table.scaled(device_ms, predicted_ms)
        scale *= device_ms / predicted_ms


def _most_accurate(
    trainer: Trainer, candidates: np.ndarray, table: LatencyTable
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Of paths [n, blocks] the most accurate, of equals the first; and what a round says of all."""
    top1 = []
    with trainer.progress.phase("finalists", total=len(candidates)) as phase:
        for path in candidates:
            top1.append(trainer.inherited_top1(path))
            phase.update(len(top1), f"top-1 {top1[-1]:.4f}, inherited weights")
    said = [
        {
            "architecture": format_arch(trainer.space.arch(path)),
            "predicted_ms": table.path_ms(path),
            "inherited_top1": score,
        }
        for path, score in zip(candidates, top1, strict=True)
    ]
    return candidates[int(np.argmax(top1))], said


def nearest(config: Config, rounds: Sequence[Round]) -> Round:
    """Of rounds on a device towards a budget the nearest from below; else the last."""
    met = [
        r
        for r in rounds
        if config.derive == "budget"
        and r["device_ms"] is not None
        and r["device_ms"] <= config.target_ms
    ]
    return max(met, key=lambda r: r["device_ms"], default=rounds[-1])


def accepted(config: Config, predicted_ms: float, device_ms: float) -> bool:
    """Whether a round's network is what was asked for."""
    if abs(device_ms - predicted_ms) > config.tolerance * device_ms:
        return False
    if config.derive == "argmax":
        return True
    nothing_nearer = predicted_ms < least_ms(config)
    spent = device_ms >= (1 - config.tolerance) * config.target_ms
    return device_ms <= config.target_ms and (spent or nothing_nearer)


def _note(one: Round) -> str:
    device = "not there" if one["device_ms"] is None else f"{one['device_ms']:.3f} ms"
    return f"predicted {one['predicted_ms']:.3f} ms, device {device}"
