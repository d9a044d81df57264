"""The latency table of a search: given, shipped or built; for this run's number of classes."""

import dataclasses
import pathlib

import numpy as np

from experiments.runs.device import DeviceOfProcess0
from experiments.runs.run_folder import Workdir
from experiments.search.config import Config
from jaxnas import budget, data, parallel
from jaxnas.latency import LatencyTable
from profiling import command, openvino_device, tables
from profiling.progress import Progress
from profiling.recording_device import Recording
from profiling.registry import device_kind, device_names


def given_table(config: Config) -> LatencyTable | None:
    """Returns the run's own table, that of --latency_table or a shipped one; None to build one.

    Raises:
      ValueError: the file is not a table, does not match the run, or the target is out of range.
    """
    space = config.search_space
    own = pathlib.Path(config.workdir) / "latency_table.json"
    file = (
        own
        if own.exists()
        else config.latency_table
        or tables.shipped(config.device, space, config.image_size, config.options)
    )
    if file is None:
        return None
    table = LatencyTable.load(pathlib.Path(file), space)
    table.check(
        [device_kind(name) for name in device_names(config.device)],
        config.image_size,
        config.options.settings(),
    )
    # The classifier for another number of classes has another latency, which is at least 0.
    same = table.num_classes == data.dataset(config.dataset).num_classes
    check_target(config, table, slack_ms=0.0 if same else table.fixed_ms["classifier"])
    return table


def with_device_of_table(config: Config) -> Config:
    """Returns the configuration with those of its devices that the run's own table is for.

    A resumed run keeps its device: α has learned from the latencies of that one.
    """
    file = pathlib.Path(config.workdir) / "latency_table.json"
    if not file.exists():
        return config
    device = LatencyTable.load(file, config.search_space).device
    names = [name for name in device_names(config.device) if device_kind(name) == device]
    return dataclasses.replace(config, device=",".join(names))


def check_target(config: Config, table: LatencyTable, slack_ms: float = 0.0) -> None:
    """Raises ValueError if the space has no network for the target or a further budget.

    Args:
      config: configuration of the run.
      table: latency table of the space.
      slack_ms: time by which the table may overestimate the fixed layers.
    """
    fastest, slowest = table.range_ms
    uniform = np.where(config.search_space.allowed, 0.0, -np.inf)
    budgets = [
        ("target_ms", config.target_ms),
        *(("pareto_ms", budget_ms) for budget_ms in config.pareto_ms or ()),
    ]
    for name, budget_ms in budgets:
        try:
            budget.budgeted_path(uniform, table, budget_ms + slack_ms)
            reachable = budget_ms <= slowest
        except ValueError:
            reachable = False
        if not reachable:
            raise ValueError(
                f"--{name}={budget_ms:g}: on {table.device} at {table.image_size} px the fastest "
                f"network of the {table.space} space takes {fastest:.2f} ms and the slowest "
                f"{slowest:.2f} ms; give a target between them"
            )
    if config.latency_control == "mul_log" and fastest <= 1:
        raise ValueError(
            f"--latency_control=mul_log: the fastest network of the {table.space} space takes "
            f"{fastest:.2f} ms on {table.device}, but the logarithm requires latencies above 1 ms; "
            f"give another control"
        )


def deployment_table(
    config: Config,
    table: LatencyTable | None,
    device: Recording | DeviceOfProcess0 | None,
    workdir: Workdir,
    progress: Progress,
) -> LatencyTable:
    """Returns the table for this run's number of classes; process 0 writes latency_table.json.

    Args:
      config: configuration of the run.
      table: table of `given_table`; None in the other processes.
      device: device of the run; None if it is unavailable.
      workdir: folder of the run.
      progress: shows the phase.
    """
    file, space = workdir.path / "latency_table.json", config.search_space

    def make() -> None:
        assert not isinstance(device, DeviceOfProcess0)  # this is process 0
        made = _fitting_table(config, table, device, progress)
        try:
            check_target(config, made)
        except ValueError:
            workdir.withdraw()
            with command.usage_errors():
                raise
        made.save(file, space)

    parallel.from_process_0(make)
    return LatencyTable.load(file, space)


def _fitting_table(
    config: Config, table: LatencyTable | None, device: Recording | None, progress: Progress
) -> LatencyTable:
    """Returns the given table, or a new one of the device, with this run's number of classes.

    Without a device the given table keeps its number of classes.
    """
    space, num_classes = config.search_space, data.dataset(config.dataset).num_classes
    if table is not None and device is not None and table.device == device.setup.device:
        made_on = table.provenance.get("hardware")
        # Sticks and cameras are one chip each, on whatever port.
        differ = table.device in openvino_device.NAMES and made_on != device.setup.hardware
        if differ and made_on is not None:
            progress.print(
                f"the latency table was measured on {made_on}, this device is "
                f"{device.setup.hardware}: predictions are those of the former",
                "yellow",
            )
    if table is None or device is not None and table.device != device.setup.device:
        assert device is not None  # a run without a table requires its device
        with progress.phase("table", total=1) as phase:
            table = tables.build(
                device,
                space,
                config.image_size,
                num_classes,
                asked=config.options.settings(),
                progress=lambda done, total: phase.update(done / total, f"{done} of {total} runs"),
            )
            phase.end(f"{table.device}, {table.kind}; {tables.additivity_note(table)}")
    elif table.num_classes != num_classes and device is not None:
        with progress.phase("table", total=1) as phase:
            table = tables.with_classes(table, device, space, num_classes)
            phase.end(f"{table.device}, {table.kind}; fixed layers anew for {num_classes} classes")
    elif table.num_classes != num_classes:
        progress.print(
            f"the table's classifier has {table.num_classes} outputs, this network has "
            f"{num_classes}: predictions are inaccurate by the difference of the classifiers"
        )
    return table
