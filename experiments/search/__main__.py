"""Finds a network for one device and a latency budget, and exports files that run on the device.

    python -m experiments.search --flagfile=vpu.flags

Warm-up and search train the supernet and α. The network is derived from α and measured on the
device. It is then trained without the supernet, at the end at the deployment size, and exported,
and its files are tested. The same command resumes a stopped run.
"""

import contextlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from experiments.runs import program, summary
from experiments.runs.delivery import deliver
from experiments.runs.device import DeviceOfProcess0, shared_device
from experiments.runs.picture_check import check_pictures
from experiments.runs.run_folder import Workdir, finished
from experiments.search import choices, derivation, page, pareto
from experiments.search.config import Config, config_from_flags, define_flags
from experiments.search.latency_table import (
    deployment_table,
    given_table,
    with_device_of_table,
)
from experiments.search.schedule import Schedule
from experiments.search.supernet_trainer import Trainer
from experiments.train.fit import fit, has_begun
from experiments.train.published_weights import with_published_weights
from jaxnas import data, parallel
from jaxnas.latency import LatencyModel, LatencyTable
from jaxnas.network import network_of
from profiling import command
from profiling.database import Store
from profiling.progress import Progress


def main(argv: Sequence[str]) -> int:
    """Runs a search by the flags; returns the exit status."""
    del argv
    return program.run(search)


def search() -> int:
    """Checks the flags, runs or resumes the search, prints its summary; returns the status."""
    program.join_processes()
    with command.usage_errors():
        config = config_from_flags()
        parallel.layout().check_batch_size(config.batch_size)
        parallel.layout().check_batch_size(config.alpha_batch_size, "base_batch_size")
        parallel.layout().check_batch_size(config.training.batch_size, "train_batch_size")
        result = parallel.from_process_0(lambda: finished(config))
        if result is None:
            parts = config.parts()
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
            workdir.timing(progress),
        ):
            result = run(config, parts, table, store, workdir, progress)
    elif parallel.is_process_0():
        print("this run is done; another --workdir or --seed makes another", file=sys.stderr)
    folder = pathlib.Path(config.workdir)
    with command.usage_errors(), summary.reading_result(folder):
        if parallel.is_process_0():
            space = config.search_space
            spec = network_of(space, space.parse(result["architecture"]), result["num_classes"])
            title = f"{result['space']} for {result['device']}, {result['target_ms']:g} ms"
            summary.show(result, spec, title, folder)
        failed = config.require_target and not result["target_met"]
    return command.FAILED if failed else 0


def run(
    config: Config,
    parts: data.Parts,
    table: LatencyTable | None,
    store: Store | None,
    workdir: Workdir,
    progress: Progress,
) -> dict[str, Any]:
    """Runs the whole search; returns the document of result.json.

    A resumed run does not repeat what is done.

    Args:
      config: configuration of the search.
      parts: parts of the data set.
      table: given latency table; None to build one, and in all processes but process 0.
      store: stores the measurements; None in all processes but process 0.
      workdir: folder of the run.
      progress: shows the phases.

    Raises:
      Stopped, NonFiniteLoss, CheckpointUnreadable, ProcessesDiffer, CompileError,
      DeviceUnavailable, ParityBroken.
    """
    without = (
        None
        if table is None
        else f"The search continues with the latency table of {table.device} ({table.kind}); its "
        f"network will not be checked on the device."
    )
    with shared_device(with_device_of_table(config), store, progress, without) as device:
        # Table: the latency of every candidate of every block.
        table = deployment_table(config, table, device, workdir, progress)
        latency = LatencyModel.of(table)
        parallel.check_same("the latency table", latency)

        # Supernet and α: the warm-up, then weight steps with α steps in between.
        trainer = Trainer(config, parts, workdir, progress)
        if not trainer.is_over or not _is_derived(config, workdir, device is not None):
            trainer.compile(latency)
        trainer.search(latency)

        # Derive: an architecture for the budget, and one for each further budget.
        derived = derivation.derive(trainer, table, device)
        choices.weigh(trainer, derived.architecture)
        front = pareto.trace_front(trainer, table, device) if config.pareto_ms else None

        # Extract: the network with the supernet's weights, or with the published ones.
        path = trainer.space.path(trainer.space.parse(derived.architecture))
        network, steps = trainer.extract(path), trainer.schedule.end
        trainer.close()
        del trainer  # frees the memory of the supernet
        if config.initialisation == "pretrained" and not has_begun(workdir):
            with progress.phase("published weights", total=1.0) as phase:
                network = with_published_weights(
                    network.spec,
                    parts.weights,
                    config.training.train_image_size,
                    config.seed,
                    phase.update,
                )
                phase.end("fitted to the network")

        # Fit: the network's own training, at the end at the deployment size.
        fitted = fit(config.training, config.identity(), network, parts, workdir, progress, steps)

        # Deliver: files, their accuracy and their latency.
        def delivered() -> dict[str, Any]:
            assert not isinstance(device, DeviceOfProcess0)  # this is process 0
            return deliver(
                network,
                fitted.top1,
                parts.test,
                config.image_size,
                config.title,
                device,
                config.options,
                workdir.path,
                progress,
            )

        delivery = parallel.from_process_0(delivered)

    device_ms = delivery["device_ms"]
    result: dict[str, Any] = {
        "schema": 2,
        "architecture": derived.architecture,
        "space": config.space,
        "target_ms": config.target_ms,
        "predicted_ms": derived.predicted_ms,
        "target_met": None if device_ms is None else device_ms <= config.target_ms,
        "device": table.device,
        "settings": dict(table.settings),
        **delivery,
        "held_out": fitted.held_out,
        "rounds": derived.rounds,
    }
    result["files"]["table"] = "latency_table.json"
    if front is not None:
        parallel.from_process_0(
            lambda: pareto.save_figure(front, result["references"], workdir.path)
        )
        result["files"]["pareto"] = pareto.FILE
    workdir.record_time(progress)
    parallel.from_process_0(lambda: page.write(workdir.path, result))
    workdir.write_json("result.json", result)
    return result


def _is_derived(config: Config, workdir: Workdir, has_device: bool) -> bool:
    """Returns whether an earlier start of the run derived the networks of all budgets."""
    known = derivation.known_derivation(workdir, has_device)
    return (
        known is not None
        and choices.is_weighed(workdir, known.architecture)
        and (not config.pareto_ms or pareto.known_front(workdir, has_device) is not None)
    )


if __name__ == "__main__":
    define_flags()
    program.define_process_flags()
    command.run(main)
