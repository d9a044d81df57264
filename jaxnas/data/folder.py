"""A folder of pictures as a data set: one folder a split, in it one folder a class."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

from jaxnas.data.augment import ResizedCrop
from jaxnas.data.pictures import SUFFIXES, UnreadablePicture, decoding, open_picture
from jaxnas.data.specs import DatasetSpec

TEST_SPLITS = ("test", "validation", "val")
_HELD_OUT = 0.1  # of the train split, for α
_NO_CLASS = "__MACOSX"  # what macOS puts into its archives
_DECODED_AT_ONCE = 256
_REMEDY = "replace or remove it"


@dataclasses.dataclass(frozen=True)
class Split:
    """The files of one split.

    Attributes:
      pictures: each one's path with its label, in the order of labels and names.
      left_out: how many other files there are, by what they are.
    """

    pictures: tuple[tuple[str, int], ...]
    left_out: collections.Counter[str]


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
        raise ValueError(
            f"{root} has no folder {' or '.join(TEST_SPLITS)} beside train; put the "
            f"pictures there that accuracies are reported on"
        )
    classes = class_names(root)
    if len(classes) < 2:
        raise ValueError(
            f"{root / 'train'} has {len(classes)} class; give one folder for each of "
            f"two classes or more"
        )
    train = list_split(name, "train")
    counts = collections.Counter(label for _, label in train.pictures)
    fewest = min(range(len(classes)), key=lambda label: counts[label])
    if counts[fewest] < 2:
        few = root / "train" / classes[fewest]
        raise ValueError(
            f"{few} has {counts[fewest]} pictures that Pillow reads; each class needs "
            f"two or more, one of which is held out"
        )
    if not list_split(name, test).pictures:
        raise ValueError(f"{root / test} has no pictures in folders of classes; add some")
    return photographs_spec(
        name, len(classes), test, len(train.pictures), max(1, counts[fewest] // 2)
    )


def photographs_spec(
    name: str, num_classes: int, test_split: str, examples: int, most_per_class: int | None = None
) -> DatasetSpec:
    """Returns the default specification of photographs.

    Args:
      examples: of the split `train`, a tenth of which is held out for α.
      most_per_class: of those held out.
    """
    per_class = max(1, round(_HELD_OUT * examples / num_classes))
    if most_per_class is not None:
        per_class = min(per_class, most_per_class)
    return DatasetSpec(
        name=name,
        num_classes=num_classes,
        train_split="train",
        test_split=test_split,
        eval_fraction=0.875,
        held_out=per_class * num_classes,
        augmentation=ResizedCrop(area=(0.25, 1.0), brightness=32 / 255, saturation=0.5),
    )


def class_names(root: pathlib.Path) -> list[str]:
    """The classes of a folder in the order of their labels."""
    return [path.name for path in _class_folders(root / "train")]


@functools.cache
def list_split(name: str, split: str) -> Split:
    """The files of a split; pictures in folders within a class's are of that class.

    Raises:
      ValueError: a class of the split that `train` does not have, or a folder that is named like
        a picture.
    """
    root = pathlib.Path(name)
    labels = {name: label for label, name in enumerate(class_names(root))}
    pictures, left_out = [], collections.Counter()
    for folder in _class_folders(root / split):
        if folder.name not in labels:
            raise ValueError(
                f"{folder} is of a class that {root / 'train'} does not have; add it "
                f"there or remove it"
            )
        for file, kind in _files(str(folder)):
            if kind is None:
                pictures.append((file, labels[folder.name]))
            else:
                left_out[kind] += 1
    return Split(tuple(pictures), left_out)


def fingerprint(name: str) -> str:
    """Tells two states of a folder apart by the names and sizes of their pictures.

    Raises:
      UnreadablePicture: a link to nothing, or what else has no size.
    """
    root, digest = pathlib.Path(name), hashlib.sha256()
    for split in ("train", folder_spec(name).test_split):
        folder = str(root / split)
        for file, _ in list_split(name, split).pictures:
            try:
                size = os.stat(file).st_size
            except OSError as error:
                with decoding(file, _REMEDY):
                    raise error
            digest.update(os.fsencode(f"{split}{file[len(folder) :]}\0{size}\n"))
    return digest.hexdigest()[:16]


def undecodable(name: str, tick: Callable[[int, int], None]) -> list[str]:
    """Decodes every picture of a folder; what is to be said of those that cannot be.

    Args:
      tick: called now and then with how many pictures were decoded and how many could not be.
    """
    files = [
        file
        for split in ("train", folder_spec(name).test_split)
        for file, _ in list_split(name, split).pictures
    ]
    said: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, len(files), _DECODED_AT_ONCE):
            some = files[start : start + _DECODED_AT_ONCE]
            said += filter(None, threads.map(_refusal, some))
            tick(start + len(some), len(said))
    return said


class FolderRecords:
    """Random access to one split of a folder of pictures."""

    def __init__(self, spec: DatasetSpec, split: str):
        self.class_names = tuple(class_names(pathlib.Path(spec.name)))
        self._pictures = list_split(spec.name, split).pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, record: int) -> dict:
        path, label = self._pictures[record]
        with self.decoding(record):
            image = open_picture(pathlib.Path(path).read_bytes())
        return {"image": image, "label": label, "record": record}

    def decoding(self, record: int) -> contextlib.AbstractContextManager[None]:
        """As `pictures.decoding`, of a record's picture."""
        return decoding(self._pictures[record][0], _REMEDY)

    def labels(self, records: Sequence[int]) -> list[int]:
        """The labels of many records."""
        return [self._pictures[record][1] for record in records]


def _class_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and path.name[0] != "." and path.name != _NO_CLASS
    )


def _files(folder: str, hidden: bool = False) -> Iterator[tuple[str, str | None]]:
    """Every file in a folder and those within it, in order; with what it is if no picture.

    In plain strings: of paths as objects, millions would take minutes.
    """
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            suffix = os.path.splitext(entry.name)[1]
            if entry.is_dir():
                if suffix.lower() in SUFFIXES:
                    raise ValueError(
                        f"{entry.path} is a folder with a picture's name; rename or remove it"
                    )
                yield from _files(entry.path, hidden or entry.name[0] == ".")
            elif hidden or entry.name[0] == ".":
                yield entry.path, "hidden"
            else:
                is_picture = suffix.lower() in SUFFIXES
                yield entry.path, None if is_picture else suffix or "without a suffix"


def _refusal(file: str) -> str | None:
    try:
        with decoding(file, _REMEDY):
            open_picture(pathlib.Path(file).read_bytes()).load()
    except UnreadablePicture as error:
        return str(error)
    return None
