"""Predicts the classes of pictures, with probabilities.

    python -m experiments.predict --model=runs/FOLDER PICTURE.jpg ...

Pictures are rotated according to their EXIF data, center cropped and resized to the input size.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import rich.console
import rich.table
import rich.text
from absl import flags

from experiments.runs.classifier import Classifier
from experiments.runs.inference import Model, define_model_flags, model_from_flags
from jaxnas.data.augment import center_crop
from jaxnas.data.pictures import decoding, open_picture
from profiling import command


def main(argv: Sequence[str]) -> int:
    """Predicts the pictures of the command line; returns the exit status."""
    files, args = [pathlib.Path(name) for name in argv[1:]], flags.FLAGS
    with command.usage_errors():
        model = model_from_flags()
        inputs = [model.classifier.input_of(pixels_of(file, model.classifier)) for file in files]
    with command.device_errors(), model.open() as executor:
        scores = executor.scores(model.classifier.file, inputs)
    answers = [answers_of(row, model, args.top) for row in probabilities(scores)]
    if args.json:
        print(
            json.dumps(
                {
                    "schema": 1,
                    "model": str(model.classifier.file),
                    "predictions": [
                        {"picture": str(file), "answers": ranked}
                        for file, ranked in zip(files, answers, strict=True)
                    ],
                },
                indent=1,
                ensure_ascii=False,
            )
        )
    else:
        show(files, answers)
    return 0


def pixels_of(file: pathlib.Path, classifier: Classifier) -> np.ndarray:
    """Reads a picture, uint8 [size, size, 3]; raises ValueError if it cannot be decoded."""
    with decoding(str(file), "give pictures that Pillow reads, such as JPEG or PNG"):
        return center_crop(
            open_picture(file.read_bytes()), classifier.image_size, classifier.crop_fraction
        )


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Returns softmax of scores [pictures, classes], or scores that are already probabilities."""
    if (scores >= 0).all() and np.allclose(scores.sum(-1), 1, atol=1e-3):
        return scores
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def answers_of(row: np.ndarray, model: Model, top: int) -> list[dict[str, Any]]:
    """Returns the `top` most probable classes of one picture, in decreasing order."""
    names = model.classifier.class_names or [str(index) for index in range(len(row))]
    return [
        {"class": names[index], "probability": float(row[index])}
        for index in np.argsort(-row, kind="stable")[:top]
    ]


def show(files: Sequence[pathlib.Path], answers: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Prints a line for each picture."""
    table = rich.table.Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for file, ranked in zip(files, answers, strict=True):
        line = "  ".join(f"{one['class']} {one['probability']:.1%}" for one in ranked)
        table.add_row(rich.text.Text(str(file)), rich.text.Text(line))
    rich.console.Console(highlight=False).print(table)


if __name__ == "__main__":
    define_model_flags()
    flags.DEFINE_integer("top", 3, "Classes to name for each picture.", lower_bound=1)
    flags.DEFINE_bool("json", False, "Print one JSON object, and nothing else, on standard output.")
    command.run(main, files="one picture or more")
