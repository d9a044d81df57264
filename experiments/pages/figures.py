"""Figures as inline SVG that reads on light and on dark pages.

Black becomes the color of the page's text, and backgrounds are transparent. Other colors are chosen
to read on both.
"""

import io
import re
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.pages.html import tag
from jaxnas import network_figure

BLUE, ORANGE, GREEN, RED, PURPLE, GREY = (
    "#3d85c6",
    "#d9822b",
    "#3f9d63",
    "#d1495b",
    "#8a63c9",
    "#8a8f98",
)
WIDTH_IN = 8.4
_FONT: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
}
_TEXT_COLOR = {"#000000": "currentColor", "#1a1a1a": "#1a1a1a", "#333333": "#6b7280"}
_NAMESPACE = re.compile(r"\{[^}]*\}")


def panels(rows: int, height_in: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Returns a figure as wide as the page and its axes, row by row.

    Args:
      rows, columns: number of panels.
      height_in: height of a row in inches.
    """
    with matplotlib.rc_context(_FONT):
        figure = Figure(figsize=(WIDTH_IN, rows * height_in), layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="black", alpha=0.12, linewidth=0.8)
        one.set_axisbelow(True)
    return figure, axes


def inline(figure: Figure, name: str, description: str, *, wide: bool = False) -> Element:
    """Returns a figure as an HTML element; equal figures give equal elements.

    Args:
      figure: figure to draw.
      name: name that no other figure of the page has.
      description: description below the figure, and for readers who cannot see it.
      wide: whether the figure keeps its size and scrolls on narrow pages at any width.
    """
    network_figure.without_math(figure)
    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "jaxnas", "svg.fonttype": "none", **_FONT}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = _for_page(ElementTree.fromstring(stream.getvalue()), name)
    svg.set("role", "img")
    svg.set("aria-label", description)
    width_in = figure.get_figwidth()
    svg.set("style", f"min-width: {72 * width_in if wide else 36 * WIDTH_IN * 2:.0f}px")
    return tag(
        "figure",
        tag("div", svg, class_="scroll"),
        tag("figcaption", description),
        id=f"figure-{name}",
    )


def _for_page(svg: Element, name: str) -> Element:
    """Returns matplotlib's SVG as part of a page: without namespaces, its ids its own."""
    for parent in list(svg.iter()):
        for child in list(parent):
            if child.tag.endswith(("metadata", "style")):
                parent.remove(child)
    for element in svg.iter():
        element.tag = _NAMESPACE.sub("", element.tag)
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            element.set(_NAMESPACE.sub("", key), _value(_NAMESPACE.sub("", key), value, name))
    for key in ("width", "height"):
        del svg.attrib[key]
    return svg


def _value(key: str, value: str, name: str) -> str:
    """Returns an attribute's value with the page's colors and fonts and the figure's own ids."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    value = value.replace("url(#", f"url(#{name}-")
    if key == "style":
        value = re.sub(r"'[^;]*sans-serif", "system-ui, sans-serif", value)
        for color, replacement in _TEXT_COLOR.items():
            value = value.replace(color, replacement)
    return value
