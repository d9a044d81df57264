"""What a person reads at the end of a search."""

import json
import pathlib

import rich.console
import rich.panel
import rich.table

from experiments.config import Config
from experiments.published import PUBLISHED
from jaxnas import draw
from jaxnas.network import network_of


def show(result: dict, config: Config) -> None:
    """Prints the summary of `result.json`, and of a pareto.json that it names, on standard output.

    Raises:
      OSError: the pareto.json is gone.
    """
    console = rich.console.Console(highlight=False)
    space = config.search_space
    spec = network_of(space, space.parse(result["architecture"]), result["num_classes"])
    chosen = [f"{name} {value}" for name, value in result["settings"].items() if value is not None]
    settings = f" with {', '.join(chosen)}" if chosen else ""
    label = (f"Latency by {result['device']}{settings}, {result['kind']}, batch 1:"
             if result["kind"] else f"{result['device']} was not there, nothing was checked:")
    table = rich.table.Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    met = {True: "[green]target met[/]", False: "[red]target missed[/]",
           None: "[yellow]not checked on the device[/]"}[result["target_met"]]
    table.add_row("[bold]found[/]", f"[bold]{_ms(result['device_ms'])}[/]",
                  f"target {result['target_ms']:g} ms, predicted {_ms(result['predicted_ms'])}: "
                  f"{met}")
    for name, reference in result["references"].items():
        ratio = result["device_ms"] / reference["device_ms"]
        table.add_row(PUBLISHED[name].title, _ms(reference["device_ms"]),
                      f"found takes {ratio:.2f} of it")
    accuracy = result["accuracy"]
    front = []
    if "pareto" in result["files"]:
        file = pathlib.Path(config.workdir) / result["files"]["pareto"]
        front = ["", *_front(json.loads(file.read_text())), ""]
    lines = rich.console.Group(
        draw.terminal(spec), "",
        f"[bold]{result['architecture']}[/]",
        f"{len(spec.blocks) - 1} of {len(space.blocks)} blocks, "
        f"{result['parameters'] / 1e6:.2f} M parameters, {result['macs'] / 1e6:.0f} M "
        f"multiply-accumulates at {result['image_size']} px, {result['num_classes']} classes", "",
        label, table, "",
        f"top-1 {accuracy['top1']:.2%} on {accuracy['dataset']}'s {accuracy['split']} split "
        f"({accuracy['examples']} examples, {accuracy['image_size']} px)", *front,
        f"files in {config.workdir}: {', '.join(result['files'].values())}")
    console.print(rich.panel.Panel(
        lines, title=f"{result['space']} for {result['device']}, {result['target_ms']:g} ms",
        subtitle="green 3×3, orange 5×5, red 7×7; wide is expansion 6, white is fixed"))


def _front(document: dict) -> list[rich.console.RenderableType]:
    """The networks of pareto.json, one line each."""
    networks = document["networks"]
    table = rich.table.Table(box=None, padding=(0, 2, 0, 0))
    for title in ("budget", "device", "predicted", "top-1"):
        table.add_column(title, justify="right")
    for one in networks:
        table.add_row(f"{one['target_ms']:g} ms", _ms(one["device_ms"]), _ms(one["predicted_ms"]),
                      f"{one['top1']:.2%}")
    return [f"The same search for other budgets, weights as in the supernet, top-1 on "
            f"{networks[0]['examples']} examples {networks[0]['split']}:", table]


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} ms"
