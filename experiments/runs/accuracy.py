"""The accuracy of a file on a data set, by the runtime that runs it."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import stats

from experiments.runs.classifier import Classifier
from jaxnas import data
from profiling.device import Executor

Tick = Callable[[float], None]  # of the fraction done


@dataclasses.dataclass(frozen=True)
class Scores:
    """A file's scores for every example of a part.

    Attributes:
      values: float32 [examples, classes], classes in the data set's order.
      labels: int64 [examples].
      images_per_s: decoding included.
    """

    values: np.ndarray
    labels: np.ndarray
    images_per_s: float

    @property
    def answers(self) -> np.ndarray:
        """int64 [examples], the class with the highest score."""
        return self.values.argmax(-1)

    def top(self, k: int) -> int:
        """Examples whose label is among the k classes with the highest scores."""
        best = np.argpartition(-self.values, k - 1, axis=-1)[:, :k]
        return int((best == self.labels[:, None]).any(-1).sum())

    def figures(self) -> dict[str, float]:
        """Top-1, and top-5 where there are more classes, fractions with their 95 % intervals."""
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
        """The pairs of classes most often confused: shown, answered, how often."""
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
    """The 95 % interval of a share (Wilson 1927)."""
    interval = stats.binomtest(correct, examples).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def score(classifier: Classifier, executor: Executor, part: data.Part, tick: Tick) -> Scores:
    """Runs a file on every example of a part.

    Args:
      part: of the classes that the classifier has, by their names where it has any.
      executor: that runs it.

    Raises:
      ValueError: classes differ, or an example cannot be decoded.
      CompileError, DeviceUnavailable: as `Executor.scores`.
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
    """The index of each class of a data set among a classifier's scores, by name if it has names.

    Raises:
      ValueError: one has classes that the other has not.
    """
    theirs, ours = classifier.class_names, part.class_names
    if classifier.num_classes != len(ours):
        raise ValueError(
            f"{classifier.file} has {classifier.num_classes} classes and "
            f"{part.spec.name} {len(ours)}; give the data set that it is for"
        )
    if theirs is None:
        return np.arange(len(ours))
    missing = [name for name in theirs if name not in ours]
    if missing:
        raise ValueError(
            f"{classifier.file} has the class {missing[0]!r}, which {part.spec.name} "
            f"does not have; give the data set that it is for"
        )
    return np.array([theirs.index(name) for name in ours])
