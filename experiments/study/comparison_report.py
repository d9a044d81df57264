"""Section of results.md on found networks versus others, from study.json alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.runs.markdown import table
from experiments.study import intervals
from experiments.study.comparison import SIGNIFICANT


def verdicts(worth: Mapping[str, Any]) -> list[str]:
    """Returns a verdict, by Holm's p, on each group that the first one is compared with."""
    first, *others = worth["groups"]
    sides = {"above": "better", "below": "worse", None: "undecided"}
    return [
        f"{first['name'].capitalize()} − {other['name']} is {difference} percentage points of "
        f"top-1: {sides[other['first_is']]}"
        for other in others
        for difference in [intervals.text(other["difference"], percent=True, sign=True)]
    ]


def comparison(worth: Mapping[str, Any]) -> str:
    """Returns the section on the groups of networks, from the `worth` object of study.json."""
    scales = {"latency_ms": 1, "blocks": 1, "parameters": 1e6, "macs": 1e6}
    rows = []
    for group in worth["groups"]:
        of_group = [n for n in worth["networks"] if n["group"] == group["name"]]
        spans = [_span([n[name] / scale for n in of_group]) for name, scale in scales.items()]
        trainings = sum(len(n["runs"]) for n in of_group)
        difference = (
            intervals.text(group["difference"], percent=True, sign=True)
            if "difference" in group
            else ""
        )
        p = group.get("holm_p")
        corrected = "" if p is None else f"{p:.3f}"
        ranks = ", ".join(map(str, group.get("ranks", ())))
        rows.append(
            (
                group["name"],
                len(of_group),
                trainings,
                *spans,
                intervals.text(group["top1"], percent=True),
                difference,
                corrected,
                ranks,
            )
        )
    first = worth["groups"][0]["name"]
    return "\n".join(
        [
            "## Found networks versus others",
            "",
            *(f"- **{text}.**" for text in verdicts(worth)),
            "",
            *table(
                [
                    "group",
                    "networks",
                    "trainings",
                    "latency, ms",
                    "blocks",
                    "parameters, M",
                    "MACs, M",
                    "top-1, %",
                    f"{first} − group",
                    "Holm's p",
                    f"ranks of {first}",
                ],
                rows,
                "lrrrrrrrrrr",
            ),
            "",
            f"All networks take at most {worth['target_ms']:.2f} ms. The top-1 of a network is the "
            f"mean of its trainings. The interval of a group is over its networks, or over the "
            f"trainings of a single one; a difference has Welch's interval, with the variance by "
            f"the test examples, and is called better or worse where its p, corrected for the "
            f"number of groups (Holm), is below {SIGNIFICANT:g}. Ranks of the networks "
            f"{first} are among those of the group (1 is best; ties take the better rank).",
            "",
            *_drawn(worth),
            *_most_probable(worth),
            f"A published network has the greatest width within the budget, by the device and not "
            f"by the table; RepVGG and MobileOne are trained as deployed, without the branches of "
            f"their published training. Latency, parameters and MACs are of networks with "
            f"{worth['num_classes']} classes at {worth['image_size']} px. Blocks include the fixed "
            f"first block.",
            "",
            "![top-1 against MACs](study_worth.png)",
            "",
        ]
    )


def every_network(worth: Mapping[str, Any]) -> str:
    """Returns the table of all networks."""
    rows = [
        (
            n["name"],
            f"{n['latency_ms']:.2f}",
            f"{n['parameters'] / 1e6:.2f}",
            f"{n['macs'] / 1e6:.1f}",
            f"{100 * n['top1']:.2f}",
            ", ".join(f"{100 * run['top1']:.1f}" for run in n["runs"]),
            f"`{n['architecture']}`",
        )
        for n in sorted(worth["networks"], key=lambda n: -n["top1"])
    ]
    head = ["network", "ms", "parameters, M", "MACs, M", "top-1, %", "of each seed", "architecture"]
    return "\n".join(["### Every network", "", *table(head, rows, "lrrrrll"), ""])


def per_million(draw: Mapping[str, Any]) -> str:
    """Returns the accepted paths per million drawn ones."""
    return f"{1e6 * draw['accepted'] / draw['drawn']:.1f}"


def _drawn(worth: Mapping[str, Any]) -> list[str]:
    if not worth["chance"]["drawn"]:
        return []
    return [
        f"Random networks are drawn uniformly from the paths of the space that use the budget, "
        f"{per_million(worth['chance'])} per million.",
        "",
    ]


def _most_probable(worth: Mapping[str, Any]) -> list[str]:
    """Returns what the searches would have chosen without a budget, group by group."""
    spans = []
    for group in worth["groups"]:
        of_group = [n for n in worth["networks"] if n["group"] == group["name"]]
        ms = [one for n in of_group if (one := n.get("most_probable_ms")) is not None]
        if ms:
            spans.append(f"{group['name']}: {_span(ms)} ms")
    if not spans:
        return []
    return [
        f"Without a budget, the most probable path of a search (the paper's rule) takes: "
        f"{'; '.join(spans)}.",
        "",
    ]


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"
