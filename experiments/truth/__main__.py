"""Compares what searches choose with the true accuracy of all networks of a space.

    python -m experiments.truth --flagfile=truth.flags --benchmark=FILE --dataset=FOLDER

All 6,561 networks of NAS-Bench-Macro were trained on CIFAR-10 by its authors. Here supernets of its
space are trained on some of the pictures: on paths drawn evenly or from α, which learns with the
weights or, cheaper, alone when they are trained. Of each method the study gives Kendall's τ of the
scores of random networks and their true accuracy, and the regret: how much less accurate than the
best network of a budget the chosen one is, in truth.

Each seed has its own folder in --workdir. The same command resumes a stopped study. Several
processes may work in one folder at once, each on other seeds; a last call then writes the results.
"""

import functools
import sys
from collections.abc import Sequence

from experiments.runs import program
from experiments.runs.picture_check import check_pictures
from experiments.search.schedule import Schedule
from experiments.study.study_runs import Runs
from experiments.truth import methods, report
from experiments.truth.config import define_flags, truth_from_flags
from profiling import command
from profiling.progress import Progress


def main(argv: Sequence[str]) -> int:
    """Runs the study that the flags describe, as a program; returns the exit status."""
    del argv
    return program.run(run_study)


def run_study() -> int:
    """Runs the study that the flags describe; returns the exit status."""
    with command.usage_errors():
        truth = truth_from_flags()
        check_pictures(truth.config.dataset)
    with Progress() as progress:
        with command.usage_errors():
            runs = Runs(truth.config, progress)
            parts = {seed: runs.parts_of(seed) for seed in truth.seeds}
            Schedule.of(truth.config, len(parts[truth.seeds[0]].weights))
        seeds = [
            runs.once(
                f"seed{seed}",
                truth.config_of(seed),
                f"truth-{truth.key}-{'-'.join(truth.methods)}.json",
                functools.partial(methods.seed_document, truth, seed, parts[seed], progress),
            )
            for seed in truth.seeds
        ]
    if runs.missing:
        print(
            f"no results written: other processes hold {', '.join(runs.missing)}; run the same "
            f"command again when they have ended",
            file=sys.stderr,
        )
        return command.FAILED
    held_out = len(parts[truth.seeds[0]].alpha)
    document = report.document(truth, held_out, [seed for seed in seeds if seed is not None])
    files = report.write(document, truth.output)
    print(f"files in {truth.output}: {', '.join(files)}")
    return 0


if __name__ == "__main__":
    define_flags()
    command.run(main)
