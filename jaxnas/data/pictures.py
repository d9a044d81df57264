"""Decoding of pictures in common formats, as people see them; errors name the picture."""

import contextlib
import io
from collections.abc import Iterator
from typing import TypedDict

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".apng",
    ".bmp",
    ".dib",
    ".webp",
    ".avif",
    ".gif",
    ".tif",
    ".tiff",
    ".jp2",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".tga",
)

_ORIENTATION = 0x0112  # EXIF tag
_MAX_16_BIT = 65535


class UnreadablePicture(ValueError):
    """A picture that cannot be decoded; the message names it, the reason and the remedy."""


class Example(TypedDict):
    """Example of a data set; its image is decoded only when its pixels are accessed."""

    image: Image.Image
    label: int
    record: int  # position in the split


@contextlib.contextmanager
def decoding(name: str, remedy: str) -> Iterator[None]:
    """Converts whatever a decoder raises within the context to `UnreadablePicture`.

    Args:
      name: name of the picture in the error message.
      remedy: what the user can do.
    """
    try:
        yield
    except UnreadablePicture:
        raise
    except Exception as error:  # damaged bytes lead Pillow's parsers to every kind of error
        raise UnreadablePicture(f"{name} cannot be decoded ({_reason(error)}); {remedy}") from error


def open_picture(content: bytes) -> Image.Image:
    """Returns a picture, upright by its EXIF orientation, with 16 bits scaled to 8.

    What is transparent is put on white. Pixels are decoded on first access, which is here if the
    picture is rotated, scaled or transparent.

    Raises:
      Exception: whatever Pillow's decoders raise; see `decoding`.
    """
    if not content:
        raise ValueError("it is empty")
    image: Image.Image = Image.open(io.BytesIO(content))
    if image.getexif().get(_ORIENTATION, 1) != 1:
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode[0] in "IF":
        image = _eight_bits(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Returns gray of integers from 0 to 65535, or of fractions from 0 to 1, as 8-bit gray."""
    values = np.asarray(image)
    white = 1 if image.mode == "F" else _MAX_16_BIT
    if values.size and not (values.min() >= 0 and values.max() <= white):
        raise ValueError(
            f"its pixels are from {values.min():g} to {values.max():g}, allowed are 0 to {white}"
        )
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))


def _reason(error: Exception) -> str:
    """Returns the reason in one line, without addresses of objects."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is of no format that Pillow reads"
    if isinstance(error, Image.DecompressionBombError):
        assert Image.MAX_IMAGE_PIXELS is not None  # without a limit there is no such error
        return f"it has more than {2 * Image.MAX_IMAGE_PIXELS // 1_000_000} megapixels"
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    return text or type(error).__name__
