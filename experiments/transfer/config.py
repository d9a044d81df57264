"""Flags of the study of transfer, read once into a frozen `Transfer`."""

import dataclasses
import pathlib

from absl import flags

from experiments.search.config import Config, config_from_flags
from experiments.search.config import define_flags as define_search_flags
from experiments.study.config import seeds_of
from profiling import command


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Configuration of the study: that of its searches, and the flags below by their names."""

    config: Config
    seeds: tuple[int, ...]
    random_networks: int
    output: pathlib.Path

    @property
    def from_scratch(self) -> Config:
        """Configuration of the searches without published weights."""
        return dataclasses.replace(self.config, initialisation="shared")


def define_flags() -> None:
    """Defines the flags of the study, which include those of a search."""
    define_search_flags()
    flags.DEFINE_list(
        "seeds", "0,1,2,3,4", "Seeds of the searches, each of which draws the pictures."
    )
    flags.DEFINE_integer(
        "random_networks", 1, "Random networks within the budget for each seed.", lower_bound=1
    )
    flags.DEFINE_string(
        "output", None, "Folder for transfer.json and transfer.md; unset is --workdir."
    )


def transfer_from_flags() -> Transfer:
    """Returns the flags as a checked `Transfer`; raises ValueError for what is not allowed."""
    args = flags.FLAGS
    config = dataclasses.replace(config_from_flags(), workdir=args.workdir or "runs/transfer")
    for name, value, wanted in (
        ("initialisation", config.initialisation, "pretrained"),
        ("derive", config.derive, "budget"),
    ):
        if value != wanted:
            raise ValueError(
                f"--{name}={value}: the study is of networks found with published weights within a "
                f"budget; give --{name}={wanted}, as transfer.flags does"
            )
    output = command.output_folder("output", args.output or config.workdir)
    return Transfer(config, seeds_of(args.seeds), args.random_networks, output)
