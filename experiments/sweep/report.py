"""A sweep's results: a table of all runs, one over seeds, and latency against accuracy."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxnas import draw

FILES = {"table": "sweep.md", "figure": "sweep.svg", "figure_png": "sweep.png"}
_FRONT_COLOR = "#777777"


def write(document: Mapping[str, Any], folder: pathlib.Path) -> list[str]:
    """Writes sweep.md and, where a run is done, the figures; returns the files' names.

    Args:
      document: of sweep.json.
    """
    done = [run for run in document["runs"] if run["status"] == "done"]
    (folder / FILES["table"]).write_text(markdown(document))
    if not done:
        return [FILES["table"]]
    for name in (FILES["figure"], FILES["figure_png"]):
        draw.save(figure(done), folder / name)
    return list(FILES.values())


def markdown(document: Mapping[str, Any]) -> str:
    """The page: what failed or is missing is said, not left out."""
    runs = document["runs"]
    done = [run for run in runs if run["status"] == "done"]
    lines = [
        f"# {len(runs)} runs of experiments.{document['program']}",
        "",
        ", ".join(
            f"{sum(run['status'] == status for run in runs)} {status}"
            for status in ("done", "failed", "running", "waiting")
        )
        + ".",
        "",
    ]
    if done:
        lines += [
            f"![Latency against accuracy]({FILES['figure']})",
            "",
            *_table(
                [*_flags(runs), "device, ms", "predicted, ms", "target met", "top-1, %"],
                map(_row, done),
            ),
        ]
        if len(seeds := _by_setting(done)) < len(done):
            lines += [
                "",
                "## Over seeds: mean ± standard deviation",
                "",
                *_table(
                    [
                        *(flag for flag in _flags(runs) if flag != "seed"),
                        "seeds",
                        "device, ms",
                        "top-1, %",
                    ],
                    [_summed(some) for some in seeds],
                ),
            ]
    failed = [run for run in runs if run["status"] == "failed"]
    if failed:
        lines += [
            "",
            "## Failed",
            "",
            *_table(
                ["run", "its last line"],
                [(run["name"], run["error"].replace("|", "\\|")) for run in failed],
            ),
        ]
    return "\n".join(lines) + "\n"


def figure(done: Sequence[Mapping[str, Any]]) -> Figure:
    """A point for each run, a color for each setting, and the front that none of them beats.

    Args:
      done: runs of sweep.json with their results.
    """
    settings = _by_setting(done)
    fig = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.add_subplot()
    for some in settings:
        name = (
            ", ".join(
                f"{flag}={value}" for flag, value in some[0]["flags"].items() if flag != "seed"
            )
            or "all"
        )
        axes.scatter(*zip(*map(_point, some), strict=True), label=name, s=30, zorder=2)
    front = pareto_front([_point(run) for run in done])
    axes.step(*zip(*front, strict=True), where="post", color=_FRONT_COLOR, linewidth=1, zorder=1)
    first = done[0]["result"]
    measured = all(run["result"]["device_ms"] is not None for run in done)
    axes.set_xlabel(
        f"latency at {first['image_size']} px, batch 1, ms "
        + (
            f"({first['device']}, {first['kind']})"
            if measured
            else "(by the table where no device was there)"
        )
    )
    accuracy = first["accuracy"]
    axes.set_ylabel(
        f"top-1, % ({accuracy['examples']} examples, {accuracy['split']} of {accuracy['dataset']})"
    )
    axes.grid(alpha=0.3)
    fig.legend(loc="outside right upper", fontsize=8, frameon=False)
    return fig


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (latency, accuracy) those that no other is both as fast and more accurate than."""
    front: list[tuple[float, float]] = []
    for latency, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((latency, accuracy))
    return front


def _point(run: Mapping[str, Any]) -> tuple[float, float]:
    return _latency_ms(run["result"]), 100 * run["result"]["accuracy"]["top1"]


def _latency_ms(result: Mapping[str, Any]) -> float:
    if result["device_ms"] is not None:
        return result["device_ms"]
    return result.get("predicted_ms", float("nan"))  # a training has no table


def _by_setting(done: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The runs that differ in their seed alone, together."""
    settings: dict[tuple, list] = {}
    for run in done:
        key = tuple(item for item in run["flags"].items() if item[0] != "seed")
        settings.setdefault(key, []).append(run)
    return list(settings.values())


def _flags(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(runs[0]["flags"])


def _row(run: Mapping[str, Any]) -> tuple:
    result = run["result"]
    met = {True: "yes", False: "no", None: ""}[result.get("target_met")]
    return (
        *run["flags"].values(),
        _ms(result["device_ms"]),
        _ms(result.get("predicted_ms")),
        met,
        f"{100 * result['accuracy']['top1']:.2f}",
    )


def _summed(some: Sequence[Mapping[str, Any]]) -> tuple:
    flags = [value for flag, value in some[0]["flags"].items() if flag != "seed"]
    return (
        *flags,
        len(some),
        _spread([_point(run)[0] for run in some]),
        _spread([_point(run)[1] for run in some]),
    )


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{deviation}"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _table(head: Sequence[str], rows) -> list[str]:
    return [f"| {' | '.join(map(str, line))} |" for line in (head, ["---"] * len(head), *rows)]
