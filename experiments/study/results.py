"""results.md: the results of a study as a document, written from study.json alone."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.study import comparison_report, figures, preferences_report
from experiments.study.device_preferences import ALMOST_ALWAYS
from experiments.study.figures import title
from jaxnas import network_figure
from jaxnas.json_file import write_object


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
        parts.append(preferences_report.preferences(document["affinities"]))
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
