"""Finds a network for one device and a latency budget, and hands over the files that run there.

    python -m experiments.search --flagfile=vpu.flags

Warm-up and search train the supernet; α gives the network; the device confirms it. The same
command goes on where a stopped run was.
"""

import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from experiments import delivery, derivation, pareto, summary
from experiments.compilation import keep_compiled_programs
from experiments.config import Config, config_from_flags, define_flags
from experiments.delivery import ParityBroken
from experiments.stopping import Stopped
from experiments.training import NonFiniteLoss, Schedule, Trainer
from experiments.workdir import Workdir, check_workdir
from jaxnas import data, paths
from jaxnas.checkpoint import CheckpointUnreadable
from jaxnas.latency import LatencyModel, LatencyTable
from profiling import command, tables
from profiling.database import Store, StoreError
from profiling.device import device_kind, device_names, open_device
from profiling.errors import CompileError, DeviceUnavailable
from profiling.progress import Progress
from profiling.recording import Recording


def main(argv: Sequence[str]) -> int:
    """Runs a search as the flags say; returns the exit status."""
    del argv
    keep_compiled_programs()
    try:
        with command.usage_errors():
            config = config_from_flags()
            check_workdir(config)
            result = finished(config)
            if result is None:
                parts = data.load(config.dataset, config.data_dir, seed=config.seed,
                                  held_out=config.held_out)
                Schedule.of(config, len(parts.weights))
                table = given_table(config)
                store = command.open_store(config.store)
                workdir = Workdir(config)
        if result is None:
            with store, workdir, Progress() as progress:
                result = run(config, parts, table, store, workdir, progress)
        else:
            print("this run is done; another --workdir or --seed makes another", file=sys.stderr)
        summary.show(result, config)
    except (DeviceUnavailable, CompileError, StoreError, CheckpointUnreadable, NonFiniteLoss,
            ParityBroken, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return command.FAILED
    except (Stopped, KeyboardInterrupt) as stop:
        print(f"{str(stop) or 'stopped'}; run the same command again to go on", file=sys.stderr)
        # Threads that still compile cannot be interrupted, and leaving would wait for them.
        sys.stderr.flush()
        os._exit(command.FAILED)
    failed = config.require_target and not result["target_met"]
    return command.FAILED if failed else 0


def finished(config: Config) -> dict[str, object] | None:
    """The result of this run, if it has come to its end before."""
    file = pathlib.Path(config.workdir) / "result.json"
    return json.loads(file.read_text()) if file.exists() else None


def run(config: Config, parts: data.Parts, table: LatencyTable | None, store: Store,
        workdir: Workdir, progress: Progress) -> dict[str, object]:
    """The whole search; returns the document of result.json."""
    with available_device(config, table, store, progress) as device:
        table = deployment_table(config, table, device, workdir, progress)
        trainer = Trainer(config, parts, workdir, progress)
        trainer.compile(LatencyModel.of(table))
        trainer.search(LatencyModel.of(table))
        derived = derivation.derive(trainer, table, device)
        # Before fine-tuning, which changes the weights that networks share.
        front = pareto.trace_front(trainer, table, device) if config.pareto_ms else None
        trainer.finetune()
        result = delivery.deliver(trainer, derived, table, device)
        trainer.close()
    if front is not None:
        pareto.save_figure(front, result["references"], workdir.path)
        result["files"]["pareto"] = pareto.FILE
    workdir.write_json("result.json", result)
    return result


def given_table(config: Config) -> LatencyTable | None:
    """The table that the flags name, or the one that ships; None where one must be built.

    Raises:
      ValueError: no table, one for something else, or a target outside of its range.
    """
    space = config.search_space
    own = pathlib.Path(config.workdir) / "latency_table.json"
    file = own if own.exists() else config.latency_table or tables.shipped(
        config.device, space, config.image_size, config.options)
    if file is None:
        return None
    table = LatencyTable.load(pathlib.Path(file), space)
    table.check([device_kind(name) for name in device_names(config.device)], config.image_size,
                config.options.settings())
    # Another classifier than the table's takes another time, at least none.
    same = table.num_classes == data.dataset(config.dataset).num_classes
    check_target(config, table, slack_ms=0.0 if same else table.fixed_ms["classifier"])
    return table


def check_target(config: Config, table: LatencyTable, slack_ms: float = 0.0) -> None:
    """Raises ValueError where no network of the space takes the target or another budget."""
    fastest, slowest = table.range_ms
    even = np.where(config.search_space.allowed, 0.0, -np.inf)
    budgets = [("target_ms", config.target_ms),
               *(("pareto_ms", budget_ms) for budget_ms in config.pareto_ms or ())]
    for name, budget_ms in budgets:
        try:
            paths.budgeted_path(even, table, budget_ms + slack_ms)
            reachable = budget_ms <= slowest
        except ValueError:
            reachable = False
        if not reachable:
            raise ValueError(
                f"--{name}={budget_ms:g}: on {table.device} at {table.image_size} px the fastest "
                f"network of the {table.space} space takes {fastest:.2f} ms and the slowest "
                f"{slowest:.2f} ms; give a target between them")
    if config.latency_control == "mul_log" and fastest <= 1:
        raise ValueError(
            f"--latency_control=mul_log: the fastest network of the {table.space} space takes "
            f"{fastest:.2f} ms on {table.device}, and the logarithm of what is not above 1 ms is "
            f"no measure; give another control")


@contextlib.contextmanager
def available_device(config: Config, table: LatencyTable | None, store: Store,
                     progress: Progress) -> Iterator[Recording | None]:
    """The device, recording; None, and said so, where it is not there but its table is.

    Raises:
      DeviceUnavailable: it is not there and there is no table.
    """
    try:
        device = open_device(config.device, config.options)
    except DeviceUnavailable as error:
        if table is None:
            raise
        progress.print(f"the device is not there: {error}\n"
                       f"The search goes on with the latency table of {table.device} "
                       f"({table.kind}); the network it finds will not be checked on the device.",
                       "yellow")
        yield None
        return
    with Recording(device, store) as recording:
        yield recording


def deployment_table(config: Config, table: LatencyTable | None, device: Recording | None,
                     workdir: Workdir, progress: Progress) -> LatencyTable:
    """The table for this run's classifier, as the workdir's latency_table.json."""
    file, space = workdir.path / "latency_table.json", config.search_space
    num_classes = data.dataset(config.dataset).num_classes
    if table is None or device is not None and table.device != device.setup.device:
        with progress.phase("table", total=1) as phase:
            table = tables.build(device, space, config.image_size, num_classes,
                                 progress=lambda done, total: phase.update(
                                     done / total, f"{done} of {total} runs"))
            phase.end(f"{table.device}, {table.kind}; {tables.additivity_note(table)}")
    elif table.num_classes != num_classes and device is not None:
        with progress.phase("table", total=1) as phase:
            table = tables.with_classes(table, device, space, num_classes)
            phase.end(f"{table.device}, {table.kind}; fixed layers anew for {num_classes} classes")
    elif table.num_classes != num_classes:
        progress.print(f"the table's classifier has {table.num_classes} outputs, this network "
                       f"{num_classes}: predictions are a little high")
    try:
        check_target(config, table)
    except ValueError:
        workdir.withdraw()
        with command.usage_errors():
            raise
    table.save(file, space)
    return table


if __name__ == "__main__":
    define_flags()
    command.run(main)
