"""Flags of a study, read once into a frozen `Study`."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags

from experiments.search.config import Config, check, config_from_flags
from experiments.search.config import define_flags as define_search_flags
from experiments.study import device_preferences, official_search, rivals
from experiments.study.rivals import Rival
from jaxnas.space_file import find_space
from profiling import command, tables

PARTS = ("affinities", "worth")
# The blocks of the published ProxylessNAS mobile. Each budget is a fraction of their latency.
REFERENCE = (
    "k5e3 k3e3 - - k7e3 k3e3 k5e3 k5e3 k7e6 k5e3 k5e3 k5e3 "
    "k5e6 k5e3 k5e3 k5e3 k7e6 k7e6 k7e3 k7e3 k7e6"
)
MOBILE_TABLE = tables.SHIPPED / "pixel_1_proxyless_224.json"


@dataclasses.dataclass(frozen=True)
class Study:
    """Configuration of a study: that of its searches, and the flags below by their names.

    `reference` is a path, int32 [blocks]; None without part affinities. `other_spaces` are the
    configurations of searches in --other_spaces.
    """

    config: Config
    seeds: tuple[int, ...]
    trainings: int
    parts: tuple[str, ...]
    other_spaces: tuple[Config, ...]
    rivals: tuple[Rival, ...]
    random_networks: int
    official_code: pathlib.Path | None
    reference: np.ndarray | None
    mobile_table: pathlib.Path
    output: pathlib.Path


def define_flags() -> None:
    """Defines the flags of a study, which include those of a search."""
    define_search_flags()
    flags.DEFINE_list(
        "seeds", "0,1,2", "Seeds of the searches; --seed is the seed of the random networks."
    )
    flags.DEFINE_integer(
        "trainings",
        None,
        "Trainings of every found and random network, with as many of --seeds, in turn; unset is "
        "all of them. A published network is trained with each.",
        lower_bound=1,
    )
    flags.DEFINE_list("parts", ",".join(PARTS), f"Parts of the study: {', '.join(PARTS)}.")
    flags.DEFINE_list(
        "other_spaces",
        [],
        "Further spaces whose found networks are compared with those of --space in part worth: "
        "SPACE where its latency table ships, else SPACE:TABLE.",
    )
    flags.DEFINE_list(
        "rivals",
        "mobilenet_v2",
        "Published networks in part worth, each as wide as the budget allows on the device. "
        "NAME:WIDTH:MS, as this program prints it, gives the width and the latency where the "
        "device is unavailable.",
    )
    flags.DEFINE_integer(
        "random_networks",
        20,
        "Number of random networks that are trained, 0 or at least 2.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "official_code",
        None,
        f"Folder `search` of a clone of {official_search.REPOSITORY}; networks that it finds are "
        f"compared with those of --space in part worth. Needs PyTorch.",
    )
    flags.DEFINE_string(
        "reference",
        REFERENCE,
        "Architecture that makes the budgets of part affinities equally tight: each is the same "
        "fraction of its latency. Unset is ProxylessNAS mobile's blocks.",
    )
    flags.DEFINE_string(
        "mobile_table",
        None,
        "Latency table of the other device; unset is the "
        "Pixel 1's, as published with ProxylessNAS.",
    )
    flags.DEFINE_string(
        "output", None, "Folder for study.json, results.md and figures; unset is --workdir."
    )


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
    parts = _parts(args.parts)
    if "worth" in parts and args.random_networks == 1:
        raise ValueError("--random_networks=1: give 0, or 2 or more; an interval needs them")
    seeds = seeds_of(args.seeds)
    if args.trainings is not None and args.trainings > len(seeds):
        raise ValueError(
            f"--trainings={args.trainings}: give at most the {len(seeds)} seeds of --seeds"
        )
    official_code = None if args.official_code is None else pathlib.Path(args.official_code)
    if official_code is not None:
        if "worth" not in parts:
            raise ValueError("--official_code: its networks are compared in part worth alone")
        official_search.check(official_code, config)
    space, reference = config.search_space, None
    if "affinities" in parts:
        device_preferences.check_space(space)
        try:
            reference = space.path(space.parse(args.reference))
        except ValueError as error:
            raise ValueError(f"--reference: {error}") from None
    output = command.output_folder("output", args.output or config.workdir)
    return Study(
        config,
        seeds,
        args.trainings or len(seeds),
        parts,
        _other_spaces(config, args.other_spaces),
        rivals.parse_all(args.rivals, config.target_ms),
        args.random_networks,
        official_code,
        reference,
        pathlib.Path(args.mobile_table or MOBILE_TABLE),
        output,
    )


def _other_spaces(config: Config, texts: Sequence[str]) -> tuple[Config, ...]:
    configs = []
    for text in texts:
        space, _, table = text.strip().partition(":")
        space, table = command.expanded_home(space), command.expanded_home(table)
        name = find_space(space).name
        configs.append(
            dataclasses.replace(config, space=space, space_name=name, latency_table=table or None)
        )
        check(configs[-1])
    spaces = [one.search_space.name for one in (config, *configs)]
    if len(set(spaces)) < len(spaces):
        raise ValueError(
            f"--other_spaces={','.join(texts)} with --space={config.space} names a space twice; "
            f"give each once"
        )
    return tuple(configs)


def seeds_of(texts: Sequence[str]) -> tuple[int, ...]:
    """Returns the seeds of --seeds; raises ValueError for what is no seed, or one twice."""
    if not texts or not all(text.strip().isdecimal() for text in texts):
        raise ValueError(f"--seeds={','.join(texts)}: give whole numbers from 0, such as 0,1,2")
    seeds = tuple(map(int, texts))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds={','.join(texts)} names a seed twice; give each once")
    return seeds


def _parts(names: Sequence[str]) -> tuple[str, ...]:
    unknown = next((name for name in names if name not in PARTS), None)
    if unknown is not None or not names:
        raise ValueError(f"--parts={','.join(names)}: give {', '.join(PARTS)} or both")
    return tuple(names)
