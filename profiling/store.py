"""Lists, exports and deletes stored measurements.

python -m profiling.store list [--device=CPU] [--since=2026-01-31] [--model=mobilenet_v2]
python -m profiling.store export [--output=FILE] [same filters]   one JSON object per line
python -m profiling.store prune --older_than_days=90 [--device=CPU]
"""

import datetime
import json
import os
import pathlib
import sys
from collections.abc import Sequence

import rich.console
import rich.table
import rich.text
from absl import flags

from profiling import command
from profiling.database import Run, Store

ACTIONS = ("list", "export", "prune")
CRITERIA = {
    "list": ("device", "since", "model"),
    "export": ("device", "since", "model", "output"),
    "prune": ("device", "older_than_days"),
}


def main(argv: Sequence[str]) -> int:
    """Runs the program; see the module."""
    action, args = argv[1], flags.FLAGS
    with command.usage_errors():
        check(
            action,
            {name for names in CRITERIA.values() for name in names if args[name].value is not None},
        )
        since = utc_time(args.since)
    with command.device_errors(), command.open_store(args.store, create=False) as store:
        if action == "prune":
            return prune(store, args.older_than_days, args.device)
        runs = store.runs(device=args.device, since=since, model=args.model)
        if not runs:
            print(
                f"none of the {len(store)} measurements in {store.file} matches",
                file=sys.stderr,
            )
        elif action == "list":
            show(runs)
    if action == "export":
        with command.usage_errors():
            export(runs, args.output)
    return 0


def check(action: str, given: set[str]) -> None:
    """Raises ValueError if a given flag does not apply to the action, or prune has no criterion."""
    for name in sorted(given.difference(CRITERIA[action])):
        raise ValueError(
            f"--{name} is not for {action}, which takes "
            f"{', '.join(f'--{own}' for own in CRITERIA[action])}"
        )
    if action == "prune" and not given:
        raise ValueError("prune needs a criterion: --older_than_days, --device or both")


def utc_time(text: str | None) -> datetime.datetime | None:
    """Parses an ISO 8601 date or time, by default in UTC; raises ValueError; None gives None."""
    if text is None:
        return None
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(
            f"--since={text}: give a date such as 2026-01-31, or date and time such "
            f"as 2026-01-31T12:00, UTC"
        ) from error
    return time if time.tzinfo else time.replace(tzinfo=datetime.UTC)


def show(runs: Sequence[Run]) -> None:
    """Prints one line per run, in the given order."""
    rows = [
        (
            f"{run.measurement.time:%Y-%m-%d %H:%M}",
            run.measurement.setup.device,
            run.measurement.setup.kind,
            run.model_name,
            run.model_sha256[:8],
            f"{run.measurement.latency_ms:.3f}",
        )
        for run in runs
    ]
    table = rich.table.Table(box=None, padding=(0, 1, 0, 0))
    for title in ("UTC", "device", "kind", "model", "digest", "ms"):
        # On a narrow terminal only the model's name is shortened.
        table.add_column(
            title,
            overflow="ellipsis",
            no_wrap=title != "model",
            justify="right" if title == "ms" else "left",
        )
    for row in rows:
        table.add_row(*map(rich.text.Text, row))
    rich.console.Console(highlight=False).print(table)


def export(runs: Sequence[Run], output: str | None) -> None:
    """Writes one JSON object per line; raises ValueError if the file cannot be written."""
    lines = "".join(json.dumps(run.document()) + "\n" for run in runs)
    if output is not None:
        try:
            pathlib.Path(output).write_text(lines)
        except OSError as error:
            raise ValueError(
                f"--output={output} cannot be written ({error.strerror}); name another file"
            ) from error
        return
    try:
        sys.stdout.write(lines)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the pipe. Python would raise again when it closes the output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def prune(store: Store, older_than_days: float | None, device: str | None) -> int:
    """Deletes the runs that meet every criterion and prints their number."""
    before = (
        None
        if older_than_days is None
        else (datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=older_than_days))
    )
    total = len(store)
    deleted = store.prune(before=before, device=device)
    print(f"deleted {deleted} of {total} measurements in {store.file}")
    return 0


if __name__ == "__main__":
    command.define_store_flag()
    flags.DEFINE_string("device", None, "Only runs on this device, such as MYRIADX_COMPILER.")
    flags.DEFINE_string(
        "since", None, "list, export: only runs at or after this date, or date and time, UTC."
    )
    flags.DEFINE_string(
        "model",
        None,
        "list, export: only runs of this network, given as the name of its ONNX graph or the "
        "beginning of its SHA-256.",
    )
    flags.DEFINE_string("output", None, "export: file to write; unset is standard output.")
    flags.DEFINE_float(
        "older_than_days",
        None,
        "prune: only runs older than this number of days.",
        lower_bound=0,
        upper_bound=command.MOST_DAYS,
    )
    command.run(main, ACTIONS)
