"""The page of a sweep: report.html in its folder, with links to the pages of its runs."""

import pathlib
import urllib.parse
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from experiments.pages.figures import inline
from experiments.pages.html import Node, page, save, section, table, tag
from experiments.runs.run_folder import REPORT
from experiments.sweep import report
from experiments.sweep.state import FILE
from jaxnas.json_file import read_object

Run = Mapping[str, Any]  # of sweep.json


def write(folder: pathlib.Path) -> None:
    """Writes the page from sweep.json; raises ValueError if that is damaged."""
    document = read_object(folder / FILE, "give the folder of a sweep")
    runs = document["runs"]
    done = [run for run in runs if run["status"] == "done"]
    flags = report.flags(runs)
    sections = [section("runs", "Runs", tag("p", report.counts(document)), *_runs(done, flags))]
    settings = report.by_setting(done)
    if len(settings) < len(done):
        others = [flag for flag in flags if flag != "seed"]
        sections.append(
            section(
                "seeds",
                "Over seeds",
                table(
                    (*others, *report.OVER_SEEDS),
                    map(report.row_over_seeds, settings),
                    range(len(others)),
                    "Mean ± standard deviation over the seeds of a setting",
                ),
            )
        )
    failed = [(run["name"], run["error"]) for run in runs if run["status"] == "failed"]
    if failed:
        lines = table(("run", "its last line"), failed, (0, 1))
        sections.append(section("failed", "Failed runs", lines))
    save(page("Sweep", report.title(document), sections), folder)


def _runs(done: list[Run], flags: list[str]) -> list[Node]:
    """Returns the plot and the table of the runs that are done."""
    if not done:
        return []
    rows: list[tuple[Node, ...]] = [(_link(run), *report.row(run)) for run in done]
    drawn = report.with_latency(done)
    runs = table(("run", *flags, *report.RESULTS), rows, range(1 + len(flags)))
    if not drawn:
        return [runs]
    figure = inline(
        report.figure(drawn),
        "sweep",
        "Accuracy against latency: a point for each run, a color for each setting, and, for one "
        "device and data set, the front of the runs that none is both faster and more accurate "
        "than.",
    )
    return [figure, runs]


def _link(run: Run) -> Element:
    """Returns a link to the page of a run, whose folder is in that of the sweep."""
    name = pathlib.PurePath(run["workdir"]).name
    return tag("a", run["name"], href=f"{urllib.parse.quote(name)}/{REPORT}")
