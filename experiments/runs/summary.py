"""The summary that a search or training prints at its end."""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import rich.console
import rich.panel
import rich.table
import rich.text

from experiments.runs.published_figures import PUBLISHED, front
from jaxnas import network_figure
from jaxnas.network import NetworkSpec

Result = Mapping[str, Any]
_LEGEND = "green 3×3, orange 5×5, red 7×7; wide is expansion 6, white is fixed"
_DENSE_LEGEND = "green 3×3, orange 5×5, red 7×7, f dense; wide is expansion 6, white fixed"


def show(result: Result, spec: NetworkSpec, title: str, folder: pathlib.Path) -> None:
    """Prints the summary of a result.json, and of the pareto.json it names, on standard output.

    Args:
      result: content of result.json.
      spec: specification of the network.
      title: title of the panel.
      folder: folder of the run.

    Raises:
      OSError: the pareto.json cannot be read.
    """
    console = rich.console.Console(highlight=False)
    front: list[rich.console.RenderableType] = []
    if "pareto" in result["files"]:
        front = ["", *_front(json.loads((folder / result["files"]["pareto"]).read_text()))]
    searched = ""
    if result["space"]:
        searched = f"{sum(block.name != 'first' for block in spec.blocks)} searched blocks, "
    drawn = network_figure.terminal(spec)
    lines = [
        drawn,
        "",
        rich.text.Text(result["architecture"], "bold"),
        f"{searched}{result['parameters'] / 1e6:.2f} M parameters, {result['macs'] / 1e6:.0f} M "
        f"multiply-accumulates at {result['image_size']} px, {result['num_classes']} classes",
        "",
        rich.text.Text(_latency_label(result)),
        _latency(result),
        *map(rich.text.Text, best_published(result)),
        *map(rich.text.Text, archive_latency(result)),
        "",
        *map(rich.text.Text, _accuracy(result)),
        *front,
        "",
        rich.text.Text(f"files in {folder}: {', '.join(result['files'].values())}"),
    ]
    legend = _DENSE_LEGEND if "f" in drawn.plain else _LEGEND
    console.print(
        rich.panel.Panel(rich.console.Group(*lines), title=rich.text.Text(title), subtitle=legend)
    )


@contextlib.contextmanager
def reading_result(folder: pathlib.Path) -> Iterator[None]:
    """Context for work with a run's result.json; raises ValueError if that is damaged."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / 'result.json'} is damaged or from another version "
            f"({type(error).__name__}: {error}); remove it, and the same command writes it again"
        ) from error


def _latency_label(result: Result) -> str:
    if not result["kind"]:
        return f"{result['device']} was not available; nothing was checked on it:"
    chosen = [f"{name} {value}" for name, value in result["settings"].items() if value is not None]
    settings = f" with {', '.join(chosen)}" if chosen else ""
    return f"Latency by {result['device']}{settings}, {result['kind']}, batch 1:"


def _latency(result: Result) -> rich.table.Table:
    table = rich.table.Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    table.add_row("[bold]this network[/]", f"[bold]{_ms(result['device_ms'])}[/]", _target(result))
    for name, reference in result["references"].items():
        ratio = result["device_ms"] / reference["device_ms"]
        table.add_row(
            PUBLISHED[name].title, _ms(reference["device_ms"]), f"this one takes {ratio:.2f} of it"
        )
    return table


def best_published(result: Result) -> list[str]:
    """Returns a line on the most accurate published network within the same budget."""
    rivals = result.get("rivals")
    if not rivals:
        return []
    latencies_ms, best = rivals["device_ms"], best_rival(result)
    classes = f"with {rivals['num_classes']} classes"
    if best is None:
        fastest = front(latencies_ms)[0]
        return [
            f"no published network takes {_ms(_budget_ms(result))} or less; "
            f"{PUBLISHED[fastest].title} takes {_ms(latencies_ms[fastest])} {classes}"
        ]
    return [
        f"best published within {_ms(_budget_ms(result))}: {PUBLISHED[best].title}, "
        f"{_ms(latencies_ms[best])} {classes}, {PUBLISHED[best].top1_percent:.1f}% on ImageNet"
    ]


def archive_latency(result: Result) -> list[str]:
    """Returns a line on the archive's blob where that is not the one that was measured."""
    archive = result.get("archive") or {}
    if archive.get("estimated_ms") is None:
        return []
    return [
        f"{result['files']['archive']} is for {archive['shaves']} SHAVEs: "
        f"{_ms(archive['estimated_ms'])} estimated"
    ]


def best_rival(result: Result) -> str | None:
    """Returns the most accurate published network within the same budget, or None."""
    latencies_ms = (result.get("rivals") or {}).get("device_ms", {})
    within = [name for name in front(latencies_ms) if latencies_ms[name] <= _budget_ms(result)]
    return within[-1] if within else None


def _budget_ms(result: Result) -> float:
    return result["target_ms"] if "target_ms" in result else result["device_ms"]


def _target(result: Result) -> str:
    if "target_ms" not in result:
        return ""
    met = {
        True: "[green]target met[/]",
        False: "[red]target missed[/]",
        None: "[yellow]not checked on the device[/]",
    }[result["target_met"]]
    return f"target {result['target_ms']:g} ms, predicted {_ms(result['predicted_ms'])}: {met}"


def _accuracy(result: Result) -> list[str]:
    """Returns lines on the exported file's accuracy and on what was not measured."""
    accuracy = result["accuracy"]
    lines = [
        f"top-1 {accuracy['top1']:.2%} ({accuracy['top1_low']:.1%} to "
        f"{accuracy['top1_high']:.1%}) of {accuracy['file']} in {accuracy['runtime']}, "
        f"{accuracy['image_size']} px,",
        f"on {accuracy['dataset']}'s {accuracy['split']} split, {accuracy['examples']} "
        f"examples; {accuracy['jax_top1']:.2%} in JAX",
    ]
    if result["kind"] == "estimated":
        lines.append(
            f"{result['device']} runs nothing: accuracy in the chip's "
            f"{result['precision']} was not measured"
        )
    if "held_out" in result:
        held_out = result["held_out"]
        lines.append(
            f"weights of epoch {held_out['epoch']} of {held_out['epochs']}, the best on "
            f"held-out data: {held_out['top1']:.2%} of {held_out['examples']} examples"
        )
    return lines


def _front(document: Result) -> list[rich.console.RenderableType]:
    """Returns a title and a table with a line for each network of pareto.json."""
    networks = document["networks"]
    table = rich.table.Table(box=None, padding=(0, 2, 0, 0))
    for title in ("budget", "device", "predicted", "top-1, for choosing"):
        table.add_column(title, justify="right")
    for one in networks:
        table.add_row(
            f"{one['target_ms']:g} ms",
            _ms(one["device_ms"]),
            _ms(one["predicted_ms"]),
            f"{one['inherited_top1']:.2%}",
        )
    return [
        f"The same search for other budgets; top-1 is for choosing: inherited weights, "
        f"{document['search_image_size']} px, {networks[0]['examples']} examples "
        f"{networks[0]['split']}:",
        table,
    ]


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} ms"
