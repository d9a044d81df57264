"""Specifications of the known data sets."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from jaxnas.data.augment import Augmentation, ResizedCrop, ShiftZoom


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """Data set, and how its images become square pictures.

    Attributes:
      name: name in tensorflow-datasets, or a folder of pictures (`jaxnas.data.folder`) or of a
        prepared set (`jaxnas.data.prepared`).
      num_classes: number of classes; labels are 0 … num_classes - 1.
      train_split: split that weights and α share, without overlap.
      test_split: split that accuracies are reported on.
      augmentation: augmentation of the images that weights are trained on, and of no others.
      eval_fraction: side of the centered square that is evaluated, over the shorter side.
      held_out: default number of examples of the train split that are kept for α.
      in_memory: True to decode every image once and keep it, for sets of a few megabytes.
    """

    name: str
    num_classes: int
    train_split: str
    test_split: str
    augmentation: Augmentation
    eval_fraction: float
    held_out: int
    in_memory: bool = False


_ALL = (
    DatasetSpec(
        name="digits",
        num_classes=10,
        train_split="train",
        test_split="test",
        augmentation=ShiftZoom(zoom=(0.85, 1.15), shift=0.1),
        eval_fraction=1.0,
        held_out=300,
        in_memory=True,
    ),
    DatasetSpec(
        name="digits_hard",
        num_classes=10,
        train_split="train",
        test_split="test",
        augmentation=ShiftZoom(zoom=(0.85, 1.15), shift=0.1),
        eval_fraction=1.0,
        held_out=300,
        in_memory=True,
    ),
    DatasetSpec(
        name="cifar10",
        num_classes=10,
        train_split="train",
        test_split="test",
        augmentation=ResizedCrop(area=(0.5, 1.0), brightness=32 / 255, saturation=0.5),
        eval_fraction=1.0,
        held_out=5_000,
    ),
    DatasetSpec(
        name="imagenet2012",
        num_classes=1000,
        train_split="train",
        test_split="validation",
        augmentation=ResizedCrop(area=(0.08, 1.0), brightness=32 / 255, saturation=0.5),
        eval_fraction=0.875,
        held_out=50_000,
    ),
)

SPECS: Mapping[str, DatasetSpec] = MappingProxyType({spec.name: spec for spec in _ALL})
