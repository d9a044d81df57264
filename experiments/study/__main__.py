"""Studies device preferences, and search versus random networks.

    python -m experiments.study --flagfile=vpu.flags --seeds=0,1,2 --output=docs

Part affinities compares device preferences: the space is searched with two latency tables, the
device's and the Pixel 1's, at equally tight budgets. Depth, expansions and kernels of the found
networks are compared with those of random networks of the same budgets, and with the poster's
three statements. Part worth compares the device's found networks with random networks of its
budget and with MobileNetV2, as wide as the budget allows: all are trained from scratch with one
recipe and tested. A device is opened only to choose the width of MobileNetV2.

Each search and each training has its own folder in --workdir. The same command resumes a stopped
study. Several processes may work in one folder at once; a last call then writes the results.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments.runs import program
from experiments.search import derivation
from experiments.search.config import Config, config_from_flags, define_flags
from experiments.search.supernet_trainer import Schedule
from experiments.study import device_preferences, results, search_vs_random
from experiments.study.random_networks import Draw, draw_within_budget
from experiments.study.search_vs_random import Contender, Trained
from experiments.study.study_runs import Runs, recipe, training_size
from jaxnas import data
from jaxnas.latency import LatencyTable
from jaxnas.network import network_of
from jaxnas.space import format_arch
from profiling import command, tables
from profiling.errors import DeviceUnavailable
from profiling.progress import Progress
from profiling.recording_device import Recording
from profiling.registry import device_kind, device_names, open_device

PARTS = ("affinities", "worth")
BASELINE_NETWORKS = 200  # random networks per device for its preferences
# The blocks of the published ProxylessNAS mobile. Each budget is a fraction of their latency.
REFERENCE = (
    "k5e3 k3e3 - - k7e3 k3e3 k5e3 k5e3 k7e6 k5e3 k5e3 k5e3 "
    "k5e6 k5e3 k5e3 k5e3 k7e6 k7e6 k7e3 k7e3 k7e6"
)
MOBILE_TABLE = tables.SHIPPED / "pixel_1_proxyless_224.json"


@dataclasses.dataclass(frozen=True)
class Study:
    """Configuration of a study: that of its searches, and the flags below by their names."""

    config: Config
    seeds: tuple[int, ...]
    train_seeds: tuple[int, ...]
    parts: tuple[str, ...]
    random_networks: int
    reference: np.ndarray  # int32 [blocks]
    mobile_table: pathlib.Path
    mobilenet: tuple[float, float] | None  # width multiplier and latency in ms
    output: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Budgeted:
    """A device's table, its budget, and random networks that use it."""

    table: LatencyTable
    target_ms: float
    baseline: Draw


def main(argv: Sequence[str]) -> int:
    """Runs the study that the flags describe, as a program; returns the exit status."""
    del argv
    return program.run(run_study)


def run_study() -> int:
    """Runs the study that the flags describe; returns the exit status."""
    with command.usage_errors():
        study = study_from_flags()
        devices = budgets(study)
        parts = data.load(
            study.config.dataset,
            study.config.data_dir,
            seed=study.seeds[0],
            held_out=study.config.held_out,
        )
        Schedule.of(study.config, len(parts.weights))
    with Progress() as progress:
        runs = Runs(study.config, progress)
        # First, so that an unavailable device ends the study before hours of work.
        mobilenet_v2 = (
            mobilenet(study, devices[0].table, progress) if "worth" in study.parts else None
        )
        preferences = run_affinities(study, devices, runs) if len(devices) > 1 else None
        comparison = (
            run_worth(study, devices[0], mobilenet_v2, runs) if mobilenet_v2 is not None else None
        )
    if runs.missing:
        print(
            f"no results written: {len(runs.missing)} runs are held by other processes: "
            f"{', '.join(runs.missing)}; run the same command again when they have ended",
            file=sys.stderr,
        )
        return command.FAILED
    document = {**head(study, parts), "affinities": preferences, "worth": comparison}
    files = results.write(document, study.output)
    print(f"files in {study.output}: {', '.join(files)}")
    return 0


