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
from collections.abc import Iterator, Sequence

import numpy as np

from experiments import derivation, pareto, program
from experiments.config import Config, config_from_flags, define_flags
from experiments.network_training import fit
from experiments.runs import summary
from experiments.runs.delivery import deliver
from experiments.runs.pictures import check_pictures
from experiments.training import Schedule, Trainer
from experiments.workdir import Workdir, finished
from jaxnas import data, parallel, paths
from jaxnas.latency import LatencyModel, LatencyTable
from jaxnas.network import Network, NetworkSpec, network_of
from profiling import command, tables
from profiling.database import Store
from profiling.device import device_kind, device_names, open_device
from profiling.errors import DeviceUnavailable
from profiling.measurement import Setup
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
        result = parallel.of_first(lambda: finished(config))
        if result is None:
            parts = data.load(config.dataset, config.data_dir, seed=config.seed,
                              held_out=config.held_out)
            parallel.of_first(lambda: check_pictures(config.dataset))
            Schedule.of(config, len(parts.weights))
            config.training.epoch_steps(len(parts.weights), config.dataset, "train_batch_size")
            table = given_table(config) if parallel.is_first() else None
            store = command.open_store(config.store) if parallel.is_first() else None
            workdir = Workdir(config)
    if result is None:
        with (store or contextlib.nullcontext(), workdir,
              Progress(quiet=not parallel.is_first()) as progress):
            result = run(config, parts, table, store, workdir, progress)
    elif parallel.is_first():
        print("this run is done; another --workdir or --seed makes another", file=sys.stderr)
    folder = pathlib.Path(config.workdir)
    with command.usage_errors(), summary.reading_result(folder):
        if parallel.is_first():
            summary.show(result, _spec(config, result), f"{result['space']} for "
                         f"{result['device']}, {result['target_ms']:g} ms", folder)
        failed = config.require_target and not result["target_met"]
    return command.FAILED if failed else 0


def _spec(config: Config, result: dict[str, object]) -> NetworkSpec:
    space = config.search_space
    return network_of(space, space.parse(result["architecture"]), result["num_classes"])


def run(config: Config, parts: data.Parts, table: LatencyTable | None, store: Store | None,
        workdir: Workdir, progress: Progress) -> dict[str, object]:
    """The whole search; returns the document of result.json.

    Args:
      table, store: of the first process; None in the others.
    """
    with available_device(config, table, store, progress) as device:
        table = deployment_table(config, table, device, workdir, progress)
        found = find_network(config, parts, table, device, workdir, progress)
        fitted = fit(config.training, config.identity(), found.network, parts, workdir, progress,
                     found.steps)
        delivered = parallel.of_first(lambda: deliver(
            found.network, fitted.top1, parts.test, config.image_size,
            f"{config.space} for {config.device}, {config.target_ms:g} ms", device, config.options,
            workdir.path, progress))
    device_ms = delivered["device_ms"]
    result = {
        "schema": 2, "architecture": found.derived.architecture, "space": config.space,
        "target_ms": config.target_ms, "predicted_ms": found.derived.predicted_ms,
        "target_met": None if device_ms is None else device_ms <= config.target_ms,
        "device": table.device, "settings": dict(table.settings), **delivered,
        "held_out": fitted.held_out, "rounds": found.derived.rounds}
    result["files"]["table"] = "latency_table.json"
    if found.front is not None:
        parallel.of_first(lambda: pareto.save_figure(found.front, result["references"],
                                                     workdir.path))
        result["files"]["pareto"] = pareto.FILE
    workdir.write_json("result.json", result)
    return result


@dataclasses.dataclass(frozen=True)
class FirstsDevice:
    """The device as the other processes know it: the first one's, which alone measures."""

    setup: Setup


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
    front: dict[str, object] | None


def find_network(config: Config, parts: data.Parts, table: LatencyTable,
                 device: Recording | FirstsDevice | None, workdir: Workdir,
                 progress: Progress) -> Found:
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
    network = trainer.extract(config.search_space.path(
        config.search_space.parse(derived.architecture)))
    trainer.close()
    return Found(derived, network, trainer.schedule.end, front)


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
def available_device(config: Config, table: LatencyTable | None, store: Store | None,
                     progress: Progress) -> Iterator[Recording | FirstsDevice | None]:
    """The device, recording; None, and said so, where it is not there but its table is.

    Raises:
      DeviceUnavailable: it is not there and there is no table.
    """
    with contextlib.ExitStack() as open_things:
        recording = None

        def find() -> dict[str, object] | None:
            nonlocal recording
            try:
                device = open_device(config.device, config.options)
            except DeviceUnavailable as error:
                if table is None:
                    raise
                progress.print(
                    f"the device is not there: {error}\nThe search goes on with the latency table "
                    f"of {table.device} ({table.kind}); the network it finds will not be checked "
                    f"on the device.", "yellow")
                return None
            recording = open_things.enter_context(Recording(device, store))
            return dataclasses.asdict(recording.setup)

        setup = parallel.of_first(find)
        if recording is None and setup is not None:
            yield FirstsDevice(Setup(**setup))
        else:
            yield recording


def deployment_table(config: Config, table: LatencyTable | None, device: Recording | None,
                     workdir: Workdir, progress: Progress) -> LatencyTable:
    """The table for this run's classifier, as the workdir's latency_table.json."""
    file, space = workdir.path / "latency_table.json", config.search_space

    def make() -> None:
        made = _fitting_table(config, table, device, progress)
        try:
            check_target(config, made)
        except ValueError:
            workdir.withdraw()
            with command.usage_errors():
                raise
        made.save(file, space)

    parallel.of_first(make)
    return LatencyTable.load(file, space)


def _fitting_table(config: Config, table: LatencyTable | None, device: Recording | None,
                   progress: Progress) -> LatencyTable:
    """The table given, or one built, of this space and classifier."""
    space, num_classes = config.search_space, data.dataset(config.dataset).num_classes
    if table is None or device is not None and table.device != device.setup.device:
        with progress.phase("table", total=1) as phase:
            table = tables.build(device, space, config.image_size, num_classes,
                                 asked=config.options.settings(),
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
    return table


if __name__ == "__main__":
    define_flags()
    program.define_process_flags()
    command.run(main)
