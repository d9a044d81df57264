"""The page of a comparison: report.html in its folder."""

import pathlib
from typing import Any
from xml.etree.ElementTree import Element

from experiments.compare.report import Document, captions, cells
from experiments.pages.drawings import drawing
from experiments.pages.figures import BLUE, GREY, ORANGE, inline, label_bar, panels
from experiments.pages.html import page, save, section, table, tag
from experiments.runs.networks import Architecture
from experiments.runs.published_figures import PUBLISHED_SIZE
from jaxnas.json_file import read_object

FILE = "compare.json"


def write(folder: pathlib.Path) -> None:
    """Writes the page from compare.json; raises ValueError if that is damaged."""
    document = read_object(folder / FILE, "give the folder of a comparison of this version")
    specs = [
        Architecture(one["architecture"], one["space"]).spec(document["num_classes"])
        for one in document["networks"]
    ]
    head, *rows = cells(document)
    notes = tag("ul", *(tag("li", note) for note in document["notes"]))
    devices = ", ".join(f"{name} ({setup['kind']})" for name, setup in document["devices"].items())
    sections = [
        section("table", "Networks", table(head, rows)),
        *(_latencies(document, device) for device in document["devices"]),
        section("networks", "The networks drawn", drawing(specs, captions(document))),
        section("notes", "What the figures are", notes),
    ]
    save(page("Comparison", f"{len(specs)} networks on {devices}", sections), folder)


def _latencies(document: Document, device: str) -> Element:
    """Returns the section of a device: a bar for each network, the fastest first."""
    networks = sorted(document["networks"], key=lambda one: one["latency"][device]["ms"])
    kind = document["devices"][device]["kind"]
    figure, (axes,) = panels(1, 0.5 + 0.3 * len(networks))
    latencies_ms = [one["latency"][device] for one in networks]
    axes.barh(
        range(len(networks)),
        [one["ms"] for one in latencies_ms],
        0.62,
        color=[GREY if one["published"] else BLUE for one in networks],
    )
    for row, (network, one) in enumerate(zip(networks, latencies_ms, strict=True)):
        axes.plot([one["p10_ms"], one["p90_ms"]], [row, row], color=ORANGE, linewidth=2)
        text = _label(network, device, document["image_size"])
        label_bar(axes, row, max(one["ms"], one["p90_ms"]), text)
    axes.set_yticks(range(len(networks)), [one["title"] for one in networks])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.3)
    axes.set_xlabel("ms")
    at_size = document["image_size"] == PUBLISHED_SIZE
    top1 = ", with the published top-1 on ImageNet" if at_size else ""
    return section(
        f"device-{device}",
        f"Latency on {device}",
        inline(
            figure,
            f"latencies-{device}",
            f"Latency in ms by {device}, {kind}, batch 1, {document['image_size']} px{top1}. Blue "
            f"bars are networks of runs; orange lines are the intervals from p10 to p90.",
        ),
    )


def _label(network: dict[str, Any], device: str, image_size: int) -> str:
    published = network["published"] if image_size == PUBLISHED_SIZE else None
    top1 = f", {published['top1_percent']:g} %" if published else ""
    return f"{network['latency'][device]['ms']:.2f} ms{top1}"
