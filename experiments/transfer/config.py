"""Flags of the study of transfer, read once into a frozen `Transfer`."""

import dataclasses
import pathlib

from absl import flags

from experiments.search.config import Config, config_from_flags
from experiments.search.config import define_flags as define_search_flags
from experiments.study.config import seeds_of
from profiling import command

SCRATCH_EPOCHS = 3  # times those of a search with published weights, in warm-up and training
SCRATCH_RATE = 0.02  # of a training from a supernet that began with random weights


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Configuration of the study: that of its searches, and the flags below by their names."""

    config: Config
    seeds: tuple[int, ...]
    random_networks: int
    output: pathlib.Path

    @property
    def from_scratch(self) -> Config:
        """Configuration of the searches without published weights.

        Their rates are those of vpu.flags and its defaults, and their epochs several times as many,
        since published weights need few small steps and random ones many large ones.
        """
        return dataclasses.replace(
            self.config,
            initialisation="shared",
            warmup_epochs=SCRATCH_EPOCHS * self.config.warmup_epochs,
            train_epochs=SCRATCH_EPOCHS * self.config.train_epochs,
            train_learning_rate=SCRATCH_RATE,
            warmup_learning_rate=Config.warmup_learning_rate,
            search_learning_rate=Config.search_learning_rate,
            batch_norm_group=Config.batch_norm_group,
        )


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
