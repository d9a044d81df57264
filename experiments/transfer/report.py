"""transfer.json and transfer.md: the results of the study of transfer."""

import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.runs.markdown import table
from experiments.search.config import Config
from experiments.study import comparison_report, intervals
from experiments.study.comparison import SIGNIFICANT
from experiments.transfer.config import Transfer
from jaxnas import data
from jaxnas.json_file import write_object


def document(study: Transfer, parts: data.Parts, compared: Mapping[str, Any]) -> dict[str, Any]:
    """Returns transfer.json.

    Args:
      study: configuration of the study.
      parts: parts of the data set for one seed; their sizes are those for all.
      compared: groups and networks, from `comparison.document`.
    """
    config = study.config
    return {
        "schema": 1,
        "space": config.space,
        "dataset": pathlib.Path(config.dataset).name,
        "examples": {
            "classes": parts.test.spec.num_classes,
            "weights": len(parts.weights),
            "held_out": len(parts.alpha),
            "test": len(parts.test),
        },
        "seeds": list(study.seeds),
        "settings": _settings(config),
        "scratch_settings": _settings(study.from_scratch),
        "comparison": compared,
    }


def _settings(config: Config) -> dict[str, Any]:
    return {
        name: getattr(config, name)
        for name in (
            "warmup_epochs",
            "search_epochs",
            "search_image_size",
            "warmup_learning_rate",
            "search_learning_rate",
            "batch_norm_group",
            "finalists",
            "train_epochs",
            "train_image_size",
            "deployment_epochs",
            "train_learning_rate",
            "train_ema_decay",
        )
    }


def write(document: Mapping[str, Any], folder: pathlib.Path) -> list[str]:
    """Writes transfer.json and transfer.md; returns the names of the files."""
    write_object(folder / "transfer.json", document)
    (folder / "transfer.md").write_text(markdown(document))
    return ["transfer.json", "transfer.md"]


def markdown(document: Mapping[str, Any]) -> str:
    """Returns the text of transfer.md; it depends on the document alone."""
    compared, examples = document["comparison"], document["examples"]
    rows = []
    for group in compared["groups"]:
        ms = [n["latency_ms"] for n in compared["networks"] if n["group"] == group["name"]]
        difference = group.get("difference")
        p = group.get("holm_p")
        rows.append(
            (
                group["name"],
                len(ms),
                f"{min(ms):.2f} to {max(ms):.2f}",
                intervals.text(group["top1"], percent=True),
                "" if difference is None else intervals.text(difference, percent=True, sign=True),
                "" if p is None else f"{p:.3f}",
            )
        )
    first = compared["groups"][0]["name"]
    head = ["group", "networks", "latency, ms", "top-1, %", f"{first} − group", "Holm's p"]
    settings, scratch = (
        ", ".join(f"{name} {value}" for name, value in document[key].items())
        for key in ("settings", "scratch_settings")
    )
    return "\n".join(
        [
            "# Transfer",
            "",
            "Written by `python -m experiments.transfer` from `transfer.json`.",
            "",
            f"Data set {document['dataset']}: {examples['classes']} classes, "
            f"{examples['weights']} examples for the weights, {examples['held_out']} held out, "
            f"{examples['test']} for the test, at {compared['image_size']} px. Seeds: "
            f"{', '.join(map(str, document['seeds']))}; each draws the examples.",
            "",
            *(f"- **{text}.**" for text in comparison_report.verdicts(compared)),
            "",
            *table(head, rows, "lrrrrr"),
            "",
            f"The budget is {compared['target_ms']:.2f} ms, by the table for "
            f"{compared['num_classes']} classes. Networks with published weights are trained by "
            f"one recipe: {settings}. Those found from scratch: {scratch}. ± is half the width of "
            f"the 95 % interval of Student's t over the seeds. A difference is taken seed by seed; "
            f"its interval has the variance by the test examples, too. It is called better or "
            f"worse where Holm's p is below {SIGNIFICANT:g}.",
            "",
            comparison_report.every_network(compared),
        ]
    )
