"""The table of a comparison as JSON, and from that as Markdown and on a terminal."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import rich.console
import rich.table

from experiments.runs.markdown import table
from experiments.runs.networks import Architecture
from experiments.runs.published_figures import (
    LUXONIS,
    POSTERS_FOUND,
    PUBLISHED,
    PUBLISHED_SIZE,
    Published,
    front,
)
from experiments.runs.run_folder import REPORT
from jaxnas.network import NetworkSpec, count_macs, count_parameters
from profiling.measurement import Measurement

Document = Mapping[str, Any]  # of compare.json

NONE = "–"
NCS2_DEVICES = ("MYRIAD", "MYRIADX_COMPILER")  # comparable with the poster's NCS2 latencies


@dataclasses.dataclass(frozen=True)
class Row:
    """One network.

    Attributes:
      title: common name.
      architecture: architecture, whatever the number of classes.
      spec: specification that is counted, drawn and measured.
      published: published figures, if any.
      accuracy: accuracy reported by each of its runs, with the run's folder.
    """

    title: str
    architecture: Architecture
    spec: NetworkSpec
    published: Published | None = None
    accuracy: tuple[Mapping[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Networks on devices.

    Attributes:
      rows: the networks.
      columns: for each device by name, a measurement of each row.
      left_out: unavailable devices with their errors.
      image_size: size in px at which all networks are measured and counted.
      num_classes: number of classes of all networks.
    """

    rows: Sequence[Row]
    columns: Mapping[str, Sequence[Measurement]]
    left_out: Mapping[str, str]
    image_size: int
    num_classes: int


def document(result: Comparison) -> dict[str, Any]:
    """Returns the JSON object of `compare.json`."""
    networks = [
        {
            "title": row.title,
            **row.architecture.document(),
            "parameters": count_parameters(row.spec),
            "macs": count_macs(row.spec, result.image_size),
            "latency": {
                name: {
                    "ms": column[index].latency_ms,
                    "p10_ms": column[index].p10_ms,
                    "p90_ms": column[index].p90_ms,
                    "count": column[index].count,
                    "kind": column[index].setup.kind,
                }
                for name, column in result.columns.items()
            },
            "accuracy": [dict(one) for one in row.accuracy],
            "published": None if row.published is None else dataclasses.asdict(row.published),
        }
        for index, row in enumerate(result.rows)
    ]
    return {
        "schema": 1,
        "image_size": result.image_size,
        "num_classes": result.num_classes,
        "batch": 1,
        "devices": {
            name: dataclasses.asdict(column[0].setup) for name, column in result.columns.items()
        },
        "left_out": dict(result.left_out),
        "networks": networks,
        "published_alone": [dataclasses.asdict(POSTERS_FOUND)],
        "notes": _notes(result),
        "files": {
            "report": REPORT,
            "table": "compare.md",
            "figure": "compare.svg",
            "figure_png": "compare.png",
        },
    }


def markdown(document: Document) -> str:
    """Returns the text of `compare.md`."""
    head, *body = cells(document)
    lines = [
        "# Networks compared",
        "",
        *table(head, body, "l" + "r" * (len(head) - 1)),
        "",
        "![the networks, drawn](compare.png)",
        "",
    ]
    lines += [f"- {note}" for note in document["notes"]]
    return "\n".join(lines) + "\n"


def show(document: Document) -> None:
    """Prints the table and its notes to standard output."""
    console = rich.console.Console(highlight=False, markup=False)
    head, *body = cells(document)
    grid = rich.table.Table(box=None, padding=(0, 1, 0, 0))
    for index, title in enumerate(head):
        # With line breaks in the titles, a table of one device fits in 80 columns.
        grid.add_column(
            title.replace("_", "_\n").replace(", ", ",\n"),
            no_wrap=True,
            justify="right" if index else "left",
            vertical="bottom",
        )
    for row in body:
        grid.add_row(row[0], *(cell.replace(" ", "\n") for cell in row[1:]))
    # A table of many devices is wider than the terminal: its lines wrap, so that nothing is cut.
    width = console.measure(grid, options=console.options.update(max_width=1000)).maximum
    rich.console.Console(highlight=False, markup=False, width=width).print(grid)
    console.print()
    for note in document["notes"]:
        console.print(note)


def captions(document: Document) -> list[str]:
    """Returns the caption of each drawing: the network's name and its latencies."""
    texts = []
    for network in document["networks"]:
        figures = [
            f"{latency['ms']:.1f} ms on {name} ({latency['kind']})"
            for name, latency in network["latency"].items()
        ]
        texts.append(f"{network['title']} – {', '.join(figures)}")
    return texts


