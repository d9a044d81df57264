"""The runs of a sweep: every combination of the values that its flags take."""

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence

from absl import flags
from absl.testing import flagsaver

from experiments.runs.folder import check_workdir
from experiments.search import config as search_config
from experiments.search.config import Config
from experiments.train import config as train_config
from experiments.train.config import TrainConfig

PROGRAMS = {"search": search_config, "train": train_config}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
      name: the swept flags and their values; the name of its folder, too.
      values: by flag, as text.
      config: of the program that runs.
      arguments: the program's command line, with all that was given and not only what is swept.
    """

    name: str
    values: dict[str, str]
    config: Config | TrainConfig
    arguments: tuple[str, ...]


def define_program_flags(program: str) -> None:
    """Defines the flags of the program that a sweep runs."""
    PROGRAMS[program].define_flags()


def parse_sweeps(texts: Sequence[str]) -> dict[str, list[str]]:
    """The values of each flag, of texts such as `target_ms=14,17.2`.

    Raises:
      ValueError: no flag, no value, or one twice.
    """
    swept: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        listed = values.split(",")
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
    """The runs, in the order of the flags, the last changing fastest; seeds within each.

    Args:
      program: `search` or `train`; its flags as given hold for all runs.
      swept: of `parse_sweeps`.
      seeds: 0 to this are swept, too; 1 leaves the seed to the program's own flag.
      zipped: the first values of all flags together, then the second, instead of all combinations.
      folder: of the sweep, in which every run has a folder.

    Raises:
      ValueError: a flag that the program has not, a value it does not allow, a folder that holds
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
    combinations = itertools.product(*swept.values())
    if zipped:
        together = {
            name: values for name, values in swept.items() if not (name == "seed" and seeds > 1)
        }
        counts = {len(values) for values in together.values()}
        if len(counts) > 1:
            raise ValueError(
                "--zip: flags have "
                + ", ".join(f"{len(values)} values of {name}" for name, values in together.items())
                + "; give as many of each"
            )
        rows = zip(*together.values(), strict=True)
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
    """The program's flags that a sweep passes on; the folder is the sweep's to say."""
    fields = dataclasses.fields({"search": Config, "train": TrainConfig}[program])
    return [field.name for field in fields if field.name in flags.FLAGS and field.name != "workdir"]


def _given(program: str, swept: dict[str, list[str]]) -> list[str]:
    """The program's flags as they were given, but for those swept."""
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
