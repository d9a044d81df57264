"""Figures as inline SVG that reads on light and on dark pages.

Black becomes the color of the page's text, and backgrounds are transparent. Other colors are chosen
to read on both.
"""

import io
import re
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
WIDTH_IN = 9.3
_LEAST_PX = 560  # width below which a figure scrolls: its text would be too small
_TEXT_COLOR = {"#000000": "currentColor", "#1a1a1a": "#1a1a1a", "#333333": "#6b7280"}
_NAMESPACE = re.compile(r"\{[^}]*\}")


def panels(rows: int, height_in: float) -> tuple[Figure, list[Axes]]:
    """Returns a figure as wide as the page, and its axes from top to bottom.

    Args:
      rows: number of axes.
      height_in: height of each in inches.
    """
    figure = Figure(figsize=(WIDTH_IN, rows * height_in), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, squeeze=False).flat)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="black", alpha=0.12, linewidth=0.8)
        one.set_axisbelow(True)
    return figure, axes


def label_bar(axes: Axes, row: int, end: float, text: str) -> None:
    """Writes a text behind a horizontal bar."""
    axes.annotate(text, (end, row), xytext=(5, 0), textcoords="offset points", va="center")


def legend(axes: Axes) -> None:
    """Adds a legend on the right of the axes, where it covers nothing; each label is there once."""
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(
        unique.values(), unique, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.05)
    )


def inline(figure: Figure, name: str, description: str) -> Element:
    """Returns a figure as an HTML element; equal figures give equal elements.

    Args:
      figure: figure to draw.
      name: name that no other figure of the page has.
      description: description below the figure, and for readers who cannot see it.
    """
    network_figure.without_math(figure)
    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "jaxnas", "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = _for_page(ElementTree.fromstring(stream.getvalue()), name)
    svg.set("role", "img")
    svg.set("aria-label", description)
    least_px = _LEAST_PX * figure.get_figwidth() / WIDTH_IN
    svg.set("style", f"min-width: {least_px:.0f}px")
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
    for boxed in svg.iter("{http://www.w3.org/2000/svg}g"):
        if boxed.get("id", "").startswith("text_"):  # a label on a box of the page's color
            for path in boxed.iter("{http://www.w3.org/2000/svg}path"):
                path.set("style", path.get("style", "").replace("#ffffff", "var(--surface)"))
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