def cells(document: Document) -> list[list[str]]:
    """Returns titles and rows; the last row is the poster's network, with published figures."""
    head = [
        "network",
        "parameters",
        "MACs, M",
        *(f"{name} ms, {setup['kind']}" for name, setup in document["devices"].items()),
        "top-1 %, ours",
        "NCS2 ms, published",
        "top-1 %, published",
    ]
    rows = [
        [
            network["title"],
            f"{network['parameters']:,}",
            f"{network['macs'] / 1e6:.1f}",
            *(f"{latency['ms']:.2f}" for latency in network["latency"].values()),
            "; ".join(f"{100 * one['top1']:.2f} {one['dataset']}" for one in network["accuracy"])
            or NONE,
            *_published_cells(network["published"]),
        ]
        for network in document["networks"]
    ]
    rows += [
        [alone["title"], *[NONE] * (len(head) - 3), *_published_cells(alone)]
        for alone in document["published_alone"]
    ]
    return [head, *rows]


def _published_cells(published: Document | None) -> list[str]:
    if published is None:
        return [NONE, NONE]
    ncs2 = NONE if published["ncs2_ms"] is None else f"{published['ncs2_ms']:g}"
    return [ncs2, f"{published['top1_percent']:g}"]


def _notes(result: Comparison) -> list[str]:
    """Returns notes on the figures: their conditions, versions and sources."""
    notes = [
        f"Latency is for batch 1 at {result.image_size} px. Latency, parameters and MACs "
        f"(multiply-accumulates) are of networks with {result.num_classes} classes each; "
        f"found networks are rebuilt with that many."
    ]
    for name, column in result.columns.items():
        setup = column[0].setup
        versions = ", ".join(f"{package} {version}" for package, version in setup.versions.items())
        settings = ", ".join(
            f"{key} {value}" for key, value in setup.settings.items() if value is not None
        )
        spread = max((m.p90_ms - m.p10_ms) / m.latency_ms for m in column)
        notes.append(
            f"{name}: {setup.kind}, {setup.hardware}, {setup.precision}, "
            f"{settings + ', ' if settings else ''}{versions}; p90 − p10 is at most "
            f"{spread:.0%} of the latency."
        )
        if setup.device in NCS2_DEVICES:
            errors = [
                f"{row.title} {100 * (m.latency_ms / row.published.ncs2_ms - 1):+.1f} %"
                for row, m in zip(result.rows, column, strict=True)
                if row.published is not None and row.published.ncs2_ms is not None
            ]
            if errors and result.image_size == PUBLISHED_SIZE and result.num_classes == 1000:
                notes.append(f"{name} against the published NCS2 figures: {', '.join(errors)}.")
        if result.image_size == PUBLISHED_SIZE:
            notes.append(_front_note(name, result))
    oak = [
        f"{row.title} {row.published.oak_ms:g} ms"
        for row in result.rows
        if row.published is not None and row.published.oak_ms is not None
    ]
    if oak:
        notes.append(f"{LUXONIS}: {', '.join(oak)}.")
    notes += [
        f"{name} is left out: it is unavailable (compare.json has the reason)."
        for name in result.left_out
    ]
    for row in result.rows:
        notes += [
            f"Top-1 of {row.title}: {one['split']} split of {one['dataset']}, "
            f"{one['image_size']} px, {one['folder']}."
            for one in row.accuracy
        ]
    sources = dict.fromkeys(
        p.source
        for p in (*PUBLISHED.values(), POSTERS_FOUND)
        if p is POSTERS_FOUND or any(p is row.published for row in result.rows)
    )
    notes.append(
        f"Published, at {PUBLISHED_SIZE} px: {'; '.join(sources)}. The last row is the poster's "
        f"own network, whose blocks are not published."
    )
    return notes


def _front_note(device: str, result: Comparison) -> str:
    """Returns a sentence on the best published network at any budget on a device."""
    names = {
        name: column_ms
        for name, one in PUBLISHED.items()
        for row, column_ms in zip(
            result.rows, (m.latency_ms for m in result.columns[device]), strict=True
        )
        if row.published is one
    }
    steps = ", ".join(
        f"from {names[name]:.2f} ms {PUBLISHED[name].title} ({PUBLISHED[name].top1_percent:g} %)"
        for name in front(names)
    )
    return f"Most accurate published network of these, by budget on {device}: {steps}."
