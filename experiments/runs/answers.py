"""Test pictures with a file's answers, for the report."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from experiments.runs.accuracy import Scores
from jaxnas import data
from jaxnas.data.augment import center_crop

FILE = "answers.json"
PICTURES, CONFUSIONS = 16, 10
_PICTURE_PX, _JPEG_QUALITY = 112, 85


def document(scores: Scores, part: data.Part) -> dict[str, Any]:
    """Returns the content of answers.json: pictures as JPEG in base64, and the confusions.

    Args:
      scores: scores of a file for every example of the part.
      part: test part of the data set.
    """
    probabilities = np.exp(scores.values - scores.values.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    sure = probabilities.max(-1)
    return {
        "schema": 1,
        "examples": len(part),
        "wrong": int((scores.answers != scores.labels).sum()),
        "pictures": [
            {
                "class": part.class_names[scores.labels[i]],
                "answer": part.class_names[scores.answers[i]],
                "probability": round(float(sure[i]), 4),
                "jpeg": _jpeg(part, i),
            }
            for i in _chosen(scores, sure)
        ],
        "confusions": scores.confusions(part.class_names, CONFUSIONS),
    }


def _chosen(scores: Scores, sure: np.ndarray) -> Sequence[int]:
    """Returns the examples to show: the wrong ones, the surest first, then the least sure."""
    wrong = scores.answers != scores.labels
    order = np.lexsort((np.where(wrong, -sure, sure), ~wrong))
    return [int(i) for i in order[:PICTURES]]


def _jpeg(part: data.Part, index: int) -> str:
    """Returns the part of a picture that the network gets, in base64."""
    example = part[index]
    with part.records.decoding(example["record"]):
        pixels = center_crop(example["image"], _PICTURE_PX, part.spec.eval_fraction)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_JPEG_QUALITY)
    return base64.b64encode(stream.getvalue()).decode()
