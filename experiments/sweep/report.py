"""Results of a sweep: a table of all runs, a table over seeds, and latency against accuracy."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.runs.markdown import table
from jaxnas import network_figure

RESULTS = ("device, ms", "predicted, ms", "target met", "top-1, %")
OVER_SEEDS = ("seeds", "device, ms", "top-1, %")
FILES = {"table": "sweep.md", "figure": "sweep.svg", "figure_png": "sweep.png"}
_FRONT_COLOR = "#777777"


def write(document: Mapping[str, Any], folder: pathlib.Path) -> list[str]:
    """Writes sweep.md and, once a run has a latency, the figures; returns the names of the files.

    Args:
      document: content of sweep.json.
    """
    drawn = with_latency([run for run in document["runs"] if run["status"] == "done"])
    (folder / FILES["table"]).write_text(markdown(document))
    if not drawn:
        return [FILES["table"]]
    for name in (FILES["figure"], FILES["figure_png"]):
        network_figure.save(figure(drawn), folder / name)
    return list(FILES.values())


def markdown(document: Mapping[str, Any]) -> str:
    """Returns the text of sweep.md; it also lists failed runs and counts unfinished ones."""
    runs = document["runs"]
    done = [run for run in runs if run["status"] == "done"]
    lines = [f"# {title(document)}", "", counts(document), ""]
    if with_latency(done):
        lines += [f"![Latency against accuracy]({FILES['figure']})", ""]
    if done:
        lines += table([*flags(runs), *RESULTS], map(row, done))
        if len(settings := by_setting(done)) < len(done):
            lines += [
                "",
                "## Over seeds: mean ± standard deviation",
                "",
                *table(
                    [*(flag for flag in flags(runs) if flag != "seed"), *OVER_SEEDS],
                    map(row_over_seeds, settings),
                ),
            ]
    failed = [run for run in runs if run["status"] == "failed"]
    if failed:
        lines += [
            "",
            "## Failed",
            "",
            *table(["run", "its last line"], [(run["name"], run["error"]) for run in failed]),
        ]
    return "\n".join(lines) + "\n"


def with_latency(done: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns those of the runs that have a latency, by the device or by the table."""
    return [run for run in done if _latency_ms(run["result"]) is not None]


def title(document: Mapping[str, Any]) -> str:
    """Returns the title of a sweep."""
    return f"{len(document['runs'])} runs of experiments.{document['program']}"


def counts(document: Mapping[str, Any]) -> str:
    """Returns a sentence on the number of runs of each status."""
    numbers = [
        f"{sum(run['status'] == status for run in document['runs'])} {status}"
        for status in ("done", "failed", "running", "waiting")
    ]
    return f"{', '.join(numbers)}."


def figure(done: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws a point per run, a color per setting, and the Pareto front.

    An axis names what all runs have in common. Runs on several devices or data sets have no front.

    Args:
      done: runs of sweep.json that have a latency, with their results.
    """
    fig = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.add_subplot()
    for some in by_setting(done):
        name = (
            ", ".join(
                f"{flag}={value}" for flag, value in some[0]["flags"].items() if flag != "seed"
            )
            or "all"
        )
        latencies, accuracies = zip(*map(_point, some), strict=True)
        axes.scatter(latencies, accuracies, label=name, s=30, zorder=2)
    results = [run["result"] for run in done]
    sizes = {result["image_size"] for result in results}
    devices = {(result["device"], result["kind"]) for result in results if result["kind"]}
    tests = {
        f"{one['examples']} examples, {one['split']} of {one['dataset']}"
        for result in results
        for one in [result["accuracy"]]
    }
    at_size = f" at {sizes.pop()} px" if len(sizes) == 1 else ""
    axes.set_xlabel(f"latency{at_size}, batch 1, ms {_devices(devices, results)}")
    axes.set_ylabel(f"top-1, %{f' ({min(tests)})' if len(tests) == 1 else ''}")
    if len({result["device"] for result in results}) == len(tests) == 1:
        front = pareto_front([_point(run) for run in done])
        axes.step(
            *zip(*front, strict=True), where="post", color=_FRONT_COLOR, linewidth=1, zorder=1
        )
    axes.grid(alpha=0.3)
    fig.legend(loc="outside right upper", fontsize=8, frameon=False)
    return fig


def _devices(devices: set[tuple[str, str]], results: Sequence[Mapping[str, Any]]) -> str:
    """Returns what latencies are by, in parentheses."""
    if any(result["device_ms"] is None for result in results):
        return "(by the table where no device was available)"
    if len(devices) > 1:
        return f"({' and '.join(sorted(device for device, _ in devices))})"
    return f"({', '.join(min(devices))})"


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the points (latency, accuracy) that no other one dominates, by latency."""
    front: list[tuple[float, float]] = []
    for latency, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((latency, accuracy))
    return front


def _point(run: Mapping[str, Any]) -> tuple[float, float]:
    latency_ms = _latency_ms(run["result"])
    assert latency_ms is not None  # of a run in the figure
    return latency_ms, 100 * run["result"]["accuracy"]["top1"]


def _latency_ms(result: Mapping[str, Any]) -> float | None:
    if result["device_ms"] is not None:
        return result["device_ms"]
    return result.get("predicted_ms")  # a training has no table


def by_setting(done: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Groups the runs that differ only in their seed."""
    settings: dict[tuple, list] = {}
    for run in done:
        key = tuple(item for item in run["flags"].items() if item[0] != "seed")
        settings.setdefault(key, []).append(run)
    return list(settings.values())


def flags(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the names of the swept flags."""
    return list(runs[0]["flags"])


def row(run: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the cells of a run that is done, under the swept flags and RESULTS."""
    result = run["result"]
    met = {True: "yes", False: "no", None: ""}[result.get("target_met")]
    return (
        *run["flags"].values(),
        _ms(result["device_ms"]),
        _ms(result.get("predicted_ms")),
        met,
        f"{100 * result['accuracy']['top1']:.2f}",
    )


def row_over_seeds(some: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Returns the cells of runs that differ in their seed, under the other flags and OVER_SEEDS."""
    values = [value for flag, value in some[0]["flags"].items() if flag != "seed"]
    return (
        *values,
        str(len(some)),
        _spread([run["result"]["device_ms"] for run in some]),
        _spread([100 * run["result"]["accuracy"]["top1"] for run in some]),
    )


def _spread(values: Sequence[float | None]) -> str:
    """Returns mean and standard deviation; nothing where a run has no value."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return ""
    deviation = f" ± {np.std(known, ddof=1):.2f}" if len(known) > 1 else ""
    return f"{np.mean(known):.2f}{deviation}"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
