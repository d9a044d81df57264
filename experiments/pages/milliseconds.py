"""The section on where the milliseconds of a network go: by block, and within it by layer."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

from matplotlib.figure import Figure

from experiments.pages.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    inline,
    label_bar,
    legend,
    panels,
)
from experiments.pages.html import Node, section, table, tag
from experiments.pages.verdict import NONE, latency_source
from profiling.tables import part_of

_LAYER_COLORS = {
    "expand": BLUE,
    "depthwise": ORANGE,
    "project": GREEN,
    "dense": RED,
    "dense2": RED,
    "shortcut": PURPLE,
}


class Layer(NamedTuple):
    """A layer of a measurement: the part of the network, its name there, and its time."""

    part: str
    name: str
    ms: float


def layers_of(latency: Mapping[str, Any]) -> list[Layer]:
    """Returns the layers of a latency.json, in order of execution; the host's part is first."""
    layers = [Layer("host", "", latency["host_ms"])] if latency["host_ms"] else []
    for one in latency["layers"]:
        layers.append(Layer(part_of(one["name"]), one["name"].partition("/")[2], one["ms"]))
    return layers


def milliseconds(
    result: Mapping[str, Any],
    latency: Mapping[str, Any],
    predicted_ms: Mapping[str, float] | None,
    note: str,
) -> Element:
    """Returns the section.

    Args:
      result: content of result.json.
      latency: content of latency.json.
      predicted_ms: latency of each part by the table; None for a network without a table.
      note: sentence on the table; empty without one.
    """
    layers = layers_of(latency)
    parts = list(dict.fromkeys(layer.part for layer in layers))
    caption = (
        f"Milliseconds of each part of the network by {latency_source(result)}, divided into its "
        f"layers"
    )
    if predicted_ms is not None:
        parts += [part for part, value in predicted_ms.items() if value and part not in parts]
        caption += "; the upright mark is the prediction by the table"
    children: list[Node] = [
        inline(_bars(layers, parts, predicted_ms), "milliseconds", f"{caption}."),
        tag(
            "details",
            tag("summary", "The parts and layers as tables"),
            _part_table(layers, parts, predicted_ms),
            table(
                ("part", "layer", "ms"),
                [(layer.part, layer.name or NONE, f"{layer.ms:.3f}") for layer in layers],
                (0, 1),
                "Layers in order of execution",
            ),
        ),
    ]
    if note:
        children.append(tag("p", note))
    return section("milliseconds", "Where the milliseconds go", *children)


def _bars(
    layers: Sequence[Layer], parts: Sequence[str], predicted_ms: Mapping[str, float] | None
) -> Figure:
    figure, (axes,) = panels(1, 0.9 + 0.24 * len(parts))
    ends = dict.fromkeys(parts, 0.0)
    named: set[str] = set()
    for layer in layers:
        kind = layer.name.partition("@")[0].partition("/")[0]
        color = _LAYER_COLORS.get(kind, GREY)
        name = kind if color != GREY else "other"
        axes.barh(
            parts.index(layer.part),
            layer.ms,
            0.66,
            left=ends[layer.part],
            color=color,
            label=None if name in named else name,
        )
        named.add(name)
        ends[layer.part] += layer.ms
    for row, part in enumerate(parts):
        end = max(ends[part], (predicted_ms or {}).get(part, 0.0))
        label_bar(axes, row, end, f"{ends[part]:.2f}")
    if predicted_ms is not None:
        axes.plot(
            [predicted_ms.get(part, 0.0) for part in parts],
            range(len(parts)),
            linestyle="",
            marker="|",
            markersize=11,
            markeredgewidth=1.6,
            color="black",
            label="predicted",
        )
    axes.set_yticks(range(len(parts)), parts)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.08, y=0.02)
    axes.set_xlim(left=0)
    axes.set_xlabel("ms")
    legend(axes)
    return figure


def _part_table(
    layers: Sequence[Layer], parts: Sequence[str], predicted_ms: Mapping[str, float] | None
) -> Element:
    device = {part: sum(one.ms for one in layers if one.part == part) for part in parts}
    total = sum(device.values())
    if predicted_ms is None:
        rows: list[Sequence[Node]] = [(part, f"{ms:.3f}") for part, ms in device.items()]
        return table(("part", "device, ms"), [*rows, ("all", f"{total:.3f}")])
    rows = [
        (part, f"{predicted_ms.get(part, 0.0):.3f}", f"{ms:.3f}", _signed(ms, predicted_ms, part))
        for part, ms in device.items()
    ]
    predicted = sum(predicted_ms.values())
    rows.append(("all", f"{predicted:.3f}", f"{total:.3f}", f"{total - predicted:+.3f}"))
    return table(("part", "predicted, ms", "device, ms", "difference, ms"), rows)


def _signed(ms: float, predicted_ms: Mapping[str, float], part: str) -> str:
    return f"{ms - predicted_ms.get(part, 0.0):+.3f}"
