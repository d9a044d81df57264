"""Classified pictures that tensorflow-datasets has prepared, identified by their folder."""

import functools
import pathlib

import tensorflow_datasets as tfds

from jaxnas.data.folder import TEST_SPLITS, photographs_spec
from jaxnas.data.specs import DatasetSpec


def is_prepared(name: str) -> bool:
    """Returns whether a data set's name is the folder of a prepared set."""
    return pathlib.Path(name, "dataset_info.json").is_file()


@functools.cache
def prepared_spec(name: str) -> DatasetSpec:
    """Returns the specification of prepared pictures.

    Args:
      name: folder of a version, such as `/data/imagenette/320px-v2/1.0.0`.

    Raises:
      ValueError: the set lacks the image, a label that is a class, the split `train` or a test
        split.
    """
    info = tfds.builder_from_directory(name).info
    if not {"image", "label"} <= set(info.features) or not isinstance(
        info.features["label"], tfds.features.ClassLabel
    ):
        raise ValueError(
            f"{name} has the features {', '.join(info.features)}; an image and a label "
            f"that is a class are needed"
        )
    test = next((split for split in TEST_SPLITS if split in info.splits), None)
    if "train" not in info.splits or test is None:
        raise ValueError(
            f"{name} has the splits {', '.join(info.splits)}; train is needed, and "
            f"one of {', '.join(TEST_SPLITS)}"
        )
    return photographs_spec(
        name, info.features["label"].num_classes, test, info.splits["train"].num_examples
    )
