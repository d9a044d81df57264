"""results.md: the results of a study as a document, written from study.json alone."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.runs.markdown import table
from experiments.study import comparison_report, figures, intervals
from experiments.study.device_preferences import ALMOST_ALWAYS, DOES_NOT, UNDECIDED
from experiments.study.figures import title
from jaxnas import network_figure
from jaxnas.json_file import write_object

ROWS = {
    "blocks": "blocks that are not skip",
    "e6": "share of expansion 6",
    "k3": "share of 3×3",
    "k5": "share of 5×5",
    "k7": "share of 7×7",
}
_COMPARED = ("found", "random", "found − random")
_REASONS = {
    "k7_over_k3_e6": "7×7 block ÷ 3×3 block, expansion 6",
    "k7_over_k3_e3": "7×7 block ÷ 3×3 block, expansion 3",
    "e6_over_two_e3": "one block of expansion 6 ÷ two of expansion 3",
    "least_over_most": "fastest ÷ slowest convolution of a block",
    "fixed_share": "reference path: share that every network has",
    "skippable_share": "reference path: share of its skippable blocks",
}


def write(document: Mapping[str, Any], folder: pathlib.Path) -> list[str]:
    """Writes study.json, results.md and the figures (PNG, SVG); returns the names of the files."""
    write_object(folder / "study.json", document)
    (folder / "results.md").write_text(markdown(document))
    names = ["study.json", "results.md"]
    for name, figure in figures.figures(document).items():
        for file in (f"{name}.png", f"{name}.svg"):
            network_figure.save(figure, folder / file)
            names.append(file)
    return names


def markdown(document: Mapping[str, Any]) -> str:
    """Returns the text of results.md; it depends on the document alone."""
    parts = [_head(document)]
    if document["affinities"] is not None:
        parts += [
            _preferences(document["affinities"]),
            _reasons(document["affinities"]),
            _networks(document["affinities"]),
        ]
    if document["worth"] is not None:
        parts += [
            comparison_report.comparison(document["worth"]),
            comparison_report.every_network(document["worth"]),
        ]
    return "\n".join([*parts, _limits(document)])


def _head(document: Mapping[str, Any]) -> str:
    search, training, examples = document["search"], document["training"], document["examples"]
    seeds, trainings = ", ".join(map(str, document["seeds"])), document["trainings"]
    parts = {"affinities": "device preferences", "worth": "found networks versus others"}
    titles = [title for part, title in parts.items() if document[part] is not None]
    lines = [
        f"# {', and '.join(titles).capitalize()}",
        "",
        "Written by `python -m experiments.study` from `study.json`. ± is half the width of the "
        "95 % interval of Student's t; (±?) marks a single value, which has no interval.",
        "",
    ]
    if document["affinities"] is not None:
        lines += [
            f"- The poster's “{s['statement']}”: **{s['verdict']}**."
            for s in document["affinities"]["statements"]
        ]
    if document["worth"] is not None:
        lines += [f"- **{text}.**" for text in comparison_report.verdicts(document["worth"])]
    return "\n".join(
        [
            *lines,
            "",
            "## Method",
            "",
            f"Space {document['space']} ({document['blocks']} blocks){_other_spaces(document)}. "
            f"Data set {document['dataset']}: {examples['weights']} examples for the weights, "
            f"{examples['held_out']} held out, {examples['test']} for the test, at "
            f"{document['train_image_size']} px, batch size {document['batch_size']}. Latency at "
            f"{document['image_size']} px. Seeds of the searches, and of the trainings of a "
            f"published network: {seeds}. Every found and random network is trained with "
            f"{trainings} of them, in turn. A seed also selects the examples.",
            "",
            f"Each search, at {document['search_image_size']} px: {search['warmup_epochs']} epochs "
            f"of warm-up, {search['search_epochs']} of "
            f"search, {search['initialisation']} initialization, estimator {search['estimator']}, "
            f"α learning rate {search['alpha_learning_rate']:g}, one α step per "
            f"{search['alpha_every']} weight steps, λ {search['latency_weight']:g} "
            f"({search['latency_control']}). It derives the most probable path that takes "
            f"{document['least_spent']:.1%} to 100 % of the budget by the table"
            + (
                f"; of the top {search['finalists']}, the most accurate one on held-out data"
                if search["finalists"] > 1
                else ""
            )
            + "."
            + _official(document),
            "",
            f"Every network is trained from scratch with one recipe: {training['epochs']} epochs, "
            f"learning rate {training['learning_rate']:g} (cosine), weight decay "
            f"{training['weight_decay']:g}, label smoothing {training['label_smoothing']:g}, "
            f"dropout {training['dropout']:g}, moving average {training['ema_decay']:g}, "
            f"{training['precision']}. Held-out examples train α in a search and select the best "
            f"epoch in a training. Test examples are used once, at the end of a training.",
            "",
        ]
    )


def _other_spaces(document: Mapping[str, Any]) -> str:
    others = document["other_spaces"]
    return f", and {', '.join(others)}" if others else ""


def _official(document: Mapping[str, Any]) -> str:
    code = document.get("official_code")
    if code is None:
        return ""
    return (
        f" The official code (commit {code['commit'][:7]}, PyTorch {code['pytorch']}) searches "
        f"with the same pictures, table, epochs and rates, with λ fixed and with independent "
        f"initialization, which are its own, and its path is derived in the same way."
    )


def _preferences(part: Mapping[str, Any]) -> str:
    devices = part["devices"]
    titles = [title(device) for device in devices]
    fraction = devices[0]["target_ms"] / devices[0]["reference_ms"]
    baselines = [device["chance"] for device in devices]
    compared, expected = [], []
    for name, label in ROWS.items():
        share = name != "blocks"
        label += ", %" if share else ""
        cells = [
            intervals.text(value, percent=share, sign=sign)
            for device in devices
            for value, sign in (
                (device["found"][name], False),
                (device["chance"]["statistics"][name], False),
                (device["over_chance"][name], True),
            )
        ]
        difference = intervals.text(part["differences"][name], percent=share, sign=True)
        compared.append((label, *cells, difference))
        expected.append(
            (label, *(intervals.text(d["expected"][name], percent=share) for d in devices))
        )
    statements = []
    for statement in part["statements"]:
        name = statement["statistic"]
        of_difference = statement["of"] == "difference"
        value = (part["differences"] if of_difference else devices[0]["found"])[name]
        text = intervals.text(value, percent=name != "blocks", sign=of_difference)
        text += "" if name == "blocks" else " %"
        verdict = f"**{statement['verdict']}**"
        statements.append((statement["statement"], text, statement["rule"], verdict))
    return "\n".join(
        [
            "## Device preferences",
            "",
            "The same searches with two latency tables, at equally tight budgets: each budget is "
            f"{fraction:.1%} of the latency of the reference path on that device.",
            "",
            *table(
                ["device", *titles],
                [
                    ("latency", *(f"{d['kind']}, {d['precision']}" for d in devices)),
                    ("reference, ms", *(f"{d['reference_ms']:.2f}" for d in devices)),
                    ("budget, ms", *(f"{d['target_ms']:.2f}" for d in devices)),
                    (
                        "random paths that use it, per million",
                        *map(comparison_report.per_million, baselines),
                    ),
                ],
                "l" + "r" * len(devices),
            ),
            "",
            *table(
                [
                    "statistic",
                    *(f"{t}, {what}" for t in titles for what in _COMPARED),
                    f"found, {titles[0]} − {titles[1]}",
                ],
                compared,
                "l" + "r" * (len(_COMPARED) * len(devices) + 1),
            ),
            "",
            f"Shares are of the blocks that are not skip. Found: {len(devices[0]['networks'])} "
            f"searches per device. Random: {baselines[0]['networks']} networks per device, drawn "
            f"uniformly from the paths of the space that use the budget. Found − random is what "
            f"the search adds to the effect of the budget (Welch's interval). The last column is "
            f"the mean difference of searches with the same seed.",
            "",
            "Expected under softmax(α) at the end of the search, before the budget is imposed:",
            "",
            *table(["statistic", *titles], expected, "l" + "r" * len(devices)),
            "",
            "![depth and shares](study_affinities.png)",
            "",
            "### The poster's three statements",
            "",
            *table(["statement", "value", "rule", "verdict"], statements, "llll"),
            "",
        ]
    )


def _reasons(part: Mapping[str, Any]) -> str:
    """Returns the ratios of the tables, beside the verdicts that they may explain."""
    devices = part["devices"]
    titles = [title(device) for device in devices]
    of = [device["table"] for device in devices]
    lines = [
        "### The latency tables alone",
        "",
        *table(
            ["ratio or share", *titles],
            [(label, *(f"{one[name]:.2f}" for one in of)) for name, label in _REASONS.items()],
            "l" + "r" * len(devices),
        ),
        "",
        "Ratios of latencies, means over all blocks; the last two are shares of the latency of the "
        "reference path.",
        "",
    ]

    def both(name: str) -> str:
        return " and ".join(
            f"{one[name]:.2f} ({title})" for one, title in zip(of, titles, strict=True)
        )

    depth = [device["chance"]["statistics"]["blocks"]["mean"] for device in devices]
    reasons = {
        "blocks": f"The fastest convolution of a block takes {both('least_over_most')} of the time "
        f"of the slowest one: the nearer to 1, the more a block costs whatever is chosen "
        f"for it, and the more latency fewer blocks save. Random networks of the two "
        f"budgets have {depth[0]:.1f} and {depth[1]:.1f} blocks.",
        "e6": f"One block of expansion 6 takes {both('e6_over_two_e3')} of the time of two blocks "
        f"of expansion 3: below 1, width is cheaper than depth.",
        "k7": f"A 7×7 block of expansion 6 takes {both('k7_over_k3_e6')} times as long as a 3×3 "
        f"block: the nearer to 1, the cheaper a large kernel.",
    }
    for statement in part["statements"]:
        verdict = {
            DOES_NOT: " Not reproduced here. The latency tables may contribute.",
            UNDECIDED: " Undecided here. The latency tables may contribute.",
        }.get(statement["verdict"], "")
        lines.append(f"- “{statement['statement']}”.{verdict} {reasons[statement['statistic']]}")
    return "\n".join([*lines, ""])


def _networks(part: Mapping[str, Any]) -> str:
    rows = [
        (title(device), n["seed"], f"{n['predicted_ms']:.2f}", f"`{n['architecture']}`")
        for device in part["devices"]
        for n in device["networks"]
    ]
    return "\n".join(
        [
            "### Found networks",
            "",
            "![the networks, drawn](study_networks.png)",
            "",
            *table(["device", "seed", "latency by its table, ms", "architecture"], rows, "lrrl"),
            "",
        ]
    )


def _limits(document: Mapping[str, Any]) -> str:
    limits = [
        f"{document['dataset']} at {document['train_image_size']} px is not ImageNet at 224 px, on "
        f"which the poster's network was found. The value of depth, width and kernels depends on "
        f"the data, and the schedules are short.",
        f"{len(document['seeds'])} seeds: where all agree, the interval has no width, which says "
        f"nothing about other seeds. Verdicts on the poster's statements are not corrected for "
        f"their number.",
    ]
    if document["affinities"] is not None:
        limits += [
            f"{title(d)}: latency is {d['kind']}"
            + (f"; {d['provenance']['source']}" if "source" in d["provenance"] else "")
            + f". The classifier has {d['num_classes']} outputs, whatever the data set."
            for d in document["affinities"]["devices"]
        ]
        limits += [
            "Budgets are equally tight for one path, the reference "
            f"`{document['reference']}`; for another path they would differ slightly.",
            f"“Almost always” is read as more than {ALMOST_ALWAYS:.0%}, “far” as any "
            "difference: the poster gives no numbers.",
        ]
    if document["worth"] is not None:
        blocks = ", ".join(
            f"{group['name']} {np.mean([n['blocks'] for n in of_group]):.1f}"
            for group in document["worth"]["groups"]
            for of_group in [
                [n for n in document["worth"]["networks"] if n["group"] == group["name"]]
            ]
        )
        limits.append(
            f"Mean numbers of blocks: {blocks}. How much of the differences in top-1 is due to "
            f"depth alone was not studied."
        )
    return "\n".join(["## Limits", "", *(f"- {limit}" for limit in limits), ""])
