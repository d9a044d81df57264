"""Pareto front of one search: a network for each further budget, from the same α.

Nothing is trained here. Each network has the supernet's weights and batch statistics of its own,
and is scored on the examples held out for α, never on the test split. α was trained on the same
examples, so the scores only rank these networks.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.runs.device import DeviceOfProcess0
from experiments.runs.published_figures import PUBLISHED
from experiments.runs.run_folder import Workdir
from experiments.search import derivation
from experiments.search.path_scores import inherited_top1
from experiments.search.supernet_trainer import Trainer
from jaxnas import data, network_figure
from jaxnas.latency import LatencyTable
from profiling.device import Device

FILE = "pareto.json"
_FIGURES = {"figure": "pareto.svg", "figure_png": "pareto.png"}
_FOUND_COLOR, _REFERENCE_COLOR = "#2f6fb0", "#777777"


def trace_front(
    trainer: Trainer, table: LatencyTable, device: Device | DeviceOfProcess0 | None
) -> dict[str, Any]:
    """Derives a network for each of `--pareto_ms`; writes pareto.json and returns its document.

    The trainer's state is not changed. A run that is stopped before the file is written repeats
    this part; a run that is stopped later reads the file.

    Args:
      trainer: trainer at the end of its search.
      table: latency table for the first round of each budget; see `derivation.approach`.
      device: device that measures each network; if None, device_ms and kind are None.
    """
    config, workdir = trainer.config, trainer.workdir
    assert config.pareto_ms is not None
    known = known_front(workdir, device is not None)
    if known is not None:
        return known
    train_split = data.dataset(config.dataset).train_split
    networks = []
    with trainer.progress.phase("pareto", total=len(config.pareto_ms)) as phase:
        for target_ms in config.pareto_ms:
            budget = dataclasses.replace(config, derive="budget", target_ms=target_ms)
            found = derivation.nearest(
                budget, list(derivation.approach(budget, trainer, table, device))
            )
            path = trainer.space.path(trainer.space.parse(found["architecture"]))
            networks.append(
                {
                    "target_ms": target_ms,
                    "architecture": found["architecture"],
                    "predicted_ms": found["predicted_ms"],
                    "device_ms": found["device_ms"],
                    "kind": device.setup.kind if device else None,
                    "device": device.setup.device if device else table.device,
                    "inherited_top1": inherited_top1(trainer, path),
                    "split": f"held out of {train_split} for α",
                    "examples": len(trainer.parts.alpha),
                }
            )
            phase.update(len(networks), _note(networks[-1]))
        phase.end("; ".join(map(_note, networks)))
    document = {
        "schema": 1,
        "space": config.space,
        "dataset": config.dataset,
        "image_size": config.image_size,
        "search_image_size": config.search_image_size,
        "settings": dict(table.settings),
        "networks": networks,
        "files": _FIGURES,
    }
    workdir.write_json(FILE, document)
    return document


def known_front(workdir: Workdir, has_device: bool) -> dict[str, Any] | None:
    """Returns the document of an earlier start of this run; None without a valid one."""
    known = workdir.read_json(FILE)
    if known is None or not derivation.may_keep(
        workdir, known["networks"][0]["device_ms"], has_device
    ):
        return None
    return known


def figure(document: Mapping[str, Any], references: Mapping[str, Mapping[str, float]]) -> Figure:
    """Plots accuracy against latency, with a point for each network.

    Args:
      document: content of pareto.json.
      references: `references` of result.json, by name of a published network; each is a vertical
        line. Empty without a device.
    """
    networks = document["networks"]
    first = networks[0]
    latency, source = "device_ms", f"{first['device']}, {first['kind']}"
    if first["device_ms"] is None:
        latency, source = (
            "predicted_ms",
            f"the table of {first['device']}, not checked on the device",
        )
    fig = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.add_subplot()
    axes.plot(
        [one[latency] for one in networks],
        [100 * one["inherited_top1"] for one in networks],
        marker="o",
        color=_FOUND_COLOR,
    )
    for index, one in enumerate(networks):
        # Alternately above and below, so that labels of near points do not overlap.
        axes.annotate(
            f"≤ {one['target_ms']:g} ms",
            (one[latency], 100 * one["inherited_top1"]),
            xytext=(0, -16 if index % 2 else 9),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=_FOUND_COLOR,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "linewidth": 0},
        )
    for name, reference in references.items():
        axes.axvline(reference["device_ms"], color=_REFERENCE_COLOR, linestyle="--", linewidth=1)
        axes.annotate(
            f"{PUBLISHED[name].title}, {reference['device_ms']:.1f} ms",
            (reference["device_ms"], 0.03),
            xycoords=axes.get_xaxis_transform(),
            xytext=(-4, 0),
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="bottom",
            fontsize=9,
            color=_REFERENCE_COLOR,
        )
    axes.margins(0.08, 0.15)
    axes.set_xlabel(f"latency at {document['image_size']} px, batch 1, ms ({source})")
    axes.set_ylabel(
        f"top-1 for choosing, % ({first['examples']} examples {first['split']}, "
        f"{document['search_image_size']} px)"
    )
    axes.set_title(
        f"{document['space']} on {document['dataset']}: one search, a network for each budget, "
        f"the supernet's weights",
        fontsize=11,
    )
    axes.grid(alpha=0.3)
    return fig


def save_figure(
    document: Mapping[str, Any],
    references: Mapping[str, Mapping[str, float]],
    folder: pathlib.Path,
) -> None:
    """Writes the plot of `figure` to pareto.svg and pareto.png."""
    for name in _FIGURES.values():
        network_figure.save(figure(document, references), folder / name)


def _note(one: Mapping[str, Any]) -> str:
    device = "not measured" if one["device_ms"] is None else f"device {one['device_ms']:.2f} ms"
    return f"{one['target_ms']:g} ms: {device}, top-1 {one['inherited_top1']:.3f}"
