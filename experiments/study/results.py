"""`results.md`: what a study found, for readers, from study.json alone."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.study import figures
from experiments.study.affinities import ALMOST_ALWAYS, DOES_NOT, UNDECIDED
from experiments.study.figures import title
from experiments.study.intervals import Interval
from jaxnas import draw

ROWS = {
    "blocks": "blocks that are not skip",
    "e6": "share of expansion 6",
    "k3": "share of 3×3",
    "k5": "share of 5×5",
    "k7": "share of 7×7",
}
GROUPS = {"found": "found", "random": "random", "mobilenet_v2": "MobileNetV2"}
_REASONS = {
    "k7_over_k3_e6": "a 7×7 block over the 3×3 one, expansion 6",
    "k7_over_k3_e3": "a 7×7 block over the 3×3 one, expansion 3",
    "e6_over_two_e3": "one block of expansion 6 over two of expansion 3",
    "least_over_most": "a block's fastest convolution over its slowest",
    "fixed_share": "of the reference: what every network pays",
    "skippable_share": "of the reference: its blocks that may be skipped",
}


def write(document: Mapping[str, Any], folder: pathlib.Path) -> list[str]:
    """study.json, results.md and the figures, PNG and SVG; returns the files' names."""
    (folder / "study.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    (folder / "results.md").write_text(markdown(document))
    names = ["study.json", "results.md"]
    for name, figure in figures.figures(document).items():
        for file in (f"{name}.png", f"{name}.svg"):
            draw.save(figure, folder / file)
            names.append(file)
    return names


def markdown(document: Mapping[str, Any]) -> str:
    """The text of results.md; the same for the same document."""
    parts = [_head(document)]
    if document["affinities"] is not None:
        parts += [
            _affinities(document["affinities"]),
            _reasons(document["affinities"]),
            _networks(document["affinities"]),
        ]
    if document["worth"] is not None:
        parts += [_worth(document), _every_network(document["worth"])]
    return "\n".join([*parts, _limits(document)])


def interval(value: Interval, *, percent: bool = False, sign: bool = False) -> str:
    """`12.3 ± 1.2`, in percent where asked for; without an interval `12.3 (±?)`."""
    scale, digits = (100, 1) if percent else (1, 2)
    mean = f"{scale * value['mean']:{'+' if sign else ''}.{digits}f}"
    if value["low"] is None:
        return f"{mean} (±?)"
    return f"{mean} ± {scale * (value['high'] - value['low']) / 2:.{digits}f}"


def worth_verdict(worth: Mapping[str, Any]) -> str:
    """Whether the search beats chance, in one sentence, by the difference's interval."""
    difference = (
        f"found less random is {interval(worth['difference'], percent=True, sign=True)} "
        f"percentage points of top-1"
    )
    verdict = {
        "above": "The networks found are better than random ones of the same budget",
        "below": "The networks found are worse than random ones of the same budget",
        None: "The search does not beat chance: whether the networks found are better than "
        "random ones of the same budget is undecided",
    }[worth["found_over_random"]]
    return f"{verdict}; {difference}."


def _head(document: Mapping[str, Any]) -> str:
    search, training, examples = document["search"], document["training"], document["examples"]
    seeds, train_seeds = (", ".join(map(str, document[name])) for name in ("seeds", "train_seeds"))
    lines = [
        "# What each device likes, and whether the search is worth it",
        "",
        "Written by `python -m experiments.study` from `study.json`. ± is the 95 % interval of "
        "Student's t; (±?) stands where one value gives none.",
        "",
    ]
    if document["affinities"] is not None:
        lines += [
            f"- The poster's “{s['statement']}”: **{s['verdict']}**."
            for s in document["affinities"]["statements"]
        ]
    if document["worth"] is not None:
        lines += [f"- **{worth_verdict(document['worth'])}**"]
    return "\n".join(
        [
            *lines,
            "",
            "## Method",
            "",
            f"Space {document['space']} ({document['blocks']} blocks), data set "
            f"{document['dataset']}: {examples['weights']} examples for the weights, "
            f"{examples['held_out']} held out, {examples['test']} for the test, at "
            f"{document['train_image_size']} px, batches of {document['batch_size']}; latency at "
            f"{document['image_size']} px. Seeds of the searches: {seeds}; of the trainings of "
            f"every network: {train_seeds}. A seed also chooses which examples are held out.",
            "",
            f"A search, at {document['search_image_size']} px: {search['warmup_epochs']} epochs of "
            f"warm-up, {search['search_epochs']} of "
            f"search, estimator {search['estimator']}, α's learning rate "
            f"{search['alpha_learning_rate']:g}, an architecture step every "
            f"{search['alpha_every']} weight steps, λ {search['latency_weight']:g} "
            f"({search['latency_control']}); then the likeliest path that takes "
            f"{document['least_spent']:.1%} to 100 % of the budget by the table"
            + (
                f", of {search['finalists']} finalists the most accurate on held-out data"
                if search["finalists"] > 1
                else ""
            )
            + ".",
            "",
            f"A training, of every network alike and from scratch: {training['epochs']} epochs, "
            f"learning rate {training['learning_rate']:g} (cosine), weight decay "
            f"{training['weight_decay']:g}, label smoothing {training['label_smoothing']:g}, "
            f"dropout {training['dropout']:g}, moving average {training['ema_decay']:g}, "
            f"{training['precision']}. The held-out examples, which α's steps see in a search, "
            f"choose the epoch in a training; the test examples are seen once, at its end.",
            "",
        ]
    )


def _affinities(part: Mapping[str, Any]) -> str:
    devices = part["devices"]
    titles = [title(device) for device in devices]
    fraction = devices[0]["target_ms"] / devices[0]["reference_ms"]
    lines = [
        "## What each device likes",
        "",
        "The same searches with two latency tables, at budgets that are equally tight: each is "
        f"{fraction:.1%} of what the reference path takes on that device.",
        "",
        "| | " + " | ".join(titles) + " |",
        "|---|" + "---:|" * len(devices),
        _row("latency", [f"{d['kind']}, {d['precision']}" for d in devices]),
        _row("reference, ms", [f"{d['reference_ms']:.2f}" for d in devices]),
        _row("budget, ms", [f"{d['target_ms']:.2f}" for d in devices]),
        _row(
            "random paths that spend it, in a million",
            [f"{1e6 * d['chance']['accepted'] / d['chance']['drawn']:.1f}" for d in devices],
        ),
        "",
    ]
    head = [
        cell
        for title in titles
        for cell in (f"{title}, found", f"{title}, random", f"{title}, found − random")
    ]
    lines += [
        f"| | {' | '.join(head)} | found, {titles[0]} − {titles[1]} |",
        "|---|" + "---:|" * (len(head) + 1),
    ]
    for name, label in ROWS.items():
        share = name != "blocks"
        cells = [
            text
            for device in devices
            for text in (
                interval(device["found"][name], percent=share),
                interval(device["chance"]["statistics"][name], percent=share),
                interval(device["over_chance"][name], percent=share, sign=True),
            )
        ]
        lines.append(
            _row(
                label + (", %" if share else ""),
                [*cells, interval(part["differences"][name], percent=share, sign=True)],
            )
        )
    lines += [
        "",
        f"Shares are of the blocks that are not skip. Found: {len(devices[0]['networks'])} "
        f"searches a device. Random: {devices[0]['chance']['networks']} networks a device, drawn "
        f"uniformly from the space's paths that spend the budget; found − random is what the "
        f"search adds to the budget (Welch's interval). The last column is taken seed by seed.",
        "",
        "Expected of softmax(α) at the end of the search, before the budget is imposed:",
        "",
        f"| | {' | '.join(titles)} |",
        "|---|" + "---:|" * len(devices),
        *(
            _row(
                label + ("" if name == "blocks" else ", %"),
                [interval(d["expected"][name], percent=name != "blocks") for d in devices],
            )
            for name, label in ROWS.items()
        ),
        "",
        "![depth and shares](study_affinities.png)",
        "",
        "### The poster's three statements",
        "",
        "| statement | figure | rule | verdict |",
        "|---|---|---|---|",
    ]
    for statement in part["statements"]:
        name = statement["statistic"]
        of_difference = statement["of"] == "difference"
        value = (part["differences"] if of_difference else devices[0]["found"])[name]
        figure = interval(value, percent=name != "blocks", sign=of_difference)
        lines.append(
            f"| {statement['statement']} | {figure}{'' if name == 'blocks' else ' %'} | "
            f"{statement['rule']} | **{statement['verdict']}** |"
        )
    return "\n".join([*lines, ""])


def _reasons(part: Mapping[str, Any]) -> str:
    """What the tables say, beside the verdicts that they may explain."""
    devices = part["devices"]
    titles = [title(device) for device in devices]
    of = [device["table"] for device in devices]
    lines = [
        "### What the tables alone say",
        "",
        f"| | {' | '.join(titles)} |",
        "|---|" + "---:|" * len(devices),
        *(_row(label, [f"{table[name]:.2f}" for table in of]) for name, label in _REASONS.items()),
        "",
        "Ratios of times, means over all blocks; the last two are shares of the time of the "
        "reference path.",
        "",
    ]

    def both(name: str) -> str:
        return " and ".join(
            f"{table[name]:.2f} on the {title}" for table, title in zip(of, titles, strict=True)
        )

    depth = [device["chance"]["statistics"]["blocks"]["mean"] for device in devices]
    reasons = {
        "blocks": f"A block's fastest convolution takes {both('least_over_most')} of its slowest: "
        f"the nearer to 1, the more a block takes merely for being there, and the more "
        f"a budget is saved by fewer blocks. Random networks of the two budgets have "
        f"{depth[0]:.1f} and {depth[1]:.1f} blocks.",
        "e6": f"One block of expansion 6 takes {both('e6_over_two_e3')} of what two of expansion 3 "
        f"take: below 1, width is cheaper than depth.",
        "k7": f"A 7×7 block of expansion 6 takes {both('k7_over_k3_e6')} of the 3×3 one: the "
        f"nearer to 1, the cheaper a large kernel.",
    }
    for statement in part["statements"]:
        but = {
            DOES_NOT: " It does not reproduce here; the table's part in it:",
            UNDECIDED: " Undecided here; the table's part in it:",
        }.get(statement["verdict"], "")
        lines.append(f"- “{statement['statement']}”.{but} {reasons[statement['statistic']]}")
    return "\n".join([*lines, ""])


def _networks(part: Mapping[str, Any]) -> str:
    lines = [
        "### The networks found",
        "",
        "![the networks, drawn](study_networks.png)",
        "",
        "| device | seed | ms by its table | architecture |",
        "|---|---:|---:|---|",
    ]
    for device in part["devices"]:
        lines += [
            f"| {title(device)} | {n['seed']} | {n['predicted_ms']:.2f} | `{n['architecture']}` |"
            for n in device["networks"]
        ]
    return "\n".join([*lines, ""])


def _worth(document: Mapping[str, Any]) -> str:
    worth, seeds = document["worth"], len(document["train_seeds"])
    lines = [
        "## Is the search worth it?",
        "",
        f"**{worth_verdict(worth)}**",
        "",
        "| | networks | latency, ms | blocks | parameters, M | MACs, M | top-1, % |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for group, label in GROUPS.items():
        of_group = [n for n in worth["networks"] if n["group"] == group]
        lines.append(
            _row(
                label,
                [
                    str(len(of_group)),
                    *(
                        _span([n[name] / scale for n in of_group])
                        for name, scale in (
                            ("latency_ms", 1),
                            ("blocks", 1),
                            ("parameters", 1e6),
                            ("macs", 1e6),
                        )
                    ),
                    interval(worth[group], percent=True),
                ],
            )
        )
    randoms = sum(n["group"] == "random" for n in worth["networks"])
    ranks = ", ".join(map(str, worth["ranks"]))
    half = worth["difference"]["low"]
    unseen = (
        ""
        if half is None
        else (
            f" A difference of less than {100 * (worth['difference']['mean'] - half):.1f} points "
            f"either way would not be seen."
        )
    )
    chance = worth["chance"]
    return "\n".join(
        [
            *lines,
            "",
            f"All at most {worth['target_ms']:.2f} ms. A network's top-1 is the mean of {seeds} "
            f"trainings; intervals are over networks, MobileNetV2's over its trainings. The "
            f"difference has Welch's interval.{unseen} Among the {randoms} random networks the "
            f"found ones would have the places {ranks} (1 is best, of equals the first).",
            "",
            f"Random networks are drawn uniformly from the space's paths that spend the budget, "
            f"{1e6 * chance['accepted'] / chance['drawn']:.1f} in a million; MobileNetV2 is "
            f"{_architecture_of(worth, 'mobilenet_v2')}, the widest within the budget, its latency "
            f"by the device and not by the table. Latency, parameters and MACs are of networks "
            f"with {worth['num_classes']} classes at {worth['image_size']} px; blocks count the "
            f"fixed first one.",
            "",
            "![top-1 against MACs](study_worth.png)",
            "",
        ]
    )


def _every_network(worth: Mapping[str, Any]) -> str:
    lines = [
        "### Every network",
        "",
        "| network | ms | parameters, M | MACs, M | top-1, % | of each seed | architecture |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    for n in sorted(worth["networks"], key=lambda n: -n["top1"]):
        each = ", ".join(f"{100 * run['top1']:.1f}" for run in n["runs"])
        lines.append(
            f"| {n['name']} | {n['latency_ms']:.2f} | {n['parameters'] / 1e6:.2f} | "
            f"{n['macs'] / 1e6:.1f} | {100 * n['top1']:.2f} | {each} | "
            f"`{n['architecture']}` |"
        )
    return "\n".join([*lines, ""])


def _limits(document: Mapping[str, Any]) -> str:
    limits = [
        f"{document['dataset']} at {document['train_image_size']} px is not ImageNet at 224 px, on "
        f"which the poster's network was found: how much depth, width and kernels are worth is the "
        f"data's matter, and schedules are short.",
        f"{len(document['seeds'])} seeds: where all agree an interval has no width, which "
        f"says nothing of other seeds. Verdicts are of single statements, without a correction "
        f"for asking several.",
    ]
    if document["affinities"] is not None:
        limits += [
            f"{title(d)}: latency is {d['kind']}"
            + (f"; {d['provenance']['source']}" if "source" in d["provenance"] else "")
            + f". Its classifier has {d['num_classes']} outputs, whatever the data set has."
            for d in document["affinities"]["devices"]
        ]
        limits += [
            "Budgets are equally tight by one path, the reference "
            f"`{document['reference']}`; by another they would differ a little.",
            f"“Almost always” is read as more than {ALMOST_ALWAYS:.0%}, “far” as any "
            "difference: the poster gives no numbers.",
        ]
    if document["worth"] is not None:
        found, random = (
            np.mean([n["blocks"] for n in document["worth"]["networks"] if n["group"] == group])
            for group in ("found", "random")
        )
        limits.append(
            f"Found networks have {found:.1f} blocks on average, random ones "
            f"{random:.1f}: how much of their difference in top-1 depth alone makes was "
            f"not asked."
        )
    return "\n".join(["## Limits", "", *(f"- {limit}" for limit in limits), ""])


def _row(label: str, cells: Sequence[str]) -> str:
    return f"| {label} | {' | '.join(cells)} |"


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"


def _architecture_of(worth: Mapping[str, Any], group: str) -> str:
    return next(n["architecture"] for n in worth["networks"] if n["group"] == group)
