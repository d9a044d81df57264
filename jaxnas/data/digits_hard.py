"""scikit-learn's digits made harder, so that networks which all read the plain ones differ."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxnas.data.digits import Digits, digits_of, png

_DESCRIPTION = """\
The digits of `digits`, with its split, each turned, shifted, scaled, lowered in contrast on a gray
background, and covered with noise, at 64x64 pixels. A digit of the train split is drawn once; one
of the test split ten times, each time otherwise, so that accuracies differ by less than chance.
Every draw is fixed by the digit's number.
"""

SIZE = 64
TEST_DRAWINGS = 10
# Of each drawing, uniform in these bounds.
ROTATION_DEGREES = (-30.0, 30.0)
SIDE = (0.5, 0.9)  # of the digit's frame, in parts of the image's
SHIFT = 0.15  # of its center on each axis, likewise
CONTRAST = (0.3, 0.8)  # of ink to background, in parts of black to white
# Standard deviations of Gaussian noise in the same parts, by the side of its cells in pixels:
# the fine one as a sensor has it, the coarse one as dirt and shadow.
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
    """One drawing of a digit, ink on a darker ground.

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
        pixels += Image.fromarray(cells).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)


def _placed(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The digit turned, scaled and shifted on the whole image, 0 to 1 [SIZE, SIZE]."""
    margin = len(digit)  # of nothing, or the digit's edge would be drawn out to the image's
    framed = Image.fromarray(np.pad(digit, margin))
    angle = math.radians(rng.uniform(*ROTATION_DEGREES))
    scale = len(digit) / (SIZE * rng.uniform(*SIDE))
    x, y = SIZE * (0.5 + rng.uniform(-SHIFT, SHIFT, 2))
    a, b = scale * math.cos(angle), scale * math.sin(angle)
    # Pillow asks for each pixel of the result where it comes from.
    middle = framed.width / 2
    source = (a, b, middle - a * x - b * y, -b, a, middle + b * x - a * y)
    image = framed.transform((SIZE, SIZE), Image.Transform.AFFINE, source, Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32) / 255
