"""Pictures as people have them, decoded as people see them; what cannot be is refused by name."""

import contextlib
import io
from collections.abc import Iterator

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

_ORIENTATION = 0x0112  # of EXIF
_MAX_16_BIT = 65535


class UnreadablePicture(ValueError):
    """A picture that cannot be decoded; the message names it, the reason and the remedy."""


@contextlib.contextmanager
def decoding(name: str, remedy: str) -> Iterator[None]:
    """Around the decoding of a picture: whatever a decoder raises becomes `UnreadablePicture`.

    Args:
      name: of the picture, for people.
      remedy: what they can do.
    """
    try:
        yield
    except UnreadablePicture:
        raise
    except Exception as error:  # damaged bytes lead Pillow's parsers to every kind of error
        raise UnreadablePicture(f"{name} cannot be decoded ({_reason(error)}); {remedy}") from error


def open_picture(content: bytes) -> Image.Image:
    """A picture, upright by its EXIF orientation; 16 bits are scaled to 8.

    Pixels are decoded when they are asked for, unless one of the two asks for them here.

    Raises:
      whatever Pillow's decoders raise; see `decoding`.
    """
    if not content:
        raise ValueError("it is empty")
    image = Image.open(io.BytesIO(content))
    if image.getexif().get(_ORIENTATION, 1) != 1:
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode[0] in "IF":
        image = _eight_bits(image)
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of whole numbers from 0 to 65535, or of fractions from 0 to 1, as 8-bit gray."""
    values = np.asarray(image)
    white = 1 if image.mode == "F" else _MAX_16_BIT
    if values.size and not (values.min() >= 0 and values.max() <= white):
        raise ValueError(
            f"its pixels are from {values.min():g} to {values.max():g}, allowed are 0 to {white}"
        )
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))


def _reason(error: Exception) -> str:
    """One line, without the addresses of objects."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is of no format that Pillow reads"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * Image.MAX_IMAGE_PIXELS // 1_000_000} megapixels"
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    return text or type(error).__name__
