"""Latency tables of a study's searches, and networks of their spaces as contenders."""

import pathlib

import numpy as np

from experiments.search.config import Config
from experiments.study.comparison import Contender
from jaxnas.latency import LatencyTable
from jaxnas.network import network_of
from jaxnas.space import format_arch
from profiling import tables
from profiling.registry import device_kind, device_names


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
    config: Config, table: LatencyTable, name: str, group: str, number: int, path: np.ndarray
) -> Contender:
    """Returns a network of a search's space as a contender."""
    arch = config.search_space.arch(path)
    return Contender(
        name,
        group,
        number,
        format_arch(arch),
        config.space,
        network_of(config.search_space, arch, table.num_classes),
        table.path_ms(path),
    )
