"""The section of a search's page on how the search went."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from experiments.pages.curves import draw_series, shade, spans_of, training
from experiments.pages.figures import BLUE, GREEN, ORANGE, PURPLE, RED, inline, legend, panels
from experiments.pages.html import Node, section, table, tag
from experiments.pages.run_files import RunFiles
from experiments.search.config import Config
from jaxnas.space import Space

# From nothing to blue, so that it reads on light and on dark pages.
_PROBABILITIES = LinearSegmentedColormap.from_list(
    "probabilities", [(0.24, 0.52, 0.78, 0.0), (0.24, 0.52, 0.78, 1.0)]
)


def course(run: RunFiles, config: Config, space: Space) -> Element:
    """Returns the section, of metrics.jsonl."""
    snapshots = [line for line in run.lines("search") if "probabilities" in line]
    children: list[Node] = [
        inline(
            _curves(run, config),
            "course",
            "Loss, accuracy, E[LAT], entropy of α and λ over the steps of warm-up and search. "
            "Faint lines are the logged steps, full ones the mean of five.",
        )
    ]
    names = ["skip" if one.is_skip else str(one) for one in space.candidates]
    if snapshots:
        children += [
            tag("h3", "α over time"),
            inline(
                _heat_map(snapshots, space),
                "alpha",
                "Probability of each candidate of each block, softmax(α), over the steps of the "
                f"search: the bluer, the more probable. From top to bottom: {', '.join(names)}.",
            ),
            tag(
                "details",
                tag("summary", "The most probable candidates as a table"),
                _most_probable(snapshots, space),
            ),
        ]
    children += [
        tag("h3", "The training of the found network"),
        training(run.lines("train"), run.lines("evaluate")),
    ]
    return section("course", "How the search went", *children)


def _curves(run: RunFiles, config: Config) -> Figure:
    steps, search = run.lines("warm-up", "search"), run.lines("search")
    figure, axes = panels(5, 1.45)
    loss, top1, latency, entropy, weight = axes
    draw_series(loss, steps, "ce", BLUE, "training batches")
    draw_series(loss, search, "arch_ce", RED, "held-out batches, for α")
    draw_series(top1, steps, "top1", BLUE, "training batches", 100.0)
    draw_series(latency, search, "expected_ms", PURPLE, "E[LAT]")
    latency.axhline(config.target_ms, color="black", linewidth=1, linestyle="--", label="target")
    draw_series(entropy, search, "entropy", GREEN, "entropy")
    draw_series(weight, search, "latency_weight", ORANGE, "λ")
    shade(axes, spans_of(run.metrics, ["warm-up", "search"]))
    names = ("loss", "top-1, %", "E[LAT], ms", "entropy, nats", _weight_name(config))
    for one, name in zip(axes, names, strict=True):
        one.set_ylabel(name)
    for one in (loss, top1, latency):
        legend(one)
    for one in axes[:-1]:
        one.tick_params(labelbottom=False)
    axes[-1].set_xlabel("step")
    return figure


def _weight_name(config: Config) -> str:
    """Returns what the latency weight is in this search's loss."""
    if config.estimator == "reinforce":
        return "exponent"
    return "β" if config.latency_control == "mul_log" else "λ"


def _heat_map(snapshots: Sequence[Mapping[str, Any]], space: Space) -> Figure:
    """Draws a strip for each block, with a row for each candidate that it allows."""
    steps = [line["step"] for line in snapshots]
    values = np.array([line["probabilities"] for line in snapshots])
    rows = np.concatenate(
        [values[:, block, allowed].T for block, allowed in enumerate(space.allowed)]
    )
    counts = space.allowed.sum(1)
    figure, (axes,) = panels(1, 0.8 + 0.065 * len(rows) + 0.05 * len(counts))
    half = max(1.0, (steps[-1] - steps[0]) / max(1, len(steps) - 1)) / 2
    axes.imshow(
        rows,
        cmap=_PROBABILITIES,
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="none",
        extent=(steps[0] - half, steps[-1] + half, len(rows), 0),
    )
    ends = np.cumsum(counts)
    for end in ends[:-1]:
        axes.axhline(end, color="black", linewidth=0.8, alpha=0.35)
    axes.set_yticks(ends - counts / 2, [block.name for block in space.blocks])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.set_xlabel("step")
    return figure


def _most_probable(snapshots: Sequence[Mapping[str, Any]], space: Space) -> Element:
    """Returns a table of each block's most probable candidate at five moments."""
    moments = [snapshots[i] for i in np.linspace(0, len(snapshots) - 1, 5).round().astype(int)]
    rows = []
    for index, block in enumerate(space.blocks):
        best = [
            max(range(len(space.candidates)), key=line["probabilities"][index].__getitem__)
            for line in moments
        ]
        rows.append(
            (
                block.name,
                *(
                    f"{space.candidates[at]} {line['probabilities'][index][at]:.0%}"
                    for at, line in zip(best, moments, strict=True)
                ),
            )
        )
    return table(("block", *(f"step {line['step']}" for line in moments)), rows)
