"""Folder of pictures as a data set: one folder per split, in it one folder per class."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from jaxnas.data.augment import ResizedCrop
from jaxnas.data.pictures import SUFFIXES, Example, UnreadablePicture, decoding, open_picture
from jaxnas.data.specs import SPECS, DatasetSpec

TEST_SPLITS = ("test", "validation", "val")
_HELD_OUT = 0.1  # fraction of the train split for α
_NO_CLASS = "__MACOSX"  # folder that macOS adds to its archives
_DECODED_AT_ONCE = 256
_FEW_PIXELS = 64 * 64
# Of a split, in each process that makes batches; 256 MB as Pillow has them.
_KEPT_PIXELS = 64_000_000
_REMEDY = "replace or remove it"


@dataclasses.dataclass(frozen=True)
class Split:
    """Files of one split.

    Attributes:
      pictures: path and label of each picture, in the order of labels and names.
      left_out: number of other files, by kind.
    """

    pictures: tuple[tuple[str, int], ...]
    left_out: collections.Counter[str]


def is_folder(name: str) -> bool:
    """Returns whether a data set's name is a folder of pictures rather than a known data set."""
    return name not in SPECS and pathlib.Path(name, "train").is_dir()


@functools.cache
def folder_spec(name: str) -> DatasetSpec:
    """Returns the specification of a folder of pictures.

    Args:
      name: folder with `train/CLASS/*.jpg` and `test/CLASS/*.jpg` (or `validation`, or `val`).
        Labels number the classes of `train` in the order of their names.

    Raises:
      ValueError: the folder has no test split or no pictures in it, fewer than two classes, a class
        with fewer than two pictures, or a class in the test split that `train` does not have.
    """
    root = pathlib.Path(name)
    test = next((split for split in TEST_SPLITS if (root / split).is_dir()), None)
    if test is None:
        raise ValueError(
            f"{root} has no folder {' or '.join(TEST_SPLITS)} beside train; add one with "
            f"the pictures that accuracies are reported on"
        )
    classes = class_names(root)
    for one in classes:
        if one.splitlines() != [one] or one.encode("utf-8", "replace") != os.fsencode(one):
            raise ValueError(
                f"{root / 'train'} has a class folder {ascii(one)}, whose name is more than a line "
                f"or not in UTF-8; rename it there and in {root / test}, as a model's labels.txt "
                f"has the name on a line"
            )
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
        raise ValueError(f"{root / test} has no pictures in class folders; add some")
    return photographs_spec(
        name, len(classes), test, len(train.pictures), max(1, counts[fewest] // 2)
    )


def photographs_spec(
    name: str, num_classes: int, test_split: str, examples: int, most_per_class: int | None = None
) -> DatasetSpec:
    """Returns the default specification of photographs.

    Args:
      examples: number of examples of the split `train`, a tenth of which is held out for α.
      most_per_class: greatest number of held-out examples per class, or None.
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
    """Returns the classes of a folder in the order of their labels."""
    return [path.name for path in _class_folders(root / "train")]


@functools.cache
def list_split(name: str, split: str) -> Split:
    """Returns the files of a split; pictures in subfolders of a class belong to that class.

    Raises:
      ValueError: the split has a class that `train` does not have, or a folder that has a picture's
        name or is a link to a folder that contains it.
    """
    root = pathlib.Path(name)
    labels = {name: label for label, name in enumerate(class_names(root))}
    pictures: list[tuple[str, int]] = []
    left_out: collections.Counter[str] = collections.Counter()
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
    """Returns a digest of the names and sizes of a folder's pictures, to notice changes.

    Raises:
      UnreadablePicture: the size of a picture cannot be read, as of a broken link.
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
    """Returns an error message for every picture of a folder that cannot be decoded.

    Args:
      tick: called from time to time with the numbers of pictures tried and of errors.
    """
    files = [
        file
        for split in ("train", folder_spec(name).test_split)
        for file, _ in list_split(name, split).pictures
    ]
    errors: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, len(files), _DECODED_AT_ONCE):
            some = files[start : start + _DECODED_AT_ONCE]
            errors += filter(None, threads.map(_decoding_error, some))
            tick(start + len(some), len(errors))
    return errors


class FolderRecords:
    """Random access to one split of a folder of pictures.

    Pictures of few pixels, whose decoding costs more than the rest of their way into a batch, are
    kept once they are decoded.
    """

    def __init__(self, spec: DatasetSpec, split: str):
        self.class_names = tuple(class_names(pathlib.Path(spec.name)))
        self._pictures = list_split(spec.name, split).pictures
        self._kept: dict[int, Image.Image] = {}
        self._room = _KEPT_PIXELS

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, record: int) -> Example:
        path, label = self._pictures[record]
        image = self._kept.get(record)
        if image is None:
            with self.decoding(record):
                image = open_picture(pathlib.Path(path).read_bytes())
                pixels = image.width * image.height
                if pixels <= _FEW_PIXELS:
                    image.load()  # kept or not, since a JPEG decoded at less than its size differs
                    if pixels <= self._room:
                        self._room -= pixels
                        self._kept[record] = image
        return {"image": image, "label": label, "record": record}

    def decoding(self, record: int) -> contextlib.AbstractContextManager[None]:
        """Returns the context of `pictures.decoding` for a record's picture."""
        return decoding(self._pictures[record][0], _REMEDY)

    def labels(self, records: Sequence[int]) -> list[int]:
        """Returns the labels of many records."""
        return [self._pictures[record][1] for record in records]


def _class_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and path.name[0] != "." and path.name != _NO_CLASS
    )


def _files(folder: str, hidden: bool = False) -> Iterator[tuple[str, str | None]]:
    """Yields every file in a folder and its subfolders, in order, and its kind if not a picture.

    Uses plain strings, since path objects of millions of files would take minutes.
    """
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            suffix = os.path.splitext(entry.name)[1]
            if entry.is_dir():
                if suffix.lower() in SUFFIXES:
                    raise ValueError(
                        f"{entry.path} is a folder with a picture's name; rename or remove it"
                    )
                if entry.is_symlink() and f"{os.path.realpath(folder)}/".startswith(
                    f"{os.path.realpath(entry.path)}/"
                ):
                    raise ValueError(
                        f"{entry.path} is a link to a folder that contains it; remove it"
                    )
                yield from _files(entry.path, hidden or entry.name[0] == ".")
            elif hidden or entry.name[0] == ".":
                yield entry.path, "hidden"
            else:
                is_picture = suffix.lower() in SUFFIXES
                yield entry.path, None if is_picture else suffix or "without a suffix"


def _decoding_error(file: str) -> str | None:
    try:
        with decoding(file, _REMEDY):
            open_picture(pathlib.Path(file).read_bytes()).load()
    except UnreadablePicture as error:
        return str(error)
    return None
