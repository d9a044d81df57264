"""scikit-learn's digits made harder, so that networks that all read the plain ones differ."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxnas.data.digits import Digits, digits_of, png

_DESCRIPTION = """\
The digits and split of `digits`, each digit rotated, shifted, scaled, lowered in contrast on a gray
background, and covered with noise, at 64x64 pixels. A digit of the train split is drawn once. A
digit of the test split is drawn ten times, each time differently, which lowers the random error of
accuracies. The digit's number determines every draw.
"""

SIZE = 64
TEST_DRAWINGS = 10
# Bounds of the uniform draws of each drawing.
ROTATION_DEGREES = (-30.0, 30.0)
SIDE = (0.5, 0.9)  # side of the digit's frame, as a fraction of the image's
SHIFT = 0.15  # greatest shift of its center on each axis, as a fraction of the image's side
CONTRAST = (0.3, 0.8)  # ink minus background, as a fraction of white minus black
# Standard deviations of Gaussian noise in the same unit, by the side of its cells in pixels: fine
# noise as from a sensor, coarse noise as from dirt and shadow.
NOISE = {1: 0.15, 8: 0.1}


class DigitsHard(Digits):
    """`digits_hard`: image uint8 [64, 64, 1] PNG, label 0..9; 1,438 train and 3,590 test."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Rotation, shift, scale, contrast, noise of two sizes."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            homepage="https://archive.ics.uci.edu/dataset/80",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(SIZE, SIZE, 1), dtype=np.uint8, encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _generate_examples(self, test: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, digit, label in digits_of(test):
            for drawing in range(TEST_DRAWINGS if test else 1):
                image = draw(digit, np.random.default_rng([key, drawing]))
                yield key * TEST_DRAWINGS + drawing, {"image": png(image), "label": label}


def draw(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns one drawing of a digit: ink on a darker background.

    Args:
      digit: uint8 [8, 8], 255 where there is most ink.

    Returns:
      uint8 [SIZE, SIZE].
    """
    ink = _placed(digit, rng)
    contrast = rng.uniform(*CONTRAST)
    pixels = rng.uniform(0, 1 - contrast) + contrast * ink
    for cell, deviation in NOISE.items():
        cells = rng.normal(0, deviation, (SIZE // cell, SIZE // cell)).astype(np.float32)
        noise = Image.fromarray(cells).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        pixels += np.asarray(noise)
    return np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)


def _placed(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the digit rotated, scaled and shifted on the image, [SIZE, SIZE] from 0 to 1."""
    margin = len(digit)  # blank, so that the digit's edge is not stretched to the image's
    framed = Image.fromarray(np.pad(digit, margin))
    angle = math.radians(rng.uniform(*ROTATION_DEGREES))
    scale = len(digit) / (SIZE * rng.uniform(*SIDE))
    x, y = SIZE * (0.5 + rng.uniform(-SHIFT, SHIFT, 2))
    a, b = scale * math.cos(angle), scale * math.sin(angle)
    # Pillow needs the map from a pixel of the result to its source.
    middle = framed.width / 2
    source = (a, b, middle - a * x - b * y, -b, a, middle + b * x - a * y)
    image = framed.transform((SIZE, SIZE), Image.Transform.AFFINE, source, Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32) / 255
