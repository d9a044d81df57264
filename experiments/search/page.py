"""The page of a search: report.html in its folder."""

import json
import pathlib
from typing import Any
from xml.etree.ElementTree import Element

from experiments.pages.drawings import run_drawing
from experiments.pages.figures import inline
from experiments.pages.html import page, save, section, table, tag
from experiments.pages.milliseconds import milliseconds
from experiments.pages.pictures import pictures
from experiments.pages.repeat import repeat
from experiments.pages.run_files import GIVE_RUN, RunFiles
from experiments.pages.verdict import NONE, verdict
from experiments.search import choices, pareto, reasons
from experiments.search.config import Config
from experiments.search.course import course
from jaxnas.json_file import read_object
from jaxnas.latency import LatencyTable
from profiling.tables import additivity_note


def write(folder: pathlib.Path, result: dict[str, Any] | None = None) -> None:
    """Writes the page from the files of the run.

    Args:
      folder: folder of the run.
      result: content of a result.json that is not written yet; None reads it.

    Raises:
      ValueError: a file of the run is missing or damaged.
    """
    run = RunFiles.read(folder, result)
    result, config = run.result, run.configuration(Config)
    space = config.search_space
    table_ms = _final_table(LatencyTable.load(folder / "latency_table.json", space), result)
    known = read_object(folder / choices.FILE, GIVE_RUN)
    path = space.path(space.parse(result["architecture"]))
    sections = [
        verdict(result),
        section(
            "network",
            "The network",
            tag("p", tag("code", result["architecture"])),
            run_drawing(result),
            reasons.candidates(known, table_ms, space),
        ),
        course(run, config, space),
    ]
    if run.latency is not None:
        predicted = reasons.predicted_parts(table_ms, space, path)
        sections.append(milliseconds(result, run.latency, predicted, _table_note(table_ms)))
    if "pareto" in result["files"]:
        sections.append(_front(json.loads((folder / pareto.FILE).read_text()), result))
    sections += [
        reasons.why(known, table_ms, space),
        pictures(run.answers, result),
        repeat(run, "experiments.search", config),
    ]
    save(page("Search", config.title, sections), folder)


def _final_table(table_ms: LatencyTable, result: dict[str, Any]) -> LatencyTable:
    """Returns the table as the delivered network was derived with it."""
    scale = next(
        one["table_scale"]
        for one in result["rounds"]
        if (one["architecture"], one["predicted_ms"])
        == (result["architecture"], result["predicted_ms"])
    )
    return table_ms.scaled(scale, 1.0)


def _table_note(table_ms: LatencyTable) -> str:
    scale = table_ms.provenance["scaled_by"]
    scaled = f", with its entries times {scale:.4f} after a measurement" if scale != 1 else ""
    return (
        f"The prediction is the sum of the latency table's entries{scaled}. The table's sums "
        f"({table_ms.kind}): {additivity_note(table_ms)}."
    )


def _front(document: dict[str, Any], result: dict[str, Any]) -> Element:
    """Returns the section of a pareto.json."""
    networks = document["networks"]
    rows = [
        (
            f"{one['target_ms']:g} ms",
            NONE if one["device_ms"] is None else f"{one['device_ms']:.2f}",
            f"{one['predicted_ms']:.2f}",
            f"{100 * one['inherited_top1']:.2f}",
            tag("code", one["architecture"]),
        )
        for one in networks
    ]
    return section(
        "pareto",
        "Other budgets",
        inline(
            pareto.figure(document, result["references"]),
            "pareto",
            "Accuracy against latency of a network for each budget, from the same search.",
        ),
        table(
            ("budget", "device, ms", "predicted, ms", "top-1 for choosing, %", "architecture"),
            rows,
            (0, 4),
        ),
    )