def study_from_flags() -> Study:
    """Returns the flags as a checked `Study`; raises ValueError for what is not allowed."""
    args = flags.FLAGS
    config = dataclasses.replace(config_from_flags(), workdir=args.workdir or "runs/study")
    for name, wrong in (
        ("derive", config.derive != "budget"),
        ("pareto_ms", config.pareto_ms is not None),
        ("require_target", config.require_target),
    ):
        if wrong:
            raise ValueError(
                f"--{name}: a study compares networks within one budget per device, derived "
                f"with --derive=budget; leave --{name} out"
            )
    space = config.search_space
    if (args.mobilenet_width is None) != (args.mobilenet_ms is None):
        raise ValueError("--mobilenet_width and --mobilenet_ms: give both or neither")
    if "worth" in args.parts and args.random_networks < 2:
        raise ValueError(
            f"--random_networks={args.random_networks}: give 2 or more; an interval needs them"
        )
    parts = _parts(args.parts)
    if "affinities" in parts:
        device_preferences.check_space(space)
    try:
        reference = space.path(space.parse(args.reference))
    except ValueError as error:
        raise ValueError(f"--reference: {error}") from None
    output = pathlib.Path(args.output or config.workdir)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"--output={output} cannot be created ({error.strerror}); name another folder"
        ) from error
    return Study(
        config,
        _seeds("seeds", args.seeds),
        _seeds("train_seeds", args.train_seeds or args.seeds),
        parts,
        args.random_networks,
        reference,
        pathlib.Path(args.mobile_table or MOBILE_TABLE),
        None if args.mobilenet_ms is None else (args.mobilenet_width, args.mobilenet_ms),
        output,
    )


def budgets(study: Study) -> list[Budgeted]:
    """Returns the device at --target_ms, and the other at the same fraction of its reference.

    Raises:
      ValueError: no table, a table for something else, or a budget no random network meets.
    """
    config, space = study.config, study.config.search_space
    file = config.latency_table or tables.shipped(
        config.device, space, config.image_size, config.options
    )
    if file is None:
        raise ValueError(
            f"no latency table ships for {config.device}, the {space.name} space and "
            f"{config.image_size} px: build one with `python -m profiling.tables` and "
            f"pass it as --latency_table"
        )
    first = LatencyTable.load(pathlib.Path(file), space)
    first.check(
        [device_kind(name) for name in device_names(config.device)],
        config.image_size,
        config.options.settings(),
    )
    targets = [(first, config.target_ms)]
    if "affinities" in study.parts:
        second = LatencyTable.load(study.mobile_table, space)
        second.check([second.device], config.image_size, {})
        if second.device == first.device:
            raise ValueError(
                f"--mobile_table={study.mobile_table} is a table of {second.device}, like the "
                f"study's first table; give one of another device"
            )
        fraction = config.target_ms / first.path_ms(study.reference)
        targets.append((second, fraction * second.path_ms(study.reference)))
    least_fraction = derivation.least_ms(config) / config.target_ms
    count = max(BASELINE_NETWORKS, study.random_networks)
    return [
        Budgeted(
            table,
            target_ms,
            draw_within_budget(
                space, table, least_fraction * target_ms, target_ms, count, config.seed
            ),
        )
        for table, target_ms in targets
    ]


def run_affinities(study: Study, devices: Sequence[Budgeted], runs: Runs) -> dict[str, Any] | None:
    """Returns the `affinities` object of study.json; None where runs are missing."""
    found = [
        [runs.search(device.table, device.target_ms, seed) for device in devices]
        for seed in study.seeds
    ]
    if runs.missing:
        return None
    space = study.config.search_space
    return device_preferences.document(
        *(
            device_preferences.device_document(
                space, device.table, device.target_ms, study.reference, of_device, device.baseline
            )
            for device, of_device in zip(devices, zip(*found, strict=True), strict=True)
        )
    )


def run_worth(
    study: Study, device: Budgeted, mobilenet_v2: Contender, runs: Runs
) -> dict[str, Any] | None:
    """Returns the `worth` object of study.json; None where runs are missing."""
    table, space = device.table, study.config.search_space

    def network(name: str, group: str, path: np.ndarray) -> Contender:
        arch = space.arch(path)
        return Contender(
            name,
            group,
            format_arch(arch),
            space.name,
            network_of(space, arch, table.num_classes),
            table.path_ms(path),
        )

    networks = [mobilenet_v2]
    for seed in study.seeds:
        found = runs.search(table, device.target_ms, seed)
        if found is not None:
            networks.append(
                network(f"found{seed}", "found", space.path(space.parse(found.architecture)))
            )
    networks += [
        network(f"random{index:02d}", "random", path)
        for index, path in enumerate(device.baseline.paths[: study.random_networks])
    ]
    trained: list[tuple[Contender, list[Trained]]] = []
    for one in networks:
        each = [runs.train(one, seed) for seed in study.train_seeds]
        trained.append((one, [run for run in each if run is not None]))
    if runs.missing:
        return None
    return search_vs_random.document(
        trained, study.config.image_size, device.target_ms, device.baseline
    )


