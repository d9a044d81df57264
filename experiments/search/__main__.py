"""Finds a network for one device and a latency budget, and hands over the files that run there.

    python -m experiments.search --flagfile=vpu.flags

Warm-up and search train the supernet; α gives the network; the device confirms it. The network is
then trained as itself, at the end at the deployment size, exported, and its files are tested. The
same command goes on where a stopped run was.
"""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from experiments.runs import program, summary
from experiments.runs.delivery import deliver
from experiments.runs.device import DeviceOfProcess0, shared_device
from experiments.runs.folder import Workdir, finished
from experiments.runs.pictures import check_pictures
from experiments.search import derivation, pareto
from experiments.search.config import Config, config_from_flags, define_flags
from experiments.search.table import deployment_table, given_table
from experiments.search.trainer import Schedule, Trainer
from experiments.train.fit import fit
from jaxnas import data, parallel
from jaxnas.latency import LatencyModel, LatencyTable
from jaxnas.network import Network, NetworkSpec, network_of
from profiling import command
from profiling.database import Store
from profiling.progress import Progress
from profiling.recording import Recording


def main(argv: Sequence[str]) -> int:
    """Runs a search as the flags say; returns the exit status."""
    del argv
    return program.run(search)


def search() -> int:
    """A search as the flags say, by this process or with others; returns the exit status."""
    program.join_processes()
    with command.usage_errors():
        config = config_from_flags()
        parallel.layout().check_batch_size(config.batch_size)
        parallel.layout().check_batch_size(config.training.batch_size, "train_batch_size")
        result = parallel.from_process_0(lambda: finished(config))
        if result is None:
            parts = data.load(
                config.dataset, config.data_dir, seed=config.seed, held_out=config.held_out
            )
            parallel.from_process_0(lambda: check_pictures(config.dataset))
            Schedule.of(config, len(parts.weights))
            config.training.epoch_steps(len(parts.weights), config.dataset, "train_batch_size")
            table = given_table(config) if parallel.is_process_0() else None
            store = command.open_store(config.store) if parallel.is_process_0() else None
            workdir = Workdir(config)
    if result is None:
        with (
            store or contextlib.nullcontext(),
            workdir,
            Progress(quiet=not parallel.is_process_0()) as progress,
        ):
            result = run(config, parts, table, store, workdir, progress)
    elif parallel.is_process_0():
        print("this run is done; another --workdir or --seed makes another", file=sys.stderr)
    folder = pathlib.Path(config.workdir)
    with command.usage_errors(), summary.reading_result(folder):
        if parallel.is_process_0():
            summary.show(
                result,
                _spec(config, result),
                f"{result['space']} for {result['device']}, {result['target_ms']:g} ms",
                folder,
            )
        failed = config.require_target and not result["target_met"]
    return command.FAILED if failed else 0


def _spec(config: Config, result: dict[str, Any]) -> NetworkSpec:
    space = config.search_space
    return network_of(space, space.parse(result["architecture"]), result["num_classes"])


def run(
    config: Config,
    parts: data.Parts,
    table: LatencyTable | None,
    store: Store | None,
    workdir: Workdir,
    progress: Progress,
) -> dict[str, Any]:
    """The whole search; returns the document of result.json.

    Args:
      table, store: of the first process; None in the others.
    """
    without = (
        None
        if table is None
        else (
            f"The search goes on with the latency table of {table.device} ({table.kind}); the "
            f"network it finds will not be checked on the device."
        )
    )
    with shared_device(config, store, progress, without) as device:
        table = deployment_table(config, table, device, workdir, progress)
        found = find_network(config, parts, table, device, workdir, progress)
        fitted = fit(
            config.training, config.identity(), found.network, parts, workdir, progress, found.steps
        )
        delivered = parallel.from_process_0(
            lambda: deliver(
                found.network,
                fitted.top1,
                parts.test,
                config.image_size,
                f"{config.space} for {config.device}, {config.target_ms:g} ms",
                device,
                config.options,
                workdir.path,
                progress,
            )
        )
    device_ms = delivered["device_ms"]
    result = {
        "schema": 2,
        "architecture": found.derived.architecture,
        "space": config.space,
        "target_ms": config.target_ms,
        "predicted_ms": found.derived.predicted_ms,
        "target_met": None if device_ms is None else device_ms <= config.target_ms,
        "device": table.device,
        "settings": dict(table.settings),
        **delivered,
        "held_out": fitted.held_out,
        "rounds": found.derived.rounds,
    }
    result["files"]["table"] = "latency_table.json"
    if found.front is not None:
        parallel.from_process_0(
            lambda: pareto.save_figure(found.front, result["references"], workdir.path)
        )
        result["files"]["pareto"] = pareto.FILE
    workdir.write_json("result.json", result)
    return result


@dataclasses.dataclass(frozen=True)
class Found:
    """What the supernet is needed for.

    Attributes:
      derived: the architecture.
      network: it, with the supernet's weights.
      steps: of the search.
      front: the document of pareto.json, where further budgets were asked for.
    """

    derived: derivation.Derived
    network: Network
    steps: int
    front: dict[str, Any] | None


def find_network(
    config: Config,
    parts: data.Parts,
    table: LatencyTable,
    device: Recording | DeviceOfProcess0 | None,
    workdir: Workdir,
    progress: Progress,
) -> Found:
    """Trains the supernet and α, and derives the network; what was done before is not repeated.

    Raises:
      Stopped, NonFiniteLoss, CheckpointUnreadable, ProcessesDiffer, CompileError,
      DeviceUnavailable.
    """
    latency = LatencyModel.of(table)
    parallel.check_same("the latency table", latency)
    trainer = Trainer(config, parts, workdir, progress)
    known = [derivation.known_derivation(workdir, device is not None)]
    if config.pareto_ms:
        known.append(pareto.known_front(workdir, device is not None))
    if not trainer.is_over or None in known:
        trainer.compile(latency)
    trainer.search(latency)
    derived = derivation.derive(trainer, table, device)
    front = pareto.trace_front(trainer, table, device) if config.pareto_ms else None
    network = trainer.extract(
        config.search_space.path(config.search_space.parse(derived.architecture))
    )
    trainer.close()
    return Found(derived, network, trainer.schedule.end, front)


if __name__ == "__main__":
    define_flags()
    program.define_process_flags()
    command.run(main)
