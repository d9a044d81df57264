"""A folder of pictures as a data set: one folder a split, in it one folder a class."""

import functools
import io
import pathlib
from collections.abc import Sequence

from PIL import Image

from jaxnas.data.augment import ResizedCrop
from jaxnas.data.specs import DatasetSpec

TEST_SPLITS = ("test", "validation", "val")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_HELD_OUT = 0.1  # of the train split, for α


def is_folder(name: str) -> bool:
    """Whether a data set's name is that of a folder rather than of a known data set."""
    return pathlib.Path(name, "train").is_dir()


@functools.cache
def folder_spec(name: str) -> DatasetSpec:
    """The specification of a folder of pictures.

    Args:
      name: a folder with `train/CLASS/*.jpg` and `test/CLASS/*.jpg` (or `validation`, or `val`).
        Labels number the classes of `train` in the order of their names.

    Raises:
      ValueError: no split for the test, fewer than two classes, a class with fewer than two
        pictures, or one in the test split that `train` does not have.
    """
    root = pathlib.Path(name)
    test = next((split for split in TEST_SPLITS if (root / split).is_dir()), None)
    if test is None:
        raise ValueError(f"{root} has no folder {' or '.join(TEST_SPLITS)} beside train; put the "
                         f"pictures there that accuracies are reported on")
    classes = class_names(root)
    if len(classes) < 2:
        raise ValueError(f"{root / 'train'} has {len(classes)} class; give one folder for each of "
                         f"two classes or more")
    labels = [label for _, label in list_pictures(root, "train")]
    counts = [labels.count(label) for label in range(len(classes))]
    if min(counts) < 2:
        few = classes[counts.index(min(counts))]
        raise ValueError(f"{root / 'train' / few} has {min(counts)} pictures ({', '.join(SUFFIXES)}"
                         f"); each class needs two or more, one of which is held out")
    if not list_pictures(root, test):
        raise ValueError(f"{root / test} has no pictures in folders of classes; add some")
    return photographs_spec(name, len(classes), test, len(labels), max(1, min(counts) // 2))


def photographs_spec(name: str, num_classes: int, test_split: str, examples: int,
                     most_per_class: int | None = None) -> DatasetSpec:
    """Returns the default specification of photographs.

    Args:
      examples: of the split `train`, a tenth of which is held out for α.
      most_per_class: of those held out.
    """
    per_class = max(1, round(_HELD_OUT * examples / num_classes))
    if most_per_class is not None:
        per_class = min(per_class, most_per_class)
    return DatasetSpec(
        name=name, num_classes=num_classes, train_split="train", test_split=test_split,
        eval_fraction=0.875, held_out=per_class * num_classes,
        augmentation=ResizedCrop(area=(0.25, 1.0), brightness=32 / 255, saturation=0.5))


def class_names(root: pathlib.Path) -> list[str]:
    """The classes of a folder in the order of their labels."""
    return sorted(path.name for path in (root / "train").iterdir() if path.is_dir())


def list_pictures(root: pathlib.Path, split: str) -> list[tuple[pathlib.Path, int]]:
    """Each picture of a split with its label, in the order of labels and names.

    Raises:
      ValueError: a class of the split that `train` does not have.
    """
    labels = {name: label for label, name in enumerate(class_names(root))}
    found = []
    for folder in sorted(path for path in (root / split).iterdir() if path.is_dir()):
        if folder.name not in labels:
            raise ValueError(f"{folder} is of a class that {root / 'train'} does not have; add it "
                             f"there or remove it")
        found += [(path, labels[folder.name]) for path in sorted(folder.iterdir())
                  if path.suffix.lower() in SUFFIXES]
    return found


class FolderRecords:
    """Random access to one split of a folder of pictures."""

    def __init__(self, spec: DatasetSpec, split: str):
        root = pathlib.Path(spec.name)
        self.class_names = tuple(class_names(root))
        self._pictures = list_pictures(root, split)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, record: int) -> dict:
        path, label = self._pictures[record]
        try:
            image = Image.open(io.BytesIO(path.read_bytes()))
        except OSError as error:
            raise ValueError(f"{path} is no picture: {error}; replace or remove it") from error
        return {"image": image, "label": label, "record": record}

    def labels(self, records: Sequence[int]) -> list[int]:
        """The labels of many records."""
        return [self._pictures[record][1] for record in records]
