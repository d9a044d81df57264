"""Derives from α a network that meets the budget on the device, with the device's measurements."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.runs.device import DeviceOfProcess0
from experiments.runs.loop import BEST
from experiments.runs.run_folder import Workdir
from experiments.search.config import Config
from experiments.search.path_scores import inherited_top1
from experiments.search.supernet_trainer import Trainer
from experiments.train.fit import has_begun
from jaxnas import budget, export, parallel, sampling
from jaxnas.latency import LatencyTable
from jaxnas.space import format_arch
from profiling.device import Device, measure_repeatedly

MAX_ROUNDS = 3
Round = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Derived:
    """The architecture that a search derives.

    Attributes:
      architecture: text form of the architecture.
      predicted_ms: latency by the table that it was derived with.
      rounds: for each round its architecture, predicted_ms, device_ms (None if the device is
        unavailable) and table_scale, the factor on the entries of latency_table.json; with
        `--finalists` above 1 also finalists, the candidates by decreasing probability, each with
        architecture, predicted_ms and inherited_top1, the accuracy with the supernet's weights on
        the part held out for α.
    """

    architecture: str
    predicted_ms: float
    rounds: list[Round]


def candidate_paths(
    config: Config, alpha: np.ndarray, table: LatencyTable, allowed: np.ndarray
) -> np.ndarray:
    """Returns the paths for `--derive` and `--finalists`, int32 [n, blocks], most probable first.

    Paths have a minimum latency because the latency term favors faster networks even if E[LAT] is
    below the target, so the most probable path below the target may be far below it. If a small
    space has no path between minimum and target, any path below the target is allowed.

    Raises:
      ValueError: no path is within the budget.
    """
    if config.derive == "argmax":
        return budget.most_probable_path(alpha, allowed)[None]
    log_p = np.asarray(sampling.log_probabilities(jnp.asarray(alpha), allowed))
    try:
        return budget.k_best_paths(
            log_p, table, config.target_ms, least_ms(config), config.finalists
        )
    except ValueError:
        return budget.k_best_paths(log_p, table, config.target_ms, 0.0, config.finalists)


def least_ms(config: Config) -> float:
    """Returns the minimum latency of a path; half the tolerance is left for the device's error."""
    return (1 - config.tolerance / 2) * config.target_ms


def measured_ms(trainer: Trainer, path: np.ndarray, device: Device | DeviceOfProcess0) -> float:
    """Measures a path's network with the supernet's weights at deployment size, in process 0."""

    def measure() -> float:
        assert not isinstance(device, DeviceOfProcess0)  # this is process 0
        model = export.to_onnx(trainer.extract(path), trainer.config.image_size)
        return measure_repeatedly(device, model.SerializeToString()).latency_ms

    return parallel.from_process_0(measure)


def derive(
    trainer: Trainer, table: LatencyTable, device: Device | DeviceOfProcess0 | None
) -> Derived:
    """Derives the network of the run by `approach` and `nearest`.

    Writes architecture.json, which a resumed run reads instead of deriving again.
    """
    config, progress, workdir = trainer.config, trainer.progress, trainer.workdir
    known = known_derivation(workdir, device is not None)
    if known is not None:
        return known
    rounds: list[Round] = []
    with progress.phase("derive", total=MAX_ROUNDS) as phase:
        for result in approach(config, trainer, table, device):
            rounds.append(result)
            workdir.log(trainer.step, "derive", round=len(rounds), **result)
            phase.update(len(rounds), _note(result))
        phase.end("; ".join(map(_note, rounds)))
    chosen = nearest(config, rounds)
    derived = Derived(chosen["architecture"], chosen["predicted_ms"], rounds)
    workdir.write_json(
        "architecture.json", {"schema": 1, "space": config.space, **dataclasses.asdict(derived)}
    )
    return derived


def known_derivation(workdir: Workdir, has_device: bool) -> Derived | None:
    """Returns the derivation of an earlier start of this run; None without a valid one.

    A derivation without a measurement is invalid if the device is available now, unless the
    training of its network has begun.
    """
    known = workdir.read_json("architecture.json")
    if known is None or not may_keep(workdir, known["rounds"][-1]["device_ms"], has_device):
        return None
    return Derived(known["architecture"], known["predicted_ms"], known["rounds"])


def may_keep(workdir: Workdir, device_ms: float | None, has_device: bool) -> bool:
    """Returns whether a network derived before is valid; see `known_derivation`."""
    # The best weights may be saved before the training's first checkpoint.
    trained = has_begun(workdir) or has_begun(workdir, BEST)
    return device_ms is not None or not has_device or trained


def approach(
    config: Config,
    trainer: Trainer,
    table: LatencyTable,
    device: Device | DeviceOfProcess0 | None,
) -> Iterator[Round]:
    """Derives and measures a network, rescales the table by the measurement, and derives again.

    The last round is the first one that is `accepted`, the MAX_ROUNDS-th, or the one after which
    the rescaled table has no path within the budget.

    Args:
      config: provides derive, finalists, target_ms and tolerance; the trainer's configuration, or
        one that differs from it only in these.
      trainer: trainer at the end of its search; its state is not changed.
      table: latency table for the first round.
      device: device that measures the network of each round; if None, there is one round.

    Yields:
      Rounds as in `Derived.rounds`, at least one.

    Raises:
      ValueError: no path is within the budget by the given table.
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
        path = candidates[0]
        scores: dict[str, Any] = {}
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
    """Scores paths [n, blocks]; returns the most accurate and the round's entry on all of them.

    Of equally accurate paths the first, the most probable, is returned.
    """
    top1: list[float] = []
    with trainer.progress.phase("finalists", total=len(candidates)) as phase:
        for path in candidates:
            top1.append(inherited_top1(trainer, path))
            phase.update(len(top1), f"top-1 {top1[-1]:.4f}, inherited weights")
    finalists = [
        {
            "architecture": format_arch(trainer.space.arch(path)),
            "predicted_ms": table.path_ms(path),
            "inherited_top1": score,
        }
        for path, score in zip(candidates, top1, strict=True)
    ]
    return candidates[int(np.argmax(top1))], finalists


def nearest(config: Config, rounds: Sequence[Round]) -> Round:
    """Returns the round whose measured latency is nearest below the budget, else the last round.

    With `--derive=argmax` it returns the last round.
    """
    met = [
        one
        for one in rounds
        if config.derive == "budget"
        and one["device_ms"] is not None
        and one["device_ms"] <= config.target_ms
    ]
    return max(met, key=lambda one: one["device_ms"], default=rounds[-1])


def accepted(config: Config, predicted_ms: float, device_ms: float) -> bool:
    """Returns whether a round's network needs no further round.

    Device and prediction must agree within the tolerance. With `--derive=budget` the measured
    latency must also be within the budget and use it, if the space has a path that does.
    """
    if abs(device_ms - predicted_ms) > config.tolerance * device_ms:
        return False
    if config.derive == "argmax":
        return True
    nothing_nearer = predicted_ms < least_ms(config)
    used = device_ms >= (1 - config.tolerance) * config.target_ms
    return device_ms <= config.target_ms and (used or nothing_nearer)


def _note(one: Round) -> str:
    device = "not measured" if one["device_ms"] is None else f"device {one['device_ms']:.3f} ms"
    return f"predicted {one['predicted_ms']:.3f} ms, {device}"
