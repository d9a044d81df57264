"""Pictures as people have them: decoded as people see them, or refused by name."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxnas.data.pictures import UnreadablePicture, decoding, open_picture
from tests.pictures import draw_shape

UPRIGHT = draw_shape("triangle", np.random.default_rng(1), 32)
# How an upright picture is stored so that EXIF's orientation turns it back.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_pictures_are_upright(orientation, kind):
    turn = STORED[orientation]
    stored = UPRIGHT if turn is None else UPRIGHT.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    image = open_picture(encoded(stored, kind, exif=exif, **options))
    assert image.size == UPRIGHT.size
    difference = abs(np.float32(image.convert("RGB")) - np.float32(UPRIGHT))
    assert difference.mean() < (16 if kind == "JPEG" else 1e-9)  # a wrong turn makes 25 and more


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_to_eight(kind):
    deep = np.linspace(0, 65535, 64 * 4).round().astype(np.uint16).reshape(4, 64)
    image = open_picture(encoded(Image.fromarray(deep), kind))
    np.testing.assert_array_equal(np.asarray(image.convert("L")), np.rint(deep / 257.0))


def test_fractions_are_scaled_and_what_has_no_white_is_refused():
    ramp = np.linspace(0, 1, 32, dtype=np.float32).reshape(4, 8)
    image = open_picture(encoded(Image.fromarray(ramp), "TIFF"))
    np.testing.assert_array_equal(np.asarray(image), np.rint(ramp * 255))
    with pytest.raises(ValueError, match="pixels are from 0 to 300, allowed are 0 to 1"):
        open_picture(encoded(Image.fromarray(ramp * 300), "TIFF"))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("CMYK", "JPEG"), ("LA", "PNG"), ("P", "GIF"), ("RGBA", "PNG"), ("1", "PNG"), ("L", "JPEG")],
)
def test_other_modes_keep_their_brightness(mode, kind):
    image = open_picture(encoded(UPRIGHT.convert(mode), kind)).convert("RGB")
    assert image.size == UPRIGHT.size
    assert abs(np.mean(image) - np.mean(UPRIGHT)) < 20


@pytest.mark.parametrize(("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP")])
def test_what_is_transparent_is_white(mode, kind):
    """Black on nothing, whose hidden color is black, too."""
    drawn = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    drawn.paste((0, 0, 0, 255), (0, 0, 4, 8))
    drawn.putpixel((7, 7), (0, 0, 0, 128))
    content = encoded(drawn.convert(mode), kind, **({"lossless": True} if kind == "WEBP" else {}))
    image = np.asarray(open_picture(content).convert("RGB"))
    assert (image[:, :4] == 0).all() and (image[:7, 4:] == 255).all()
    assert abs(image[7, 7].astype(int) - 127).max() <= 1


def test_a_transparent_color_of_a_palette_is_white():
    drawn = Image.new("P", (4, 4), 0)
    drawn.putpalette([0, 0, 0, 10, 20, 30])
    drawn.putpixel((1, 1), 1)
    image = np.asarray(open_picture(encoded(drawn, "GIF", transparency=0)).convert("RGB"))
    assert (image[0] == 255).all() and (image[1, 1] == (10, 20, 30)).all()


JPEG, PNG = encoded(UPRIGHT, "JPEG"), encoded(UPRIGHT, "PNG")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"not a picture", "it is of no format that Pillow reads"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (PNG[: len(PNG) // 2], "truncated"),
        (PNG[:33] + png_chunk(b"\x00\x01\x02\x03", b"rubbish") + PNG[33:], "no format"),
        (
            PNG[:8] + png_chunk(b"IHDR", struct.pack(">II", 16000, 15000) + PNG[24:29]) + PNG[33:],
            "more than 178 megapixels",
        ),
        (PNG[:60] + bytes(40) + PNG[100:], ""),
    ],
)
def test_what_cannot_be_decoded_is_named_in_one_line(content, said):
    with pytest.raises(UnreadablePicture) as refusal, decoding("cats/1.png", "replace it"):
        open_picture(content).load()
    text = str(refusal.value)
    assert text.startswith("cats/1.png cannot be decoded (") and text.endswith("); replace it")
    assert said in text and "\n" not in text and "0x" not in text


def test_mutated_pictures_are_decoded_or_refused():
    rng = np.random.default_rng(11)
    seeds = [encoded(UPRIGHT, kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")]
    decoded = refused = 0
    for trial in range(600):
        content = bytearray(seeds[trial % len(seeds)])
        for place in rng.integers(0, len(content), rng.integers(1, 9)):
            content[place] = rng.integers(256)
        if trial % 3 == 0:
            del content[rng.integers(len(content)) :]
        try:
            with decoding("picture", "replace it"):
                open_picture(bytes(content)).load()
            decoded += 1
        except UnreadablePicture as error:
            assert "\n" not in str(error)
            refused += 1
    assert decoded + refused == 600 and min(decoded, refused) > 50
