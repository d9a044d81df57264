"""The three disjoint parts of a data set: for weight steps, for α steps and for the test."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from jaxnas.data.augment import Augmentation
from jaxnas.data.folder import FolderRecords, is_folder, list_split
from jaxnas.data.pictures import Example, decoding, open_picture
from jaxnas.data.prepare import dataset, prepare
from jaxnas.data.specs import DatasetSpec

# Records read at once while held-out examples are chosen: 100 MB of ImageNet.
_SELECTION_CHUNK = 1024


class _Records:
    """Random access to one split, on disk or, for tiny sets, as decoded images in memory."""

    def __init__(self, spec: DatasetSpec, folder: pathlib.Path, split: str):
        self._name = f"{spec.name}/{split}"
        self._num_classes = spec.num_classes
        builder = tfds.builder_from_directory(folder)
        self.class_names = tuple(builder.info.features["label"].names)
        self._source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        self._memory: list[Example] | None = None
        if spec.in_memory:
            memory = [self[record] for record in range(len(self))]
            for example in memory:
                example["image"].load()
            self._memory = memory

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, record: int) -> Example:
        if self._memory is not None:
            return self._memory[record]
        return self._example(record, self._source[record])

    def labels(self, records: Sequence[int]) -> list[int]:
        """Returns the labels of many records, read at once."""
        raw = self._source.__getitems__(records)
        return [self._label(record, one) for record, one in zip(records, raw, strict=True)]

    def decoding(self, record: int) -> contextlib.AbstractContextManager[None]:
        """Returns the context of `pictures.decoding` for a record's image."""
        return decoding(f"record {record} of {self._name}", "prepare the data set again")

    def _example(self, record: int, raw: dict) -> Example:
        label = self._label(record, raw)
        with self.decoding(record):
            image = open_picture(raw["image"])
        return {"image": image, "label": label, "record": record}

    def _label(self, record: int, raw: dict) -> int:
        label = int(raw["label"])
        if not 0 <= label < self._num_classes:
            raise ValueError(
                f"record {record} of {self._name} has label {label}, allowed are 0 to "
                f"{self._num_classes - 1}; the prepared files are of another data set, prepare "
                "it again"
            )
        return label


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Examples of one split in a fixed order.

    Attributes:
      name: weights, alpha or test.
      spec: specification of the data set.
      records: examples of the split.
      indices: positions in the split, int64 [examples], ascending.
      augmentation: augmentation of training batches; None uses a center crop there too.
    """

    name: str
    spec: DatasetSpec
    records: _Records | FolderRecords
    indices: np.ndarray
    augmentation: Augmentation | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.records[int(self.indices[index])]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their labels."""
        return self.records.class_names

    def __repr__(self) -> str:  # grain uses it in the names of its threads and statistics
        return f"{self.spec.name}/{self.name}"


class Parts(NamedTuple):
    """Parts of one data set; `weights` and `alpha` partition its train split."""

    weights: Part
    alpha: Part
    test: Part


def load(
    name: str,
    data_dir: str | pathlib.Path | None = None,
    *,
    seed: int,
    held_out: int | None = None,
    train_examples: int | None = None,
) -> Parts:
    """Opens a data set and divides it into its parts.

    The α part has the same number of examples of every class. It takes the first ones of each class
    in an order of the train split that `seed` determines, so it is the same in every process and
    after every restart. For sets on disk, this reads labels until every class has its share, about
    a tenth of ImageNet's train split. With `train_examples`, the weights part takes the next ones
    of each class in the same order.

    Args:
      name: one of `SPECS`, or a folder of pictures or of a prepared set.
      data_dir: as for `prepare`; not needed for a folder of pictures.
      seed: non-negative seed that determines which examples are held out.
      held_out: number of examples for α, a multiple of the number of classes; 0 leaves the whole
        train split to the weights; None uses the data set's default.
      train_examples: number of examples for the weights, a positive multiple of the number of
        classes; None leaves all to them that are not held out.

    Raises:
      ValueError: the name is unknown, or a count is not a multiple of the number of classes or
        exceeds the examples of a class.
      DatasetNotPrepared: see `prepare`.
    """
    spec = dataset(name)
    held_out = spec.held_out if held_out is None else held_out
    if held_out < 0 or held_out % spec.num_classes:
        raise ValueError(
            f"held_out is {held_out}; it must be a non-negative multiple of the "
            f"{spec.num_classes} classes of {name}"
        )
    if train_examples is not None and (train_examples < 1 or train_examples % spec.num_classes):
        raise ValueError(
            f"train_examples is {train_examples}; it must be a positive multiple of the "
            f"{spec.num_classes} classes of {name}"
        )
    train: _Records | FolderRecords
    test: _Records | FolderRecords
    if is_folder(name):
        train, test = (FolderRecords(spec, s) for s in (spec.train_split, spec.test_split))
        _report_left_out(spec)
    else:
        folder = prepare(name, data_dir)
        train, test = (_Records(spec, folder, s) for s in (spec.train_split, spec.test_split))
    spare = int(held_out > 0 and train_examples is None)  # to train on
    alpha = _balanced(train, spec, held_out // spec.num_classes, seed, spare)
    used = (
        np.arange(len(train))
        if train_examples is None
        else _balanced(train, spec, (held_out + train_examples) // spec.num_classes, seed)
    )
    weights = np.setdiff1d(used, alpha, assume_unique=True)
    logging.info(
        "%s: %d examples for weights, %d for alpha, %d for the test",
        name, len(weights), len(alpha), len(test),
    )  # fmt: skip
    return Parts(
        Part("weights", spec, train, weights, spec.augmentation),
        Part("alpha", spec, train, alpha),
        Part("test", spec, test, np.arange(len(test))),
    )


def _report_left_out(spec: DatasetSpec) -> None:
    for split in (spec.train_split, spec.test_split):
        left_out = list_split(spec.name, split).left_out
        if left_out:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
            logging.warning(
                "%s/%s: %d files are ignored, as they are not pictures: %s",
                spec.name,
                split,
                left_out.total(),
                kinds,
            )


def _balanced(
    records: _Records | FolderRecords, spec: DatasetSpec, per_class: int, seed: int, spare: int = 0
) -> np.ndarray:
    """Returns the first examples of each class in the seed's order, int64 [examples], ascending.

    Raises:
      ValueError: a class has not these and `spare` more.
    """
    order = np.random.default_rng([seed, len(records)]).permutation(len(records))
    needed = per_class + spare
    wanted = np.full(spec.num_classes, needed)
    chosen: list[int] = []
    for start in range(0, len(order), _SELECTION_CHUNK):
        if not wanted.any():
            break
        chunk = order[start : start + _SELECTION_CHUNK].tolist()
        for record, label in zip(chunk, records.labels(chunk), strict=True):
            if wanted[label] > spare:
                chosen.append(record)
            wanted[label] = max(0, wanted[label] - 1)
    if wanted.any():
        short = int(np.flatnonzero(wanted)[0])
        raise ValueError(
            f"class {short} of {spec.name}/{spec.train_split} has only "
            f"{needed - wanted[short]} examples; held_out and train_examples ask for "
            f"{per_class} of each class{', and one must remain to train on' * spare}; ask for fewer"
        )
    return np.sort(np.array(chosen, np.int64))
