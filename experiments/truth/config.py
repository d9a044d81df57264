"""Flags of the study against the truth, read once into a frozen `Truth`."""

import dataclasses
import pathlib
import zlib

from absl import flags

from experiments.search.config import Config, config_from_flags
from experiments.search.config import define_flags as define_search_flags
from experiments.study.config import seeds_of
from experiments.truth.nas_bench_macro import IMAGE_SIZE, SPACE, Benchmark, read_benchmark
from jaxnas.estimators import ESTIMATORS
from profiling import command

EVEN = "even"  # weights drawn evenly to the end, without α
ALONE = "even+"  # before an estimator: its α learns after the weights of `even` are trained
METHODS = (EVEN, *ESTIMATORS, *(ALONE + estimator for estimator in ESTIMATORS))


@dataclasses.dataclass(frozen=True)
class Truth:
    """Configuration of the study: that of its searches, and the flags below by their names."""

    config: Config
    benchmark: Benchmark
    budgets: tuple[float, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    networks: int
    evaluations: int
    output: pathlib.Path

    @property
    def key(self) -> str:
        """Identifies what is scored; results of another key are not of this study."""
        text = repr((self.config.seed, self.networks, self.evaluations, self.budgets))
        return f"{zlib.crc32(text.encode() + self.benchmark.top1.tobytes()):08x}"

    def config_of(self, seed: int) -> Config:
        """Returns the configuration of a seed's runs, in a folder of its own."""
        folder = str(pathlib.Path(self.config.workdir, f"seed{seed}"))
        return dataclasses.replace(self.config, seed=seed, workdir=folder)


def define_flags() -> None:
    """Defines the flags of the study, which include those of a search."""
    define_search_flags()
    flags.DEFINE_string(
        "benchmark",
        None,
        "File of NAS-Bench-Macro, nas-bench-macro_cifar10.json, or it with gzip.",
    )
    flags.DEFINE_list("budgets", "40,55,70", "Budgets in millions of multiply-accumulates.")
    flags.DEFINE_list(
        "methods",
        ",".join(METHODS),
        f"Methods: {EVEN}, a supernet whose paths are drawn evenly; an estimator of α, as in a "
        f"search; {ALONE}ESTIMATOR, whose α learns alone from the supernet of {EVEN}.",
    )
    flags.DEFINE_list("seeds", "0,1,2,3,4", "Seeds of the supernets.")
    flags.DEFINE_integer(
        "networks", 200, "Random networks whose scores are compared with the truth.", 2
    )
    flags.DEFINE_integer(
        "evaluations", 100, "Networks that evolution, and best of random, score for a budget.", 1
    )
    flags.DEFINE_string(
        "output", None, "Folder for truth.json, truth.md and the figure; unset is --workdir."
    )


def truth_from_flags() -> Truth:
    """Returns the flags as a checked `Truth`; raises ValueError for what is not allowed."""
    args = flags.FLAGS
    config = dataclasses.replace(config_from_flags(), workdir=args.workdir or "runs/truth")
    if config.space != SPACE.name:
        raise ValueError(
            f"--space={config.space}: the truth is known of {SPACE.name} alone; give it, as "
            f"truth.flags does"
        )
    if config.derive != "budget":
        raise ValueError(
            f"--derive={config.derive}: the truth is compared within budgets; give --derive=budget"
        )
    unknown = [method for method in args.methods if method not in METHODS]
    if unknown or not args.methods:
        raise ValueError(f"--methods={','.join(args.methods)}: give some of {', '.join(METHODS)}")
    seeds = seeds_of(args.seeds)
    if args.benchmark is None:
        raise ValueError("--benchmark is missing: give the file of NAS-Bench-Macro")
    benchmark = read_benchmark(pathlib.Path(args.benchmark))
    if args.networks > len(benchmark.paths):
        raise ValueError(
            f"--networks={args.networks}: the benchmark has {len(benchmark.paths)}; give at most "
            f"as many"
        )
    output = command.output_folder("output", args.output or config.workdir)
    return Truth(
        config,
        benchmark,
        _budgets(args.budgets, benchmark),
        tuple(dict.fromkeys(args.methods)),
        seeds,
        args.networks,
        args.evaluations,
        output,
    )


def _budgets(texts: list[str], benchmark: Benchmark) -> tuple[float, ...]:
    try:
        budgets = tuple(sorted(set(map(float, texts))))
    except ValueError as error:
        raise ValueError(f"--budgets={','.join(texts)}: {error}; give numbers") from None
    for budget in budgets:
        if not len(benchmark.within(budget)):
            low, high = benchmark.millions.min(), benchmark.millions.max()
            raise ValueError(
                f"--budgets={','.join(texts)}: no network of {SPACE.name} uses {budget:g} million; "
                f"they have {low:.1f} to {high:.1f} at {IMAGE_SIZE} px"
            )
    if not budgets:
        raise ValueError("--budgets is empty: give one or more, such as 40,55,70")
    return budgets
