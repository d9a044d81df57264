"""A tensorflow-datasets builder for scikit-learn's handwritten digits: real data, no download."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

_DESCRIPTION = """\
1,797 handwritten digits of 13 writers, 8x8 pixels, as scikit-learn ships them (its copy of the test
part of the UCI "Optical Recognition of Handwritten Digits" data). The seventeen gray levels 0..16
of the original are scaled to 0..255. The test split has every fifth example of each class, in the
original order and from the third on, so both splits contain every class and every writer.
"""

_CITATION = """\
@misc{alpaydin1998optdigits,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  howpublished = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49},
}
"""

_GRAY_LEVELS = 16
_TEST_PERIOD = 5
_TEST_PHASE = 2


class Digits(tfds.core.GeneratorBasedBuilder):
    """The `digits` data set: image uint8 [8, 8, 1] PNG, label 0..9; 1,438 train and 359 test."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Stratified split, every fifth example of a class is test."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            citation=_CITATION,
            homepage="https://archive.ics.uci.edu/dataset/80",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(8, 8, 1), dtype=np.uint8, encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # the data comes with scikit-learn
        return {
            tfds.Split.TRAIN: self._generate_examples(test=False),
            tfds.Split.TEST: self._generate_examples(test=True),
        }

    def _generate_examples(self, test: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, image, label in digits_of(test):
            yield key, {"image": png(image), "label": label}


def digits_of(test: bool) -> Iterator[tuple[int, np.ndarray, int]]:
    """Yields number, image uint8 [8, 8] and label of each digit of a split, in original order."""
    # Imported here, since scikit-learn takes a second and only the first run prepares the data.
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / _GRAY_LEVELS)).astype(np.uint8)
    seen = np.zeros(10, np.int64)
    for key, (image, label) in enumerate(zip(images, digits.target, strict=True)):
        in_test = seen[label] % _TEST_PERIOD == _TEST_PHASE
        seen[label] += 1
        if in_test == test:
            yield key, image, int(label)


def png(image: np.ndarray) -> io.BytesIO:
    """Returns the image as a PNG file; TFDS would need TensorFlow to encode an array."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    buffer.seek(0)
    return buffer
