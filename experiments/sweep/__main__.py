"""Runs a program for every combination of flag values and tabulates the results.

    python -m experiments.sweep --flagfile=vpu.flags --sweep=latency_weight=0.05,0.1 \\
        --sweep=target_ms=14,17.2,20 --seeds=3 --output=sweeps/lambda

Every run has its own folder. The same command resumes a stopped sweep: finished runs are not
repeated, stopped runs resume from their checkpoints, and failed runs stay failed until --retry.
"""

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import rich.console
import rich.table
from absl import flags

from experiments.runs import program
from experiments.runs.run_folder import REPORT
from experiments.search.config import Config
from experiments.sweep import page, report
from experiments.sweep.launch import LAUNCHERS, Launcher
from experiments.sweep.plan import PROGRAMS, Run, define_program_flags, parse_sweeps, plan
from experiments.sweep.state import FILE, Sweep, summary
from profiling import command
from profiling.progress import Progress
from profiling.registry import device_names

_ESTIMATED = ("MYRIADX_COMPILER",)  # devices that any number of runs may use at once


def main(argv: Sequence[str]) -> int:
    """Runs the sweep that the flags describe, as a program; returns the exit status."""
    del argv
    return program.run(run_sweep)


def run_sweep() -> int:
    """Runs the sweep that the flags describe; returns the exit status.

    It is 1 where runs failed, or missed a target that --require_target requires.
    """
    args = flags.FLAGS
    with command.usage_errors():
        if args.output is None:
            raise ValueError("--output: name the sweep's folder")
        folder = pathlib.Path(args.output)
        runs = plan(args.program, parse_sweeps(args.sweep), args.seeds, args.zip, folder)
        sweep = Sweep(folder, args.program, runs)
        launcher = Launcher(args.launcher, folder / "logs", _parameters(args.slurm))
    with Progress() as progress:
        together = _together(runs, progress)
        sweep.drive(launcher, together, args.retry, progress)
    document = sweep.document()
    files = [REPORT, FILE, *report.write(document, folder)]
    page.write(folder)
    _show(document, files, folder)
    failed = any(run["status"] == "failed" for run in document["runs"])
    missed = [
        run.name
        for run in runs
        if isinstance(run.config, Config)
        and run.config.require_target
        and (result := sweep.states[run.name].result) is not None
        and not result["target_met"]
    ]
    if missed:
        print(f"error: {', '.join(missed)} missed the target", file=sys.stderr)
    return command.FAILED if failed or missed else 0


def _together(runs: Sequence[Run], progress: Progress) -> int | None:
    """Returns the number of runs at once; None is all."""
    args = flags.FLAGS
    names = dict.fromkeys(name for run in runs for name in device_names(run.config.device))
    exclusive = [name for name in names if name not in _ESTIMATED]
    if exclusive and (args.parallel is None or args.parallel > 1):
        progress.print(
            f"one run at a time: only one process may use or time {', '.join(exclusive)}",
            "yellow",
        )
        return 1
    if args.parallel is None and args.launcher == "local":
        return max(1, (os.cpu_count() or 1) // 4)
    return args.parallel


def _parameters(texts: Sequence[str]) -> dict[str, Any]:
    """Parses texts KEY=VALUE; whole numbers become integers."""
    parameters: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(
                f"--slurm={text}: give a parameter of submitit.AutoExecutor with its "
                f"value, such as --slurm=slurm_partition=gpu"
            )
        parameters[key] = int(value) if value.isdigit() else value
    return parameters


def _show(document: dict[str, Any], files: Sequence[str], folder: pathlib.Path) -> None:
    table = rich.table.Table(box=None, padding=(0, 2, 0, 0))
    for head in ("run", "status", ""):
        table.add_column(head, overflow="fold")  # folded, not cut: names differ in their ends
    for run in document["runs"]:
        text = summary(run["result"]) if run["status"] == "done" else run["error"] or ""
        table.add_row(run["name"], run["status"], text)
    console = rich.console.Console(highlight=False, markup=False)
    console.print(table)
    console.print(f"files in {folder}: {', '.join(files)}")


def _define_program(flag_values: flags.FlagValues) -> None:
    flags.DEFINE_enum(
        "program",
        "search",
        tuple(PROGRAMS),
        "Program to run: experiments.search or "
        "experiments.train. All of its flags may be given and swept.",
        flag_values=flag_values,
    )


def program_of(argv: Sequence[str]) -> str:
    """Returns the program that --program names: its flags are defined before flags are parsed."""
    early = flags.FlagValues()
    _define_program(early)
    early.set_gnu_getopt()  # unknown flags may have values of their own
    try:
        early(argv, known_only=True)
    except flags.Error:  # the parsing of all flags says what is wrong
        return "search"
    return early.program


if __name__ == "__main__":
    define_program_flags(program_of(sys.argv))
    _define_program(flags.FLAGS)
    flags.DEFINE_multi_string(
        "sweep",
        [],
        "FLAG=VALUE,VALUE: a flag and its values; may be repeated for several flags.",
    )
    flags.DEFINE_bool(
        "zip",
        False,
        "Combine the first values of all swept flags, then the "
        "second ones, and so on, instead of every combination.",
    )
    flags.DEFINE_integer(
        "seeds", 1, "Number of seeds of each combination, counted from 0.", lower_bound=1
    )
    flags.DEFINE_enum(
        "launcher", "local", LAUNCHERS, "Where to run: on this machine, or as Slurm jobs."
    )
    flags.DEFINE_multi_string(
        "slurm",
        [],
        "KEY=VALUE for --launcher=slurm: parameters of "
        "submitit.AutoExecutor, such as timeout_min=600, "
        "slurm_partition=gpu, gpus_per_node=4, tasks_per_node=4.",
    )
    flags.DEFINE_integer(
        "parallel",
        None,
        "Number of runs at once; unset is one per four cores locally, and "
        "all with Slurm. A device that is timed allows one run at a time.",
        lower_bound=1,
    )
    flags.DEFINE_bool("retry", False, "Also run what failed before.")
    flags.DEFINE_string("output", None, "Folder of the sweep.")
    command.run(main)
