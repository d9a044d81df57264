"""Text output of measurements and latency tables on standard output; fits 80 columns."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import rich.bar
import rich.console
import rich.table
import rich.text

from jaxnas.latency import LatencyTable
from jaxnas.space import Space
from profiling.measurement import Measurement

SHOWN_LAYERS = 20
BAR_COLUMNS = 20


def show_measurement(measurement: Measurement, model: str) -> None:
    """Prints a measurement, its setup and its layers, the slowest first."""
    setup = measurement.setup
    console = rich.console.Console(highlight=False)
    console.print(
        _text(f"{model} on {setup.device}: {measurement.latency_ms:.3f} ms, {setup.kind}", "bold")
    )
    head = rich.table.Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name, value in _head(measurement):
        head.add_row(name, _text(value))
    console.print(head)
    console.print()
    console.print(_layers(measurement))


def _head(measurement: Measurement) -> list[tuple[str, str]]:
    setup = measurement.setup
    interval = f"{measurement.p10_ms:.3f} to {measurement.p90_ms:.3f} ms"
    rows = [
        (
            "latency",
            f"median of {measurement.count} timed inferences, p10 to p90 {interval}"
            if setup.kind == "measured"
            else f"estimated, not timed; interval {interval}",
        )
    ]
    if measurement.host_ms:
        share = measurement.host_ms / measurement.latency_ms
        rows.append(
            ("host part", f"{measurement.host_ms:.3f} ms of it ({share:.1%}), host and bus")
        )
    rows += [
        ("hardware", setup.hardware),
        ("precision", setup.precision),
        ("versions", _named(setup.versions)),
    ]
    chosen = _named(setup.settings)
    if chosen:
        rows.append(("settings", chosen))
    if measurement.temperature_c is not None:
        before, after = measurement.temperature_c
        rows.append(("temperature", f"{before:.1f} °C before, {after:.1f} °C after"))
    return rows


def _layers(measurement: Measurement) -> rich.table.Table:
    """Returns a table of the slowest layers with their shares; the last row sums up the others."""
    layers = sorted(measurement.layers, key=lambda layer: layer.ms, reverse=True)
    shown = len(layers) if len(layers) <= SHOWN_LAYERS + 1 else SHOWN_LAYERS
    others = layers[shown:]
    table = rich.table.Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("layer", overflow="ellipsis", no_wrap=True)
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("", width=BAR_COLUMNS)
    for layer in layers[:shown]:
        table.add_row(
            _text(layer.name),
            f"{layer.ms:.3f}",
            f"{layer.ms / measurement.latency_ms:.1%}",
            rich.bar.Bar(layers[0].ms, 0, layer.ms, width=BAR_COLUMNS),
        )
    if others:
        others_ms = sum(layer.ms for layer in others)
        table.add_row(
            f"{len(others)} others", f"{others_ms:.3f}", f"{others_ms / measurement.latency_ms:.1%}"
        )
    return table


def show_table(table: LatencyTable, space: Space, note: str) -> None:
    """Prints a table's range, the cost of each block's candidates and the parts of `fixed_ms`."""
    console = rich.console.Console(highlight=False)
    fastest, slowest = table.range_ms
    console.print(
        _text(
            f"{np.isfinite(table.candidate_ms).sum()} entries, {table.device} "
            f"({table.kind}), {table.precision}, {table.image_size} px, "
            f"{table.num_classes} classes; networks from {fastest:.2f} to "
            f"{slowest:.2f} ms",
            "bold",
        )
    )
    console.print(_text(f"{note}; oldest run {table.provenance['date']}"))
    console.print(_blocks(table, space))
    fixed = {part: ms for part, ms in table.fixed_ms.items() if ms}
    parts = ", ".join(
        f"{part} {ms:.3f}"
        for part, ms in sorted(fixed.items(), key=lambda item: item[1], reverse=True)
    )
    total_ms = sum(fixed.values())
    console.print(_text(f"fixed part of every network {total_ms:.3f} ms: {parts}"))


def _blocks(table: LatencyTable, space: Space) -> rich.table.Table:
    """Returns a row per block with its cheapest and most expensive candidate, skips left out."""
    grid = rich.table.Table(box=None, padding=(0, 2, 0, 0))
    for title in ("block", "channels"):
        grid.add_column(title, no_wrap=True)
    for title in ("fastest", "ms", "slowest", "ms"):
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("", width=BAR_COLUMNS)
    longest_ms = np.where(space.allowed, table.candidate_ms, 0).max()
    skips = [candidate.is_skip for candidate in space.candidates]
    for block, row, allowed in zip(space.blocks, table.candidate_ms, space.allowed, strict=True):
        low = int(np.argmin(np.where(allowed & ~np.array(skips), row, np.inf)))
        high = int(np.argmax(np.where(allowed, row, -np.inf)))
        stride = f" s{block.stride}" if block.stride > 1 else ""
        grid.add_row(
            block.name,
            f"{block.in_channels}→{block.out_channels}{stride}",
            str(space.candidates[low]),
            f"{row[low]:.3f}",
            str(space.candidates[high]),
            f"{row[high]:.3f}",
            rich.bar.Bar(longest_ms, row[low], row[high], width=BAR_COLUMNS),
        )
    return grid


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def _text(text: str, style: str = "") -> rich.text.Text:
    """Returns text without markup: names of layers and models may contain rich's markup syntax."""
    return rich.text.Text(text, style)
