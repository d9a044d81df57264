"""Studies device preferences, and found networks versus others.

    python -m experiments.study --flagfile=vpu.flags --flagfile=study.flags --output=DIR

Part affinities compares device preferences: the space is searched with two latency tables, the
device's and the Pixel 1's, at equally tight budgets. Depth, expansions and kernels of the found
networks are compared with those of random networks of the same budgets, and with the poster's
three statements. Part worth compares the device's found networks with random networks of its
budget, with those that the official ProxylessNAS code finds, with those found in other spaces, and
with published networks as wide as the budget allows: all are trained from scratch with one recipe
and tested: its epochs, weight decay, label smoothing and precision are those of the flags, the rest
is the default of experiments.train. A device is opened only to choose widths.

Each search and each training has its own folder in --workdir. The same command resumes a stopped
study; a stopped search by the official code starts again. Several processes may work in one folder
at once; a last call then writes the results.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.runs import program
from experiments.runs.picture_check import check_pictures
from experiments.search import derivation
from experiments.search.latency_table import check_target
from experiments.search.schedule import Schedule
from experiments.study import comparison, device_preferences, official_search, results
from experiments.study.comparison import Contender, Trained
from experiments.study.config import Study, define_flags, study_from_flags
from experiments.study.contenders import (
    fitted_rivals,
    found_networks,
    of_space,
    official_networks,
    table_of,
)
from experiments.study.random_networks import Draw, draw_within_budget
from experiments.study.study_runs import Runs
from experiments.study.training_recipe import recipe, training_size
from jaxnas import data
from jaxnas.latency import LatencyTable
from jaxnas.space import format_arch
from profiling import command
from profiling.progress import Progress

BASELINE_NETWORKS = 200  # random networks per device for its preferences


@dataclasses.dataclass(frozen=True)
class Budgeted:
    """A device's table and budget, and random networks that use it."""

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
        check_pictures(study.config.dataset)
        devices = budgets(study)
        others = [table_of(config) for config in study.other_spaces]
        for config, table in zip(study.other_spaces, others, strict=True):
            check_target(config, table)
        parts = dataclasses.replace(study.config, seed=study.seeds[0]).parts()
        schedule = Schedule.of(study.config, len(parts.weights))
        if study.official_code is not None:
            official_search.check_epoch(study.config, schedule.epoch_steps)
    with Progress() as progress:
        runs = Runs(study.config, progress)
        # First, so that an unavailable device ends the study before hours of work.
        published = fitted_rivals(study, devices[0].table, progress)
        preferences = run_affinities(study, devices, runs) if len(devices) > 1 else None
        compared = (
            run_worth(study, devices[0], others, published, runs)
            if "worth" in study.parts
            else None
        )
    if runs.missing:
        print(
            f"no results written: {len(runs.missing)} runs are held by other processes: "
            f"{', '.join(runs.missing)}; run the same command again when they have ended",
            file=sys.stderr,
        )
        return command.FAILED
    document = {**head(study, parts), "affinities": preferences, "worth": compared}
    files = results.write(document, study.output)
    print(f"files in {study.output}: {', '.join(files)}")
    return 0


def budgets(study: Study) -> list[Budgeted]:
    """Returns the device at --target_ms, and the other at the same fraction of its reference.

    Raises:
      ValueError: no table, a table for something else, or a budget no random network meets.
    """
    config, space = study.config, study.config.search_space
    first = table_of(config)
    targets = [(first, config.target_ms)]
    count = study.random_networks
    if study.reference is not None:
        second = LatencyTable.load(study.mobile_table, space)
        second.check([second.device], config.image_size, second.asked)
        if second.device == first.device:
            raise ValueError(
                f"--mobile_table={study.mobile_table} is a table of {second.device}, like the "
                f"study's first table; give one of another device"
            )
        fraction = config.target_ms / first.path_ms(study.reference)
        targets.append((second, fraction * second.path_ms(study.reference)))
        count = max(BASELINE_NETWORKS, count)
    least_fraction = derivation.least_ms(config) / config.target_ms
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
    reference = study.reference
    assert reference is not None  # part affinities has one
    found = [
        [runs.search(study.config, device.table, device.target_ms, seed) for device in devices]
        for seed in study.seeds
    ]
    if runs.missing:
        return None
    space = study.config.search_space
    return device_preferences.document(
        *(
            device_preferences.device_document(
                space, device.table, device.target_ms, reference, of_device, device.baseline
            )
            for device, of_device in zip(devices, zip(*found, strict=True), strict=True)
        )
    )


def run_worth(
    study: Study,
    device: Budgeted,
    other_tables: Sequence[LatencyTable],
    published: Sequence[Contender],
    runs: Runs,
) -> dict[str, Any] | None:
    """Returns the `worth` object of study.json; None where runs are missing."""
    networks = found_networks(study, study.config, device.table, runs)
    networks += [
        of_space(study.config, device.table, f"random{index:02d}", "random", index, path)
        for index, path in enumerate(device.baseline.paths[: study.random_networks])
    ]
    networks += official_networks(study, device.table, runs)
    for config, table in zip(study.other_spaces, other_tables, strict=True):
        networks += found_networks(study, config, table, runs)
    trained: list[tuple[Contender, list[Trained]]] = []
    for one in [*networks, *published]:
        seeds = np.roll(study.seeds, -one.number).tolist()
        count = len(seeds) if one.space is None else study.trainings
        each = [runs.train(one, seed) for seed in sorted(seeds[:count])]
        trained.append((one, [run for run in each if run is not None]))
    if runs.missing:
        return None
    return comparison.document(
        trained,
        study.config.image_size,
        device.target_ms,
        device.baseline,
        len(runs.parts_of(study.seeds[0]).test),
    )


def head(study: Study, parts: data.Parts) -> dict[str, Any]:
    """Returns the entries of study.json that describe the study itself."""
    config = study.config
    return {
        "schema": 3,
        "space": config.space,
        "blocks": len(config.search_space.blocks),
        "other_spaces": [one.space for one in study.other_spaces],
        "image_size": config.image_size,
        "dataset": pathlib.Path(config.dataset).name,
        "examples": {
            "weights": len(parts.weights),
            "held_out": len(parts.alpha),
            "test": len(parts.test),
        },
        "search_image_size": config.search_image_size,
        "train_image_size": training_size(config),
        "batch_size": config.batch_size,
        "seeds": list(study.seeds),
        "trainings": study.trainings,
        "reference": study.reference
        if study.reference is None
        else format_arch(config.search_space.arch(study.reference)),
        "least_spent": derivation.least_ms(config) / config.target_ms,
        "official_code": None
        if study.official_code is None
        else official_search.provenance(study.official_code),
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


if __name__ == "__main__":
    define_flags()
    command.run(main)
