"""Compares networks found with published weights with others, on few pictures.

    python -m experiments.transfer --flagfile=transfer.flags --flagfile=transfer_study.flags \\
        --dataset=FOLDER --train_examples=900 --held_out=100

Each seed draws other pictures of the data set. Four kinds of networks are trained with them: those
found with published weights, those found from random weights, random ones of the budget with
published weights fitted to them, and EfficientNet-Lite0 with its published weights, which takes
longer than the budget. Those from random weights have a recipe of their own.

Each search and each training has its own folder in --workdir. The same command resumes a stopped
study. Several processes may work in one folder at once; a last call then writes the results.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from experiments.runs import program
from experiments.runs.picture_check import check_pictures
from experiments.search import derivation
from experiments.search.config import Config
from experiments.search.schedule import Schedule
from experiments.study import comparison
from experiments.study.comparison import Contender, Trained
from experiments.study.contenders import of_space, table_of
from experiments.study.random_networks import Draw, draw_within_budget
from experiments.study.study_runs import Runs
from experiments.train.published_weights import with_published_weights
from experiments.train.supernet_weights import from_supernet
from experiments.transfer import report
from experiments.transfer.config import Transfer, define_flags, transfer_from_flags
from jaxnas.latency import LatencyTable
from jaxnas.network import Network
from jaxnas.zoo import LITE0
from profiling import command
from profiling.progress import Progress

FOUND, SCRATCH = "found with transfer", "found from scratch"
RANDOM, WHOLE = "random with transfer", "EfficientNet-Lite0"
Start = Callable[[int], Network]  # the network with its initial weights, for a number of classes


def main(argv: Sequence[str]) -> int:
    """Runs the study that the flags describe, as a program; returns the exit status."""
    del argv
    return program.run(run_study)


def run_study() -> int:
    """Runs the study that the flags describe; returns the exit status."""
    with command.usage_errors():
        study = transfer_from_flags()
        config, seeds = study.config, study.seeds
        check_pictures(config.dataset)
    with Progress() as progress:
        with command.usage_errors():
            table = table_of(config)
            runs = Runs(config, progress)
            parts = runs.parts_of(seeds[0])
            Schedule.of(config, len(parts.weights))
            config.training.epoch_steps(len(parts.weights), config.dataset, "train_batch_size")
            draw = draw_within_budget(
                config.search_space,
                table,
                derivation.least_ms(config),
                config.target_ms,
                study.random_networks * len(seeds),
                config.seed,
            )
        trained: list[tuple[Contender, list[Trained]]] = []
        for contender, start, seed in networks(study, table, draw, runs):
            of_group = study.from_scratch if contender.group == SCRATCH else config
            done = runs.tune(contender, start, seed, of_group.training)
            if done is not None:
                trained.append((contender, [done]))
    if runs.missing:
        print(
            f"no results written: other processes hold {', '.join(runs.missing)}; run the same "
            f"command again when they have ended",
            file=sys.stderr,
        )
        return command.FAILED
    compared = comparison.document(
        trained, config.image_size, config.target_ms, draw, len(parts.test), by_seed=True
    )
    files = report.write(report.document(study, parts, compared), study.output)
    print(f"files in {study.output}: {', '.join(files)}")
    return 0


def networks(
    study: Transfer, table: LatencyTable, draw: Draw, runs: Runs
) -> Iterator[tuple[Contender, Start, int]]:
    """Yields each network of the comparison with its start and its seed, group by group."""
    config, space = study.config, study.config.search_space

    def contender(group: str, number: int, name: str, path: np.ndarray) -> Contender:
        return of_space(config, table, name, group, number, path)

    def published(one: Contender, seed: int) -> Start:
        part, size = runs.parts_of(seed).weights, config.training.train_image_size
        return lambda num_classes: with_published_weights(
            dataclasses.replace(one.spec, num_classes=num_classes), part, size, seed
        )

    for group, of_group in ((FOUND, config), (SCRATCH, study.from_scratch)):
        for number, seed in enumerate(study.seeds):
            found = runs.search(of_group, table, config.target_ms, seed)
            if found is not None:
                path = space.path(space.parse(found.architecture))
                name = f"{of_group.initialisation}-found{seed}"
                one = contender(group, number, name, path)
                start = published(one, seed)
                if group == SCRATCH:
                    start = inherited(of_group, table, seed, found.architecture, runs)
                yield one, start, seed
    for number, path in enumerate(draw.paths):
        seed = study.seeds[number % len(study.seeds)]
        one = contender(RANDOM, number, f"random{number:02d}", path)
        yield one, published(one, seed), seed
    for number, seed in enumerate(study.seeds):
        whole = contender(WHOLE, number, f"lite0-{seed}", space.path(space.parse(LITE0)))
        yield whole, published(whole, seed), seed


def inherited(config: Config, table: LatencyTable, seed: int, text: str, runs: Runs) -> Start:
    """Returns a start from the weights of a seed's supernet."""
    folder = runs.search_folder(config, table, seed)

    def start(num_classes: int) -> Network:
        with command.usage_errors():
            return from_supernet(folder, num_classes, text)

    return start


if __name__ == "__main__":
    define_flags()
    command.run(main)
