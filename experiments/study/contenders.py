"""Networks of a study as contenders: found ones, and published ones scaled to the budget."""

import pathlib
from collections.abc import Sequence

import numpy as np

from experiments.search.config import Config
from experiments.study import rivals
from experiments.study.comparison import Contender
from experiments.study.config import Study
from experiments.study.device_preferences import Found
from experiments.study.rivals import Rival
from experiments.study.study_runs import Runs
from jaxnas.latency import LatencyTable
from jaxnas.network import network_of
from jaxnas.space import format_arch
from jaxnas.zoo import find_network
from profiling import command, tables
from profiling.errors import DeviceUnavailable
from profiling.progress import Progress
from profiling.recording_device import Recording
from profiling.registry import device_kind, device_names, open_device

OFFICIAL = "found by official code"


def table_of(config: Config) -> LatencyTable:
    """Returns the table of a search, the given or the shipped one.

    Raises:
      ValueError: no table, or a table for something else.
    """
    space = config.search_space
    file = config.latency_table or tables.shipped(
        config.device, space, config.image_size, config.options
    )
    if file is None:
        raise ValueError(
            f"no latency table ships for {config.device}, the {space.name} space and "
            f"{config.image_size} px: build one with `python -m profiling.tables` and "
            f"pass it as --latency_table, or as SPACE:TABLE in --other_spaces"
        )
    table = LatencyTable.load(pathlib.Path(file), space)
    table.check(
        [device_kind(name) for name in device_names(config.device)],
        config.image_size,
        config.options.settings(),
    )
    return table


def of_space(
    config: Config,
    table: LatencyTable,
    name: str,
    group: str,
    number: int,
    path: np.ndarray,
    most_probable_ms: float | None = None,
) -> Contender:
    """Returns a network of a search's space as a contender; see `Contender` for the last ones."""
    arch = config.search_space.arch(path)
    return Contender(
        name,
        group,
        number,
        format_arch(arch),
        config.space,
        network_of(config.search_space, arch, table.num_classes),
        table.path_ms(path),
        most_probable_ms,
    )


def found_networks(
    study: Study, config: Config, table: LatencyTable, runs: Runs
) -> list[Contender]:
    """Returns the networks found in a space, one for each seed that no other process holds."""
    space = config.search_space
    group = f"found in {space.name}" if study.other_spaces else "found"
    name = "found" if config == study.config else f"{space.name}-found"
    found = [runs.search(config, table, config.target_ms, seed) for seed in study.seeds]
    return contenders_of(config, table, name, group, found)


def official_networks(study: Study, table: LatencyTable, runs: Runs) -> list[Contender]:
    """Returns the networks that the official code finds, as `found_networks`; none without it."""
    code = study.official_code
    if code is None:
        return []
    found = [runs.official_search(code, table, seed) for seed in study.seeds]
    return contenders_of(study.config, table, "official", OFFICIAL, found)


def contenders_of(
    config: Config, table: LatencyTable, name: str, group: str, found: Sequence[Found | None]
) -> list[Contender]:
    """Returns found networks as contenders, without those that another process holds."""
    space = config.search_space
    return [
        of_space(
            config,
            table,
            f"{name}{one.seed}",
            group,
            number,
            space.path(space.parse(one.architecture)),
            one.most_probable_ms,
        )
        for number, one in enumerate(found)
        if one is not None
    ]


def fitted_rivals(study: Study, table: LatencyTable, progress: Progress) -> list[Contender]:
    """Returns the published networks of part worth; the device decides the widths not given.

    Raises:
      DeviceUnavailable: with the remedy.
    """
    if "worth" not in study.parts:
        return []
    if all(rival.width is not None for rival in study.rivals):
        return [contender(rival, table.num_classes) for rival in study.rivals]
    config = study.config
    try:
        opened = open_device(table.device, config.options)
    except DeviceUnavailable as error:
        raise DeviceUnavailable(
            f"{error}\nWidths of published networks are chosen with {table.device}: start this "
            f"study on a machine that has it, and pass the --rivals that it prints first"
        ) from error
    with (
        command.open_store(config.store) as store,
        Recording(opened, store) as device,
        command.usage_errors(),
    ):
        fitted = [
            rival
            if rival.width is not None
            else rivals.fit(
                device, rival.network, config.target_ms, config.image_size, table.num_classes
            )
            for rival in study.rivals
        ]
    progress.print(
        f"the widest within {config.target_ms:g} ms: --rivals={','.join(map(str, fitted))}"
    )
    return [contender(rival, table.num_classes) for rival in fitted]


def contender(rival: Rival, num_classes: int) -> Contender:
    """Returns a fitted published network as a contender."""
    assert rival.width is not None and rival.latency_ms is not None
    return Contender(
        rival.network,
        rival.network,
        0,
        f"{rival.network}, width {rival.width:g}",
        None,
        rivals.scaled(find_network(rival.network, num_classes), rival.width),
        rival.latency_ms,
    )
