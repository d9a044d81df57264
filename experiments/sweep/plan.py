"""The runs of a sweep: every combination of the values of its flags."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Sequence

from absl import flags
from absl.testing import flagsaver

from experiments.runs.run_folder import check_workdir
from experiments.search import config as search_config
from experiments.search.config import Config
from experiments.train import config as train_config
from experiments.train.config import TrainConfig
from profiling import command

PROGRAMS = {"search": search_config, "train": train_config}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
      name: the swept flags and their values; also the name of the run's folder.
      values: value of each swept flag, as text.
      config: configuration of the program.
      arguments: command line of the program: the flags as given, and the swept ones.
    """

    name: str
    values: dict[str, str]
    config: Config | TrainConfig
    arguments: tuple[str, ...]


def define_program_flags(program: str) -> None:
    """Defines the flags of the program that a sweep runs."""
    PROGRAMS[program].define_flags()


def parse_sweeps(texts: Sequence[str]) -> dict[str, list[str]]:
    """Returns the values of each flag, from texts such as `target_ms=14,17.2`.

    Raises:
      ValueError: a text without flag or values, or a flag or value given twice.
    """
    swept: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        listed = [*map(command.expanded_home, values.split(","))]
        if not equals or not all(listed):
            raise ValueError(
                f"--sweep={text}: give a flag and its values, such as --sweep=target_ms=14,17.2,20"
            )
        if name in swept or len(set(listed)) < len(listed):
            raise ValueError(f"--sweep={text}: a flag is swept once, and each value given once")
        swept[name] = listed
    return swept


def plan(
    program: str, swept: dict[str, list[str]], seeds: int, zipped: bool, folder: pathlib.Path
) -> list[Run]:
    """Returns the runs in the order of the flags: the last flag changes fastest, seeds innermost.

    Args:
      program: `search` or `train`; its flags as given apply to all runs.
      swept: result of `parse_sweeps`.
      seeds: number of seeds to sweep, from 0; 1 leaves the seed to the program's own flag.
      zipped: combine the first values of all flags, then the second ones, and so on, instead of
        all combinations; seeds are combined with each.
      folder: folder of the sweep, in which every run gets its own folder.

    Raises:
      ValueError: an unknown flag, a value that the program does not allow, or a folder that holds
        another run.
    """
    names = _flags_of(program)
    for name in swept:
        if name not in names:
            raise ValueError(
                f"--sweep={name}=…: experiments.{program} has no such flag to sweep; "
                f"`python -m experiments.{program} --help` lists them"
            )
    if seeds > 1:
        if "seed" in swept:
            raise ValueError(f"--seeds={seeds} and --sweep=seed=…: give one of them")
        swept = {**swept, "seed": [str(seed) for seed in range(seeds)]}
    if not swept:
        raise ValueError("nothing is swept: give --sweep=FLAG=VALUE,VALUE or --seeds=2 or more")
    combinations: Iterable[tuple[str, ...]] = itertools.product(*swept.values())
    if zipped:
        paired = {
            name: values for name, values in swept.items() if not (name == "seed" and seeds > 1)
        }
        counts = {len(values) for values in paired.values()}
        if len(counts) > 1:
            raise ValueError(
                "--zip: flags have "
                + ", ".join(f"{len(values)} values of {name}" for name, values in paired.items())
                + "; give the same number of each"
            )
        rows = zip(*paired.values(), strict=True) if paired else [()]
        combinations = [
            (*row, *seed)
            for row in rows
            for seed in ([(text,) for text in swept["seed"]] if seeds > 1 else [()])
        ]
    given = _given(program, swept)
    return [
        _run(program, dict(zip(swept, values, strict=True)), given, folder)
        for values in combinations
    ]


def _flags_of(program: str) -> list[str]:
    """Returns the program's flags that a sweep passes on; the sweep itself sets the folder."""
    fields = dataclasses.fields({"search": Config, "train": TrainConfig}[program])
    return [field.name for field in fields if field.name in flags.FLAGS and field.name != "workdir"]


def _given(program: str, swept: dict[str, list[str]]) -> list[str]:
    """Returns the program's flags as given, without the swept ones."""
    return [
        line
        for name in _flags_of(program)
        if flags.FLAGS[name].present and name not in swept
        for line in flags.FLAGS[name].serialize().splitlines()
    ]


def _run(program: str, values: dict[str, str], given: list[str], folder: pathlib.Path) -> Run:
    name = ",".join(f"{flag}={text}" for flag, text in values.items()).replace("/", "_")
    own = {**values, "workdir": str(folder / name)}
    with flagsaver.flagsaver():
        for flag, text in own.items():
            try:
                flags.FLAGS[flag].parse(text)
            except flags.Error as error:
                raise ValueError(f"--sweep={flag}=…: {error}") from None
        config = PROGRAMS[program].config_from_flags()
    check_workdir(config)
    return Run(name, values, config, (*given, *(f"--{flag}={text}" for flag, text in own.items())))
