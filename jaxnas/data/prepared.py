"""Classified pictures that tensorflow-datasets has prepared, identified by their folder."""

import functools
import pathlib

import tensorflow_datasets as tfds

from jaxnas.data.folder import TEST_SPLITS, photographs_spec
from jaxnas.data.specs import SPECS, DatasetSpec


def is_prepared(name: str) -> bool:
    """Returns whether a data set's name is the folder of a prepared set."""
    return name not in SPECS and pathlib.Path(name, "dataset_info.json").is_file()


@functools.cache
def prepared_spec(name: str) -> DatasetSpec:
    """Returns the specification of prepared pictures.

    Args:
      name: folder of a version, such as `/data/imagenette/320px-v2/1.0.0`.

    Raises:
      ValueError: the set lacks the image, a label that is one of several classes, the split `train`
        or a test split with labels.
    """
    builder = tfds.builder_from_directory(name)
    info = builder.info
    if not {"image", "label"} <= set(info.features) or not isinstance(
        info.features["label"], tfds.features.ClassLabel
    ):
        raise ValueError(
            f"{name} has the features {', '.join(info.features)}; an image and a label "
            f"that is a class are needed"
        )
    num_classes = info.features["label"].num_classes
    if num_classes < 2:
        raise ValueError(f"{name} has {num_classes} class; two or more are needed")
    tests = [split for split in TEST_SPLITS if split in info.splits]
    test = next((split for split in tests if _has_labels(builder, split)), None)
    if "train" not in info.splits or test is None:
        without = f", of which {' and '.join(tests)} without labels" if tests else ""
        raise ValueError(
            f"{name} has the splits {', '.join(info.splits)}{without}; train is needed, and "
            f"one of {', '.join(TEST_SPLITS)}"
        )
    return photographs_spec(name, num_classes, test, info.splits["train"].num_examples)


def _has_labels(builder: tfds.core.DatasetBuilder, split: str) -> bool:
    """Returns whether a split's first record has a label; those of contests often have -1."""
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        return True  # it cannot be read at random, which `prepare` refuses
    source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    return len(source) > 0 and int(source[0]["label"]) >= 0
