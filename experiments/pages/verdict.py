"""The first section of a run's page: what was found, how fast and how accurate it is."""

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from experiments.pages.html import Node, section, table, tag, tile
from experiments.runs.published_figures import PUBLISHED
from experiments.runs.summary import best_published, best_rival

Result = Mapping[str, Any]
NONE = "–"


def verdict(result: Result) -> Element:
    """Returns the section of a result.json."""
    accuracy = result["accuracy"]
    tiles = tag(
        "div",
        tile(
            "Latency",
            ms(result["device_ms"]),
            *_target(result),
            f"{result['kind'] or 'not measured'}, batch 1, {result['image_size']} px"
            if result["kind"]
            else f"{result['device']} was not available",
        ),
        tile(
            "Accuracy of the file",
            f"{accuracy['top1']:.2%}",
            f"95 % interval {accuracy['top1_low']:.1%} to {accuracy['top1_high']:.1%}",
            f"{accuracy['examples']} examples, {accuracy['split']} of {accuracy['dataset']}",
        ),
        tile(
            "Size",
            _count(result["parameters"]),
            "parameters",
            f"{_count(result['macs'])} multiply-accumulates, {result['num_classes']} classes",
        ),
        class_="tiles",
    )
    parts: list[Node] = [tiles]
    if result["kind"]:
        parts += [_latencies(result), *map(_sentence, best_published(result))]
    return section("result", "Result", *parts, *(tag("p", text) for text in _notes(result)))


def latency_source(result: Result) -> str:
    """Returns the device of a result, its settings and whether it measures or estimates."""
    chosen = [f"{name} {value}" for name, value in result["settings"].items() if value is not None]
    return ", ".join([result["device"], *chosen, result["kind"], result["precision"]])


def ms(value: float | None) -> str:
    """Returns a latency as text; a dash for none."""
    return NONE if value is None else f"{value:.2f} ms"


def _count(number: int) -> str:
    """Returns a number to three digits, in thousands or millions."""
    return f"{number / 1e6:.3g} M" if number >= 1e6 else f"{number / 1e3:.3g} k"


def _sentence(line: str) -> Element:
    return tag("p", f"{line[0].upper()}{line[1:]}.")


def _target(result: Result) -> list[Element]:
    if "target_ms" not in result:
        return []
    sign, style, text = {
        True: ("✓", "good", "met"),
        False: ("✗", "bad", "missed"),
        None: ("?", "unsure", "not checked on the device"),
    }[result["target_met"]]
    return [
        tag(
            "span",
            f"target {result['target_ms']:g} ms: ",
            tag("span", f"{sign} {text}", class_=style),
        )
    ]


def _latencies(result: Result) -> Element:
    """Returns a table of the latency beside those of published networks, with a bar for each."""
    own_ms, classes = result["device_ms"], f"{result['num_classes']} classes"
    rows = [("this network", own_ms, classes)]
    rows += [
        (PUBLISHED[name].title, one["device_ms"], classes)
        for name, one in result["references"].items()
    ]
    best = best_rival(result)
    if best is not None:
        rivals = result["rivals"]
        rows.append(
            (
                f"{PUBLISHED[best].title}, best published",
                rivals["device_ms"][best],
                f"{rivals['num_classes']} classes",
            )
        )
    most_ms = max(value for _, value, _ in rows)
    shown = table(
        ("", "ms", "this takes", "", ""),
        [
            (name, f"{value:.2f}", f"{own_ms / value:.2f} of it", _bar(value / most_ms), note)
            for name, value, note in rows
        ],
        (0, 3, 4),
        f"Latency by {latency_source(result)}",
    )
    shown.set("class", "bars")
    return shown


def _bar(share: float) -> Element:
    return tag("div", class_="bar", style=f"width: {12 * share:.2f}rem")


def _notes(result: Result) -> list[str]:
    """Returns sentences on what the figures are of, and on what was not measured."""
    accuracy = result["accuracy"]
    notes = [
        f"The accuracy is that of {accuracy['file']} in {accuracy['runtime']} at "
        f"{accuracy['image_size']} px; JAX has {accuracy['jax_top1']:.2%} with the same weights."
    ]
    if result["kind"] == "estimated":
        notes.append(
            f"{result['device']} estimates from its compiler's schedule and runs nothing: the "
            f"accuracy in the chip's {result['precision']} was not measured."
        )
    held_out = result["held_out"]
    notes.append(
        f"The weights are those of epoch {held_out['epoch']} of {held_out['epochs']}, the best on "
        f"held-out data: {held_out['top1']:.2%} of {held_out['examples']} examples."
    )
    return notes
