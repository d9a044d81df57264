"""The table of a comparison: as JSON, as markdown, and as a person reads it on a terminal."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import rich.console
import rich.table

from experiments.runs.networks import Architecture
from experiments.runs.published import POSTERS_FOUND, PUBLISHED, Published
from jaxnas.network import NetworkSpec, count_macs, count_parameters
from profiling.measurement import Measurement

NONE = "–"
NCS2_DEVICES = ("MYRIAD", "MYRIADX_COMPILER")  # whose figures are of what the poster measured


@dataclasses.dataclass(frozen=True)
class Row:
    """One network.

    Attributes:
      title: how people call it.
      architecture: what it is.
      spec: of the network that is counted, drawn and measured.
      published: what others published of it, if anything.
      accuracy: what runs with it said of their accuracy, each with its folder.
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
      columns: of each device by its name a measurement for each row.
      left_out: devices that are not there, with the reason.
      image_size: px that all were measured and counted at.
      num_classes: that all had for it.
    """

    rows: Sequence[Row]
    columns: Mapping[str, Sequence[Measurement]]
    left_out: Mapping[str, str]
    image_size: int
    num_classes: int


def document(result: Comparison) -> dict[str, Any]:
    """The JSON object of `compare.json`."""
    networks = [
        {
            "title": row.title,
            **row.architecture.document(),
            "parameters": count_parameters(row.spec),
            "macs": count_macs(row.spec, result.image_size),
            "latency": {
                name: {
                    "ms": of_all[index].latency_ms,
                    "p10_ms": of_all[index].p10_ms,
                    "p90_ms": of_all[index].p90_ms,
                    "count": of_all[index].count,
                    "kind": of_all[index].setup.kind,
                }
                for name, of_all in result.columns.items()
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
            name: dataclasses.asdict(of_all[0].setup) for name, of_all in result.columns.items()
        },
        "left_out": dict(result.left_out),
        "networks": networks,
        "published_alone": [dataclasses.asdict(POSTERS_FOUND)],
        "files": {"table": "compare.md", "figure": "compare.svg", "figure_png": "compare.png"},
    }


def markdown(result: Comparison) -> str:
    """The document `compare.md`."""
    head, *body = ([cell.replace("|", "\\|") for cell in row] for row in _cells(result))
    lines = [
        "# Networks compared",
        "",
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
        *(f"| {' | '.join(row)} |" for row in body),
        "",
        "![the networks, drawn](compare.png)",
        "",
    ]
    lines += [f"- {note}" for note in _notes(result)]
    return "\n".join(lines) + "\n"


def show(result: Comparison) -> None:
    """Prints table and notes on standard output."""
    console = rich.console.Console(highlight=False, markup=False)
    head, *body = _cells(result)
    table = rich.table.Table(box=None, padding=(0, 1, 0, 0))
    for index, title in enumerate(head):
        # Broken where they may be, titles leave room for one device within 80 columns.
        table.add_column(
            title.replace("_", "_\n").replace(", ", ",\n"),
            no_wrap=True,
            justify="right" if index else "left",
            vertical="bottom",
        )
    for row in body:
        table.add_row(row[0], *(cell.replace(" ", "\n") for cell in row[1:]))
    # Many devices make it wider than a terminal, whose lines then wrap: no figure is cut.
    width = console.measure(table, options=console.options.update(max_width=1000)).maximum
    rich.console.Console(highlight=False, markup=False, width=width).print(table)
    console.print()
    for note in _notes(result):
        console.print(note)


def captions(result: Comparison) -> list[str]:
    """What stands above each drawing: the network's name and its figures."""
    texts = []
    for index, row in enumerate(result.rows):
        figures = [
            f"{of_all[index].latency_ms:.1f} ms on {name} ({of_all[index].setup.kind})"
            for name, of_all in result.columns.items()
        ]
        texts.append(f"{row.title} – {', '.join(figures)}")
    return texts


def _cells(result: Comparison) -> list[list[str]]:
    """Titles and rows; the poster's own network comes last, with what is published alone."""
    head = [
        "network",
        "parameters",
        "MACs, M",
        *(f"{name} ms, {of_all[0].setup.kind}" for name, of_all in result.columns.items()),
        "top-1 %, ours",
        "NCS2 ms, published",
        "top-1 %, published",
    ]
    rows = [
        [
            row.title,
            f"{count_parameters(row.spec):,}",
            f"{count_macs(row.spec, result.image_size) / 1e6:.1f}",
            *(f"{of_all[index].latency_ms:.2f}" for of_all in result.columns.values()),
            "; ".join(f"{100 * one['top1']:.2f} {one['dataset']}" for one in row.accuracy) or NONE,
            *_published_cells(row.published),
        ]
        for index, row in enumerate(result.rows)
    ]
    last = [POSTERS_FOUND.title, *[NONE] * (len(head) - 3), *_published_cells(POSTERS_FOUND)]
    return [head, *rows, last]


def _published_cells(published: Published | None) -> list[str]:
    if published is None:
        return [NONE, NONE]
    ncs2 = NONE if published.ncs2_ms is None else f"{published.ncs2_ms:g}"
    return [ncs2, f"{published.top1_percent:g}"]


def _notes(result: Comparison) -> list[str]:
    """What the figures are, in sentences."""
    notes = [
        f"Latency is of batch 1 at {result.image_size} px. Latency, parameters and MACs "
        f"(multiply-accumulates) are of networks with {result.num_classes} classes each; "
        f"found networks are rebuilt with that many."
    ]
    for name, of_all in result.columns.items():
        setup = of_all[0].setup
        versions = ", ".join(f"{package} {version}" for package, version in setup.versions.items())
        settings = ", ".join(
            f"{key} {value}" for key, value in setup.settings.items() if value is not None
        )
        wide = max((m.p90_ms - m.p10_ms) / m.latency_ms for m in of_all)
        notes.append(
            f"{name}: {setup.kind}, {setup.hardware}, {setup.precision}, "
            f"{settings + ', ' if settings else ''}{versions}; p10 to p90 is at most "
            f"{wide:.0%} of the figure."
        )
        if setup.device in NCS2_DEVICES:
            off = [
                f"{row.title} {100 * (m.latency_ms / row.published.ncs2_ms - 1):+.1f} %"
                for row, m in zip(result.rows, of_all, strict=True)
                if row.published is not None and row.published.ncs2_ms is not None
            ]
            if off and result.image_size == 224 and result.num_classes == 1000:
                notes.append(f"{name} against the published NCS2 figures: {', '.join(off)}.")
    notes += [
        f"{name} is left out, it is not there (compare.json says why)." for name in result.left_out
    ]
    for row in result.rows:
        notes += [
            f"Top-1 of {row.title}: {one['dataset']}'s {one['split']} split, "
            f"{one['image_size']} px, {one['folder']}."
            for one in row.accuracy
        ]
    sources = dict.fromkeys(
        p.source
        for p in (*PUBLISHED.values(), POSTERS_FOUND)
        if p is POSTERS_FOUND or any(p is row.published for row in result.rows)
    )
    notes.append(
        f"Published: {'; '.join(sources)}. The last row is the poster's own network, "
        f"whose blocks are not published."
    )
    return notes
