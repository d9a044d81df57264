"""Evaluates the accuracy of a classifier's file on a data set, in the runtime that executes it.

    python -m experiments.evaluate --model=runs/FOLDER
    python -m experiments.evaluate --model=FILE.onnx --dataset=FOLDER --device=CPU
    python -m experiments.evaluate --model=efficientnet_lite0 --weights=imagenet --dataset=FOLDER

Every picture of the test split is center cropped, as in a run on that data set, and resized to the
file's input size. `--json` prints one JSON object, and nothing else, on standard output.
"""

import json
from collections.abc import Sequence
from typing import Any

import rich.console
import rich.table
import rich.text
from absl import flags

from experiments.runs.accuracy import columns_of, score
from experiments.runs.delivery import runtime_of
from experiments.runs.inference import define_model_flags, model_from_flags
from jaxnas import data
from profiling import command
from profiling.progress import Progress

Document = dict[str, Any]


def main(argv: Sequence[str]) -> int:
    """Evaluates a model by the flags; returns the exit status."""
    del argv
    args = flags.FLAGS
    with command.usage_errors():
        model = model_from_flags()
        run = model.run or {}
        name = args.dataset or run.get("dataset")
        if name is None:
            raise ValueError(f"--dataset: give one, since {args.model} is not the folder of a run")
        part = data.load(name, args.data_dir or run.get("data_dir"), seed=0, held_out=0).test
        columns_of(model.classifier, part)  # raises ValueError for other classes
    with command.device_errors(), model.open() as executor, Progress() as progress:
        with progress.phase("evaluate", total=1) as phase, command.usage_errors():
            scores = score(model.classifier, executor, part, phase.update)
        document = {
            "schema": 1,
            "model": str(model.classifier.file),
            "runtime": runtime_of(executor),
            "dataset": name,
            "split": part.spec.test_split,
            "examples": len(part),
            "image_size": model.classifier.image_size,
            **scores.figures(),
            "images_per_s": scores.images_per_s,
            "confusions": scores.confusions(part.class_names, args.confusions),
        }
    if args.json:
        print(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        show(document)
    return 0


def show(document: Document) -> None:
    """Prints the document of an evaluation for people."""
    console = rich.console.Console(highlight=False, markup=False)
    for k in (1, 5):
        if f"top{k}" in document:
            console.print(
                f"top-{k} {document[f'top{k}']:.2%} ({document[f'top{k}_low']:.1%} to "
                f"{document[f'top{k}_high']:.1%})"
            )
    console.print(
        f"{document['model']} in {document['runtime']}, {document['image_size']} px, "
        f"on {document['dataset']}'s {document['split']} split, {document['examples']} "
        f"examples; {document['images_per_s']:.0f} images per second, including decoding"
    )
    if document["confusions"]:
        table = rich.table.Table(
            title="most often confused", box=None, padding=(0, 2, 0, 0), title_justify="left"
        )
        for title in ("class", "answered", "pictures"):
            table.add_column(title, justify="right" if title == "pictures" else "left")
        for pair in document["confusions"]:
            table.add_row(
                *map(rich.text.Text, (pair["class"], pair["answered"], str(pair["count"])))
            )
        console.print(table)


if __name__ == "__main__":
    define_model_flags()
    flags.DEFINE_string(
        "dataset",
        None,
        f"Data set: {', '.join(data.SPECS)}, or a folder of pictures, train/CLASS/*.jpg and "
        f"test/CLASS/*.jpg; unset is the data set of the run.",
    )
    flags.DEFINE_string(
        "data_dir",
        None,
        "Folder of the prepared data sets; unset is that of the run, or the default of "
        "tensorflow-datasets.",
    )
    flags.DEFINE_integer("confusions", 5, "Most frequent confusions to list.", lower_bound=0)
    flags.DEFINE_bool("json", False, "Print one JSON object, and nothing else, on standard output.")
    command.run(main)
