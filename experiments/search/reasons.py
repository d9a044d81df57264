"""The parts of a search's page on the candidates of each block, and on why this network."""

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from experiments.pages.html import Node, section, table, tag
from experiments.pages.verdict import NONE
from jaxnas.latency import LatencyTable
from jaxnas.space import Block, Candidate, Space

Choices = Mapping[str, Any]  # content of choices.json


def candidates(choices: Choices, table_ms: LatencyTable, space: Space) -> Element:
    """Returns a table of each block's candidates: latency, final probability, the chosen one."""
    path = space.path(space.parse(choices["architecture"]))
    rows: list[list[Node]] = []
    for row, block in enumerate(space.blocks):
        cells: list[Node] = [tag("span", block.name, tag("small", _shape(block)))]
        probabilities = choices["blocks"][block.name]["probabilities"]
        for column, candidate in enumerate(space.candidates):
            if not space.allowed[row, column]:
                cells.append("")
                continue
            cells.append(
                _cell(
                    table_ms.candidate_ms[row, column],
                    probabilities[str(candidate)],
                    column == path[row],
                )
            )
        rows.append(cells)
    head = ("block", *(_name(candidate) for candidate in space.candidates))
    shown = table(
        head,
        rows,
        (0,),
        f"Latency of each candidate by the table ({table_ms.device}, {table_ms.kind}), its "
        f"probability at the end of the search, and ✓ for the chosen one",
    )
    shown.set("class", "choices")
    return shown


def why(choices: Choices, table_ms: LatencyTable, space: Space) -> Element:
    """Returns the section on what another choice in each block would cost or free."""
    path = space.path(space.parse(choices["architecture"]))
    rows, freed = [], []
    for row, block in enumerate(space.blocks):
        chosen_ms = table_ms.candidate_ms[row, path[row]]
        chosen = space.candidates[path[row]]
        other = choices["blocks"][block.name]["next_best"]
        without = NONE
        if space.allowed[row, -1] and not chosen.is_skip:
            without = f"−{chosen_ms:.2f}"
            freed.append((float(chosen_ms), block.name))
        elif chosen.is_skip:
            without = "skipped"
        if other is None:
            rows.append((block.name, _name(chosen), NONE, NONE, NONE, NONE, without))
            continue
        column = [str(candidate) for candidate in space.candidates].index(other["candidate"])
        change_ms = table_ms.candidate_ms[row, column] - chosen_ms
        rows.append(
            (
                block.name,
                _name(chosen),
                _name(space.candidates[column]),
                _signed(change_ms, ".2f"),
                _signed(100 * (other["inherited_top1"] - choices["inherited_top1"]), ".2f"),
                _signed(other["inherited_loss"] - choices["inherited_loss"], ".3f"),
                without,
            )
        )
    children: list[Node] = [
        tag(
            "p",
            f"For each block the most probable other candidate: what it would change in latency, "
            f"by the table, in accuracy and in loss. Accuracy and loss are those of the supernet's "
            f"weights, without training, on {choices['examples']} examples {choices['split']} at "
            f"{choices['image_size']} px, where this network has {choices['inherited_top1']:.2%} "
            f"and {choices['inherited_loss']:.3f}: they only compare.",
        ),
        table(
            (
                "block",
                "chosen",
                "next best",
                "latency, ms",
                "top-1, points",
                "loss",
                "without it, ms",
            ),
            rows,
            (0, 1, 2),
        ),
    ]
    if freed:
        shown = ", ".join(f"{ms:.2f} ms ({name})" for ms, name in sorted(freed, reverse=True))
        children.append(tag("p", f"One block fewer would free: {shown}."))
    return section("why", "Why this network", *children)


def predicted_parts(table_ms: LatencyTable, space: Space, path: np.ndarray) -> dict[str, float]:
    """Returns the predicted latency in ms of each fixed part and block of a path."""
    blocks = {
        block.name: float(table_ms.candidate_ms[row, column])
        for row, (block, column) in enumerate(zip(space.blocks, path, strict=True))
    }
    return {**table_ms.fixed_ms, **blocks}


def _shape(block: Block) -> str:
    stride = f", stride {block.stride}" if block.stride != 1 else ""
    return f"{block.in_channels} → {block.out_channels}{stride}"


def _name(candidate: Candidate) -> str:
    return "skip" if candidate.is_skip else str(candidate)


def _cell(ms: float, probability: float, is_chosen: bool) -> Element:
    mark = "✓ " if is_chosen else ""
    shade = f"background: rgb(61 133 198 / {0.45 * probability:.2f})"
    return tag(
        "div",
        f"{mark}{ms:.2f} ms",
        tag("small", f"{probability:.0%}"),
        class_="chosen" if is_chosen else "candidate",
        style=shade,
    )


def _signed(value: float, form: str) -> str:
    """Returns a number with its sign, as typeset; zero has none."""
    text = format(abs(value), form)
    if not float(text):
        return text
    return f"{'+' if value > 0 else '−'}{text}"