def mobilenet(study: Study, table: LatencyTable, progress: Progress) -> Contender:
    """Returns MobileNetV2 as wide as the budget allows; without the flags, the device decides.

    Raises:
      DeviceUnavailable: with the remedy.
    """
    config = study.config
    if study.mobilenet is None:
        try:
            opened = open_device(table.device, config.options)
        except DeviceUnavailable as error:
            raise DeviceUnavailable(
                f"{error}\nThe width of MobileNetV2 is chosen with {table.device}: start this "
                f"study on a machine that has it, and pass the --mobilenet_width and "
                f"--mobilenet_ms that it prints first"
            ) from error
        with (
            command.open_store(config.store) as store,
            Recording(opened, store) as device,
            command.usage_errors(),
        ):
            width, ms = search_vs_random.fit_mobilenet(
                device, config.target_ms, config.image_size, table.num_classes
            )
        progress.print(
            f"MobileNetV2 of width {width:g} takes {ms:.3f} ms on {table.device}: "
            f"--mobilenet_width={width:g} --mobilenet_ms={ms:.3f}"
        )
    else:
        width, ms = study.mobilenet
    return Contender(
        "mobilenet_v2",
        "mobilenet_v2",
        f"mobilenet_v2, width {width:g}",
        None,
        search_vs_random.mobilenet_v2(width, table.num_classes),
        ms,
    )


def head(study: Study, parts: data.Parts) -> dict[str, Any]:
    """Returns the entries of study.json that describe the study itself."""
    config = study.config
    return {
        "schema": 1,
        "space": config.space,
        "blocks": len(config.search_space.blocks),
        "image_size": config.image_size,
        "dataset": config.dataset,
        "examples": {
            "weights": len(parts.weights),
            "held_out": len(parts.alpha),
            "test": len(parts.test),
        },
        "search_image_size": config.search_image_size,
        "train_image_size": training_size(config),
        "batch_size": config.batch_size,
        "seeds": list(study.seeds),
        "train_seeds": list(study.train_seeds),
        "reference": format_arch(config.search_space.arch(study.reference)),
        "least_spent": derivation.least_ms(config) / config.target_ms,
        "search": {
            name: getattr(config, name)
            for name in (
                "warmup_epochs",
                "search_epochs",
                "warmup_learning_rate",
                "search_learning_rate",
                "initialisation",
                "estimator",
                "alpha_learning_rate",
                "alpha_every",
                "latency_control",
                "latency_weight",
                "finalists",
            )
        },
        "training": recipe(config),
    }


def _seeds(flag: str, texts: Sequence[str]) -> tuple[int, ...]:
    if not texts or not all(text.strip().isdecimal() for text in texts):
        raise ValueError(f"--{flag}={','.join(texts)}: give whole numbers from 0, such as 0,1,2")
    seeds = tuple(map(int, texts))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"--{flag}={','.join(texts)} names a seed twice; give each once")
    return seeds


def _parts(names: Sequence[str]) -> tuple[str, ...]:
    unknown = next((name for name in names if name not in PARTS), None)
    if unknown is not None or not names:
        raise ValueError(f"--parts={','.join(names)}: give {', '.join(PARTS)} or both")
    return tuple(names)


if __name__ == "__main__":
    define_flags()
    flags.DEFINE_list(
        "seeds", "0,1,2", "Seeds of the searches; --seed is the seed of the random networks."
    )
    flags.DEFINE_list("train_seeds", None, "Seeds of every network's trainings; unset is --seeds.")
    flags.DEFINE_list("parts", ",".join(PARTS), f"Parts of the study: {', '.join(PARTS)}.")
    flags.DEFINE_integer(
        "random_networks", 20, "Number of random networks that are trained.", lower_bound=0
    )
    flags.DEFINE_string(
        "reference",
        REFERENCE,
        "Architecture that makes the budgets equally tight: each is the same fraction of its "
        "latency. Unset is ProxylessNAS mobile's blocks.",
    )
    flags.DEFINE_string(
        "mobile_table",
        None,
        "Latency table of the other device; unset is the "
        "Pixel 1's, as published with ProxylessNAS.",
    )
    flags.DEFINE_float(
        "mobilenet_width",
        None,
        "Width multiplier of MobileNetV2; unset is chosen by measuring on the device.",
        lower_bound=0.01,
    )
    flags.DEFINE_float(
        "mobilenet_ms",
        None,
        "Latency in ms of MobileNetV2 of that width, where the device is unavailable.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "output", None, "Folder for study.json, results.md and figures; unset is --workdir."
    )
    command.run(main)
