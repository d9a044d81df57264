"""Conversion of a Pillow image of any size to a uint8 square: random in training, else centered."""

import dataclasses
import math

import numpy as np
from PIL import Image

# Rec. 601 luma, the gray that Pillow and torchvision measure saturation against.
_LUMA = (0.299, 0.587, 0.114)


@dataclasses.dataclass(frozen=True)
class ShiftZoom:
    """Random zoom about a randomly shifted center; the area outside the image is black.

    For small drawn characters, which mirroring or cropping would turn into something else.

    Attributes:
      zoom: bounds of the window's side, as a fraction of the image's.
      shift: greatest shift of the window's center on each axis, as a fraction of the image's side.
    """

    zoom: tuple[float, float]
    shift: float

    def __call__(self, image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 [size, size, 3]."""
        zoom, shift_x, shift_y = rng.random(3).tolist()
        low, high = self.zoom
        half = (low + (high - low) * zoom) / 2
        x = 0.5 + self.shift * (2 * shift_x - 1)
        y = 0.5 + self.shift * (2 * shift_y - 1)
        width, height = image.size
        # A crop beyond the edge is filled with black, and costs less than a general transform.
        margin = math.ceil((high / 2 + self.shift - 0.5) * max(width, height))
        padded = image.crop((-margin, -margin, width + margin, height + margin))
        window = (
            (x - half) * width + margin,
            (y - half) * height + margin,
            (x + half) * width + margin,
            (y + half) * height + margin,
        )
        return np.asarray(_resize(padded, size, window))


@dataclasses.dataclass(frozen=True)
class ResizedCrop:
    """Random resized crop, mirror image and mild color jitter, for photographs.

    Attributes:
      area: bounds of the crop's area, as a fraction of the image's.
      aspect: bounds of the crop's width over height; drawn on a logarithmic scale.
      brightness: the image is multiplied by 1 + U(-brightness, brightness).
      saturation: the distance from gray is multiplied by 1 + U(-saturation, saturation).

    The jitter of ProxylessNAS is brightness 32/255 and saturation 0.5.
    """

    area: tuple[float, float]
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    brightness: float = 0.0
    saturation: float = 0.0

    def __call__(self, image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 [size, size, 3]."""
        draws = rng.random(7).tolist()
        resized = _resize(image, size, self._window(image.size, draws[:4]))
        pixels = np.asarray(self._jitter(resized, draws[5], draws[6]))
        return pixels[:, ::-1] if draws[4] < 0.5 else pixels

    def _window(
        self, extent: tuple[int, int], draws: list[float]
    ) -> tuple[float, float, float, float]:
        width, height = extent
        area = (self.area[0] + (self.area[1] - self.area[0]) * draws[0]) * width * height
        low, high = (math.log(bound) for bound in self.aspect)
        aspect = math.exp(low + (high - low) * draws[1])
        # A window longer than the image is cut to it and not drawn again, so the number of draws is
        # fixed and each draw decides the same thing in every image.
        crop_width = min(math.sqrt(area * aspect), width)
        crop_height = min(math.sqrt(area / aspect), height)
        left = (width - crop_width) * draws[2]
        top = (height - crop_height) * draws[3]
        return left, top, left + crop_width, top + crop_height

    def _jitter(self, image: Image.Image, brightness: float, saturation: float) -> Image.Image:
        if not self.brightness and not self.saturation:
            return image
        # Both are one linear map of a pixel, which Pillow applies many times faster than NumPy.
        bright = 1 + self.brightness * (2 * brightness - 1)
        vivid = bright * (1 + self.saturation * (2 * saturation - 1))
        red, green, blue = ((bright - vivid) * part for part in _LUMA)
        # Rows of red, green and blue: a factor of each channel, and a constant.
        color = [vivid + red, green, blue, 0]
        color += [red, vivid + green, blue, 0]
        color += [red, green, vivid + blue, 0]
        return image.convert("RGB", tuple(color))


Augmentation = ShiftZoom | ResizedCrop


def center_crop(image: Image.Image, size: int, fraction: float) -> np.ndarray:
    """Returns the centered square of `fraction` of the shorter side, as uint8 [size, size, 3]."""
    width, height = image.size
    side = fraction * min(width, height)
    # From a whole pixel, so that a crop at the picture's own scale takes its pixels unchanged.
    left, top = (width - side) // 2, (height - side) // 2
    return np.asarray(_resize(image, size, (left, top, left + side, top + side)))


def _resize(image: Image.Image, size: int, box: tuple[float, float, float, float]) -> Image.Image:
    """Returns a part of the image as an RGB square."""
    left, top, right, bottom = box
    width, height = image.size
    shrink = min(right - left, bottom - top) / size
    if shrink >= 2:
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size at a fraction of the cost. Other
        # formats ignore the request.
        image.draft("RGB", (math.ceil(width / shrink), math.ceil(height / shrink)))
        scale_x, scale_y = image.width / width, image.height / height
        left, top, right, bottom = (
            left * scale_x,
            top * scale_y,
            min(right * scale_x, image.width),
            min(bottom * scale_y, image.height),
        )
    if image.mode not in ("RGB", "L"):
        image = image.convert("RGB")
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    return image if image.mode == "RGB" else image.convert("RGB")
