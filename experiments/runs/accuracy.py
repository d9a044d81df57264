"""Accuracy of a model file on a data set, in the runtime that executes the file."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import stats

from experiments.runs.classifier import Classifier
from jaxnas import data
from profiling.device import Executor

Tick = Callable[[float], None]  # takes the fraction done


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of a model file for every example of a part.

    Attributes:
      values: class scores, float32 [examples, classes], in the data set's order of classes.
      labels: true classes, int64 [examples].
      images_per_s: throughput, including decoding.
    """

    values: np.ndarray
    labels: np.ndarray
    images_per_s: float

    @property
    def answers(self) -> np.ndarray:
        """Predicted classes, int64 [examples]: those with the highest scores."""
        return self.values.argmax(-1)

    def top(self, k: int) -> int:
        """Returns the number of examples whose label is among the k highest scores.

        Of equal scores the first class counts as the highest, as in `answers`.
        """
        own = np.take_along_axis(self.values, self.labels[:, None], axis=-1)
        later = np.arange(self.values.shape[1]) >= self.labels[:, None]
        behind = (self.values < own) | ((self.values == own) & later)
        return int(((~behind).sum(-1) < k).sum())

    def figures(self) -> dict[str, float]:
        """Returns top-1, and top-5 for more than 5 classes, as fractions with 95 % intervals."""
        figures: dict[str, float] = {}
        for k in (1, 5):
            if k < self.values.shape[1]:
                low, high = wilson(self.top(k), len(self.labels))
                figures |= {
                    f"top{k}": self.top(k) / len(self.labels),
                    f"top{k}_low": low,
                    f"top{k}_high": high,
                }
        return figures

    def confusions(self, class_names: Sequence[str], most: int) -> list[dict[str, Any]]:
        """Returns the `most` frequent confusions: true class, predicted class and count."""
        wrong = self.answers != self.labels
        pairs, counts = np.unique(
            np.stack([self.labels[wrong], self.answers[wrong]]), axis=1, return_counts=True
        )
        return [
            {
                "class": class_names[pairs[0, i]],
                "answered": class_names[pairs[1, i]],
                "count": int(counts[i]),
            }
            for i in np.argsort(-counts, kind="stable")[:most]
        ]


def wilson(correct: int, examples: int) -> tuple[float, float]:
    """Returns the 95 % score interval of a proportion (Wilson 1927)."""
    interval = stats.binomtest(correct, examples).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def score(classifier: Classifier, executor: Executor, part: data.Part, tick: Tick) -> Scores:
    """Runs a classifier on every example of a part.

    Args:
      classifier: model file to run.
      executor: device that runs it.
      part: examples with the classifier's classes, which are matched by name if it has names.
      tick: called after each example.

    Raises:
      ValueError: the classes differ, or an example cannot be decoded.
      CompileError, DeviceUnavailable: as in `Executor.scores`.
    """
    columns = columns_of(classifier, part)
    labels: list[int] = []
    start = time.monotonic()

    def inputs() -> Iterator[np.ndarray]:
        batches = data.evaluation_batches(part, batch_size=1, image_size=classifier.image_size)
        for batch in batches:
            labels.append(int(batch["label"][0]))
            yield classifier.input_of(batch["image"][0])
            tick(len(labels) / len(part))
        batches.close()

    values = executor.scores(classifier.file, inputs())
    return Scores(values[:, columns], np.array(labels), len(part) / (time.monotonic() - start))


def columns_of(classifier: Classifier, part: data.Part) -> np.ndarray:
    """Returns the column of a classifier's scores for each class of a data set.

    Classes are matched by name; a classifier without names has the data set's order.

    Raises:
      ValueError: the classifier and the data set have different classes.
    """
    file, names = classifier.file, classifier.class_names
    if classifier.num_classes != len(part.class_names):
        raise ValueError(
            f"{file} has {classifier.num_classes} classes, {part.spec.name} has "
            f"{len(part.class_names)}; give the data set that the model was trained on"
        )
    if names is None:
        return np.arange(classifier.num_classes)
    missing = [name for name in names if name not in part.class_names]
    if missing:
        raise ValueError(
            f"{file} has the class {missing[0]!r}, which {part.spec.name} does not have; "
            f"give the data set that the model was trained on"
        )
    return np.array([names.index(name) for name in part.class_names])
