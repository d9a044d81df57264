"""Finds a network for one device and a latency budget, and hands over the files that run there.

    python -m experiments.search --flagfile=vpu.flags

Warm-up and search train the supernet; α gives the network; the device confirms it. The same
command goes on where a stopped run was.
"""

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence

import jax

from experiments import delivery, derivation, summary
from experiments.config import Config, config_from_flags, define_flags
from experiments.progress import Progress
from experiments.training import NonFiniteLoss, Stopped, Trainer
from experiments.workdir import Workdir
from jaxnas import data
from jaxnas.latency import LatencyModel, LatencyTable
from profiling import command, tables
from profiling.device import Device, device_names, open_device
from profiling.errors import DeviceUnavailable


def main(argv: Sequence[str]) -> int:
    """Runs a search as the flags say; returns the exit status."""
    del argv
    keep_compiled_programs()
    with command.usage_errors():
        config = config_from_flags()
        parts = data.load(config.dataset, config.data_dir, seed=config.seed,
                          held_out=config.held_out)
        table = given_table(config)
        workdir = Workdir(config)
    with workdir, Progress() as progress:
        try:
            return run(config, parts, table, workdir, progress)
        except (Stopped, KeyboardInterrupt) as stop:
            progress.print(f"[yellow]{stop or 'stopped'}[/]; run the same command again to go on")
        except (DeviceUnavailable, NonFiniteLoss) as error:
            progress.print(f"[red]error[/]: {error}")
            return command.FAILED
    # Threads that still compile cannot be interrupted, and an ordinary exit would wait for them.
    sys.stderr.flush()
    os._exit(command.FAILED)


def keep_compiled_programs() -> None:
    """Lets JAX keep what it compiled, so that the next start of a like run takes seconds."""
    if jax.config.jax_compilation_cache_dir is None:  # $JAX_COMPILATION_CACHE_DIR
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "jaxnas" / "xla"))
    # jax2onnx compiles dozens of small programs at its start, a tenth of a second each.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


def run(config: Config, parts: data.Parts, table: LatencyTable | None, workdir: Workdir,
        progress: Progress) -> int:
    """The whole search; returns the exit status."""
    result = workdir.read_json("result.json")
    if result is not None:
        progress.print("this run is done; another --workdir or --seed makes another")
    else:
        with available_device(config, table, progress) as device:
            table = deployment_table(config, table, device, workdir, progress)
            trainer = Trainer(config, parts, workdir, progress)
            trainer.compile(LatencyModel.of(table))
            trainer.search(LatencyModel.of(table))
            derived = derivation.derive(trainer, table, device)
            trainer.finetune()
            result = delivery.deliver(trainer, derived, device)
            trainer.close()
        workdir.write_json("result.json", result)
    summary.show(result, config, workdir)
    failed = config.require_target and not result["target_met"]
    return command.FAILED if failed else 0


def given_table(config: Config) -> LatencyTable | None:
    """The table that the flags name, or the one that ships; None where one must be built.

    Raises:
      ValueError: no table, one for something else, or a target outside of its range.
    """
    space = config.search_space
    file = config.latency_table or tables.shipped(config.device, space, config.image_size,
                                                  config.shaves)
    if file is None:
        return None
    table = LatencyTable.load(pathlib.Path(file), space)
    table.check(device_names(config.device), config.image_size, config.shaves)
    check_target(config, table)
    return table


def check_target(config: Config, table: LatencyTable) -> None:
    """Raises ValueError where no network of the space takes the target."""
    fastest, slowest = table.range_ms
    if not fastest <= config.target_ms <= slowest:
        raise ValueError(
            f"--target_ms={config.target_ms:g}: on {table.device} at {table.image_size} px the "
            f"fastest network of the {table.space} space takes {fastest:.2f} ms and the slowest "
            f"{slowest:.2f} ms; give a target between them")


@contextlib.contextmanager
def available_device(config: Config, table: LatencyTable | None,
                     progress: Progress) -> Iterator[Device | None]:
    """The device; None, and said so, where it is not there but its table is.

    Raises:
      DeviceUnavailable: it is not there and there is no table.
    """
    try:
        device = open_device(config.device, config.shaves)
    except DeviceUnavailable as error:
        if table is None:
            raise
        progress.print(f"[yellow]the device is not there[/]: {error}\n"
                       f"The search goes on with the latency table of {table.device} "
                       f"({table.kind}); the network it finds will not be checked on the device.")
        yield None
        return
    with device:
        yield device


def deployment_table(config: Config, table: LatencyTable | None, device: Device | None,
                     workdir: Workdir, progress: Progress) -> LatencyTable:
    """The table for this run's classifier, as the workdir's latency_table.json."""
    file, space = workdir.path / "latency_table.json", config.search_space
    if file.exists():
        return LatencyTable.load(file, space)
    num_classes = data.dataset(config.dataset).num_classes
    if table is None:
        with progress.phase("table", total=1) as phase:
            table = tables.build(device, space, config.image_size, num_classes,
                                 progress=lambda done, total: phase.update(
                                     done / total, f"network {done} of {total}"))
            phase.end(f"{device.name}, {table.kind}; held-out networks within "
                      f"{table.additivity['max_abs_error_percent']:.2f} %")
    elif table.num_classes != num_classes and device is not None:
        with progress.phase("table", total=1) as phase:
            table = tables.with_classes(table, device, space, num_classes)
            phase.end(f"{table.device}, {table.kind}; fixed layers anew for {num_classes} classes")
    elif table.num_classes != num_classes:
        progress.print(f"the table's classifier has {table.num_classes} outputs, this network "
                       f"{num_classes}: predictions are a little high")
    with command.usage_errors():
        check_target(config, table)
    table.save(file, space)
    return table


if __name__ == "__main__":
    define_flags()
    command.run(main)
