"""The report of a calibration: errors by network, by kind of layer, and on held-out data."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from profiling.myriad.calibration import COEFFICIENTS, KINDS, Calibration
from profiling.myriad.cost import Estimate

DOCUMENT = "myriadx_calibration.md"
FIGURE = "myriadx_calibration.png"


@dataclasses.dataclass(frozen=True)
class Layer:
    """A timed layer, its estimate by the fit to all networks and by the fit to the others.

    `size` is a convolution's kernel, such as 3×3, and the height of its output in px.
    """

    network: str
    name: str
    type: str
    measured_ms: float
    fitted_ms: float
    unseen_ms: float
    held_out: bool
    size: tuple[str, int] | None


@dataclasses.dataclass(frozen=True)
class Point:
    """A single layer that no fit uses."""

    name: str
    measured_ms: float
    estimated_ms: float

    @property
    def error(self) -> float:
        return self.estimated_ms / self.measured_ms - 1


@dataclasses.dataclass(frozen=True)
class Report:
    """The numbers of the document.

    Attributes:
      layers: timed layers of the four public networks.
      points: single layers that no fit uses.
      whole: estimates of the networks with a known total latency, including the host.
      published_ms: published latency of those networks, without ResNet-18's.
      resnet_18_ms: lowest and highest published latency of ResNet-18.
      calibration: the fit to all networks.
    """

    layers: Sequence[Layer]
    points: Sequence[Point]
    whole: Mapping[str, Estimate]
    published_ms: Mapping[str, float]
    resnet_18_ms: tuple[float, float]
    calibration: Calibration

    def network_errors(self) -> dict[str, float]:
        """Returns (estimated / measured - 1) for each network, by the fit to the others."""
        return {
            name: sum(layer.unseen_ms for layer in layers)
            / sum(layer.measured_ms for layer in layers)
            - 1
            for name, layers in _grouped(self.layers, "network").items()
        }


def _grouped(layers: Iterable[Layer], by: str) -> dict[str, list[Layer]]:
    groups: dict[str, list[Layer]] = collections.defaultdict(list)
    for layer in layers:
        groups[getattr(layer, by)].append(layer)
    return dict(groups)


def _errors(layers: Iterable[Layer], which: str) -> np.ndarray:
    return np.abs([getattr(layer, which) / layer.measured_ms - 1 for layer in layers])


def markdown(report: Report, sources: Mapping[str, str]) -> str:
    """Returns the document as Markdown."""
    lines = [
        "# Calibration of the MyriadX cost model",
        "",
        "Written by `python -m profiling.myriad.calibrate`. The cost of every stage in the "
        "compiler's schedule is a sum of physical amounts, each times a coefficient. The "
        "coefficients below are fitted to "
        f"{sum(not layer.held_out for layer in report.layers)} layers of four networks timed "
        "on one Neural Compute Stick 2. *Unseen* means: by the fit to the other three networks.",
        "",
        f"![Estimated against measured]({FIGURE})",
        "",
        "## Whole networks, unseen",
        "",
        "| network | layers | measured ms | estimated ms | error % | median layer error % of "
        "convolutions |",
        "|---|---|---|---|---|---|",
    ]
    errors = report.network_errors()
    for name, layers in _grouped(report.layers, "network").items():
        convolutions = [layer for layer in layers if layer.type == "Convolution"]
        lines.append(
            f"| {name} | {len(layers)} | {sum(layer.measured_ms for layer in layers):.1f} | "
            f"{sum(layer.unseen_ms for layer in layers):.1f} | {100 * errors[name]:+.1f} | "
            f"{100 * np.median(_errors(convolutions, 'unseen_ms')):.1f} |"
        )
    lines += [
        "",
        "The interval of an estimate is p10 to p90. Half of it is the root of the sum of squares, "
        "over kinds of layers, of the time of each kind in the network times this error: "
        + ", ".join(f"{kind} {report.calibration.error_percent[kind]:.1f} %" for kind in KINDS)
        + ".",
        "",
        "## By kind of layer",
        "",
        "| kind | layers | total ms | median error %, fitted | median error %, unseen | "
        "90th percentile error %, unseen |",
        "|---|---|---|---|---|---|",
    ]
    groups = sorted(
        _grouped(report.layers, "type").items(),
        key=lambda item: -sum(layer.measured_ms for layer in item[1]),
    )
    for kind, layers in groups:
        unseen = _errors(layers, "unseen_ms")
        lines.append(
            f"| {kind.strip('<>')} | {len(layers)} | "
            f"{sum(layer.measured_ms for layer in layers):.1f} | "
            f"{100 * np.median(_errors(layers, 'fitted_ms')):.1f} | {100 * np.median(unseen):.1f} "
            f"| {100 * np.quantile(unseen, 0.9):.1f} |"
        )
    few = [kind.strip("<>") for kind, layers in groups if len(layers) < 10]
    lines += [
        "",
        f"Kinds with fewer than ten layers: {', '.join(few)}. Their errors, and those of other "
        "kinds of vector stages, are based on little data.",
        "",
        *_by_size(report.layers),
        "",
        "## Layers held out of all fits",
        "",
        "| layer | measured ms | estimated ms | error % |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {point.name} | {point.measured_ms:.3f} | {point.estimated_ms:.3f} | "
        f"{100 * point.error:+.0f} |"
        for point in report.points
    ]
    lines += [
        "",
        "## Networks held out of all fits",
        "",
        f"Estimates include {report.calibration.host_ms} ms for the host, which is not fitted "
        "either.",
        "",
        "No coefficient is fitted to these networks or to the held-out layers above. The form of "
        "the model and the host's time were chosen among a few dozen variants with these figures "
        "in view, so this is not a blind test.",
        "",
        "| network | published ms | estimated ms | p10 | p90 | error % |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in report.whole.items():
        published = report.published_ms.get(name)
        shown = f"{published:.1f}" if published else "{:.1f} to {:.1f}".format(*report.resnet_18_ms)
        error = f"{100 * (one.latency_ms / published - 1):+.1f}" if published else ""
        lines.append(
            f"| {name} | {shown} | {one.latency_ms:.2f} | {one.interval_ms[0]:.1f} | "
            f"{one.interval_ms[1]:.1f} | {error} |"
        )
    lines += ["", "## Coefficients", "", "| coefficient | value | meaning |", "|---|---|---|"]
    lines += [
        f"| {name} | {report.calibration.coefficients[name]:.4g} | {what} |"
        for name, what in COEFFICIENTS.items()
    ]
    lines += ["", "## Sources", "", *(f"- {name}: {text}" for name, text in sources.items()), ""]
    return "\n".join(lines)


def _by_size(layers: Iterable[Layer]) -> list[str]:
    """Returns the lines of a table of dense convolutions by kernel and height of the output."""
    heights = {"56 or more": 56, "28 to 55": 28, "14 to 27": 14, "below 14": 0}
    groups: dict[tuple[str, str], list[Layer]] = collections.defaultdict(list)
    for layer in layers:
        if layer.size is not None and not layer.held_out:
            kernel = layer.size[0] if layer.size[0] in ("1×1", "3×3") else "others"
            height = next(name for name, least in heights.items() if layer.size[1] >= least)
            groups[kernel, height].append(layer)
    lines = [
        "## Dense convolutions by size, unseen",
        "",
        "| kernel | output, px | layers | total ms | error of the total % | median error % | "
        "90th percentile error % |",
        "|---|---|---|---|---|---|---|",
    ]
    for kernel in ("1×1", "3×3", "others"):
        for height in heights:
            some = groups.get((kernel, height))
            if some:
                measured = sum(layer.measured_ms for layer in some)
                total = sum(layer.unseen_ms for layer in some) / measured - 1
                errors = _errors(some, "unseen_ms")
                lines.append(
                    f"| {kernel} | {height} | {len(some)} | {measured:.1f} | {100 * total:+.1f} | "
                    f"{100 * np.median(errors):.1f} | {100 * np.quantile(errors, 0.9):.1f} |"
                )
    return lines


def figure(report: Report) -> Figure:
    """Plots estimated (unseen) against measured time on logarithmic axes, by kind of layer."""
    drawing = Figure(figsize=(7, 6), layout="constrained")
    axes = drawing.subplots()
    for kind, layers in _grouped(report.layers, "type").items():
        axes.scatter(
            [layer.measured_ms for layer in layers],
            [layer.unseen_ms for layer in layers],
            s=14,
            alpha=0.6,
            label=f"{kind.strip('<>')} ({len(layers)})",
        )
    axes.scatter(
        [point.measured_ms for point in report.points],
        [point.estimated_ms for point in report.points],
        marker="x",
        color="black",
        label=f"held out ({len(report.points)})",
    )
    ends = np.array([0.01, 12])
    axes.plot(ends, ends, color="black", linewidth=0.8)
    axes.fill_between(ends, 0.8 * ends, 1.2 * ends, color="black", alpha=0.08, label="±20 %")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="measured on the stick, ms",
        ylabel="estimated without having seen the network, ms",
        xlim=ends,
        ylim=ends,
        title="MyriadX cost model: layers of four public networks",
    )
    axes.legend(fontsize=8)
    return drawing
