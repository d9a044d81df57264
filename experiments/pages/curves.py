"""Curves over the steps of a run, for the section on how it went."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from matplotlib.axes import Axes

from experiments.pages.figures import BLUE, GREEN, ORANGE, inline, legend, panels

Line = Mapping[str, Any]  # of metrics.jsonl

_MEAN_OF = 5  # logged steps, of which a curve shows the mean: single batches vary much


def draw_series(
    axes: Axes, lines: Sequence[Line], key: str, color: str, label: str, factor: float = 1.0
) -> None:
    """Draws a metric over the steps: each logged value faintly, and their moving mean.

    Args:
      axes: axes to draw on.
      lines: lines of metrics.jsonl; those without the metric are left out.
      key: name of the metric.
      color, label: as in matplotlib.
      factor: the values are multiplied by it.
    """
    points = [(line["step"], factor * line[key]) for line in lines if key in line]
    if not points:
        return
    steps, values = zip(*points, strict=True)
    means = [
        sum(values[max(0, i + 1 - _MEAN_OF) : i + 1])
        / len(values[max(0, i + 1 - _MEAN_OF) : i + 1])
        for i in range(len(values))
    ]
    axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
    axes.plot(steps, means, color=color, linewidth=1.6, label=label)


def training(lines: Sequence[Line], held_out: Sequence[Line]) -> Element:
    """Returns the figure of a network's training: loss, accuracy on its batches and held out.

    Args:
      lines, held_out: lines of metrics.jsonl of the phases `train` and `evaluate`.
    """
    figure, (loss, top1) = panels(2, 1.6)
    draw_series(loss, lines, "ce", BLUE, "training batches")
    draw_series(top1, lines, "top1", BLUE, "training batches", 100.0)
    by_size: dict[int, list[tuple[int, float]]] = {}
    for line in held_out:
        by_size.setdefault(line["image_size"], []).append(
            (line["step"], 100 * line["held_out_top1"])
        )
    for (size, points), color in zip(sorted(by_size.items()), (ORANGE, GREEN), strict=False):
        steps, values = zip(*points, strict=True)
        top1.plot(
            steps, values, color=color, marker="o", markersize=3.5, label=f"held out, {size} px"
        )
    for axes, name in ((loss, "loss"), (top1, "top-1, %")):
        axes.set_ylabel(name)
        axes.margins(x=0.01)
        legend(axes)
    loss.tick_params(labelbottom=False)
    top1.set_xlabel("step")
    return inline(
        figure,
        "training",
        "Loss and accuracy over the steps of the network's training, and its accuracy on held-out "
        "data after each epoch.",
    )


def shade(axes: Sequence[Axes], spans: Mapping[str, tuple[int, int]]) -> None:
    """Marks the phases of a run on axes over its steps, and names them above the first."""
    starts, ends = zip(*spans.values(), strict=True)
    for one in axes:
        for start in starts[1:]:
            one.axvline(start, color="black", linewidth=0.8, alpha=0.45)
        one.set_xlim(starts[0], ends[-1])
    for name, (start, end) in spans.items():
        axes[0].annotate(
            name,
            ((start + end) / 2, 1.0),
            xycoords=axes[0].get_xaxis_transform(),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
        )


def spans_of(lines: Sequence[Line], phases: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Returns the first and last step of each phase that has lines, by name."""
    spans: dict[str, tuple[int, int]] = {}
    start = 0
    for phase in phases:
        steps = [line["step"] for line in lines if line["phase"] == phase]
        if steps:
            spans[phase] = (start, steps[-1])
            start = steps[-1]
    return spans
