"""Drawn pictures in folders, as users have them: discs, squares and triangles on noise."""

import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("disc", "square", "triangle")


def draw_shape(shape: str, rng: np.random.Generator, size: int = 96) -> Image.Image:
    """A bright shape somewhere on a dark, noisy ground; RGB, not quite square."""
    ground = rng.integers(0, 90, (size, size + 20, 3), np.uint8)
    image = Image.fromarray(ground)
    half = rng.integers(size // 5, size // 3)
    x, y = rng.integers(half, size + 20 - half), rng.integers(half, size - half)
    box = (int(x - half), int(y - half), int(x + half), int(y + half))
    color = tuple(rng.integers(150, 256, 3).tolist())
    draw = ImageDraw.Draw(image)
    if shape == "disc":
        draw.ellipse(box, fill=color)
    elif shape == "square":
        draw.rectangle(box, fill=color)
    else:
        draw.polygon([(box[0], box[3]), (box[2], box[3]), (int(x), box[1])], fill=color)
    return image


def draw_folder(
    folder: pathlib.Path, train: int, test: int, shapes: Sequence[str] = SHAPES
) -> pathlib.Path:
    """A data set of a class a shape, with so many JPEG pictures a class in each split."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for shape in shapes:
            (folder / split / shape).mkdir(parents=True)
            for i in range(count):
                draw_shape(shape, rng).save(folder / split / shape / f"{i}.jpg", quality=95)
    return folder
