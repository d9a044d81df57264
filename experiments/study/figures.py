"""Figures of results.md, drawn from study.json alone."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxnas import network_figure
from jaxnas.network import network_of
from jaxnas.space_file import find_space

TITLES = {"MYRIADX_COMPILER": "MyriadX", "MYRIAD": "MyriadX", "PIXEL_1": "Pixel 1"}
_SHARES = {"e6": "expansion 6", "k3": "3×3", "k5": "5×5", "k7": "7×7"}
_COLORS = (("#2f6fab", "#b9d2ea"), ("#c2571a", "#f3cfb5"))  # per device: found, random


def figures(document: Mapping[str, Any]) -> dict[str, Figure]:
    """Returns the figures by the stems of their files."""
    drawn = {}
    if document["affinities"] is not None:
        drawn["study_affinities"] = affinities_figure(document["affinities"])
        drawn["study_networks"] = networks_figure(document)
    if document["worth"] is not None:
        drawn["study_worth"] = worth_figure(document["worth"])
    return drawn


def title(device: Mapping[str, Any]) -> str:
    """Returns the common name of a device of study.json's `affinities`."""
    return TITLES.get(device["device"], device["device"])


def affinities_figure(part: Mapping[str, Any]) -> Figure:
    """Draws blocks and shares of expansion 6 and of each kernel, found and random, as bars."""
    fig = Figure(figsize=(9.5, 3.6), layout="constrained")
    FigureCanvasAgg(fig)
    left, right = fig.subplots(1, 2, width_ratios=(1, 3))
    _bars(left, part, {"blocks": "blocks"}, 1)
    _bars(right, part, _SHARES, 100)
    right.set_ylabel("% of the blocks that are not skip")
    right.set_ylim(0, 100)
    fig.legend(
        *right.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
    )
    return fig


def worth_figure(worth: Mapping[str, Any]) -> Figure:
    """Draws every network's top-1 over its multiply-accumulates; lines are means of groups."""
    fig = Figure(figsize=(6.5, 4), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots()
    for index, group in enumerate(worth["groups"]):
        color = f"C{index}"
        of_group = [n for n in worth["networks"] if n["group"] == group["name"]]
        axes.scatter(
            [n["macs"] / 1e6 for n in of_group],
            [100 * n["top1"] for n in of_group],
            color=color,
            label=group["name"],
            zorder=2,
        )
        axes.axhline(
            100 * group["top1"]["mean"], color=color, linewidth=0.8, linestyle="--", zorder=1
        )
    axes.set_xlabel("multiply-accumulates, M")
    axes.set_ylabel("top-1 on the test split, %")
    axes.set_title(f"networks of {worth['target_ms']:g} ms, trained alike", fontsize=10)
    axes.legend(frameon=False)
    return fig


def networks_figure(document: Mapping[str, Any]) -> Figure:
    """Draws the found networks like the poster."""
    space = find_space(document["space"])
    specs, captions = [], []
    for device in document["affinities"]["devices"]:
        for network in device["networks"]:
            specs.append(
                network_of(space, space.parse(network["architecture"]), device["num_classes"])
            )
            captions.append(
                f"{title(device)}, seed {network['seed']}, {network['predicted_ms']:.1f} ms"
            )
    return network_figure.figure(specs, captions)


def _bars(axes: Axes, part: Mapping[str, Any], names: Mapping[str, str], scale: float) -> None:
    width = 0.2
    for index, (device, colors) in enumerate(zip(part["devices"], _COLORS, strict=True)):
        for inner, (values, color, group) in enumerate(
            (
                (device["found"], colors[0], "found"),
                (device["chance"]["statistics"], colors[1], "random"),
            )
        ):
            places = [at + (2 * index + inner - 1.5) * width for at in range(len(names))]
            halves = [
                0
                if values[n]["low"] is None
                else scale * (values[n]["high"] - values[n]["low"]) / 2
                for n in names
            ]
            axes.bar(
                places,
                [scale * values[n]["mean"] for n in names],
                width,
                yerr=halves,
                color=color,
                label=f"{title(device)}, {group}",
                capsize=2,
            )
    axes.set_xticks(range(len(names)), list(names.values()))
