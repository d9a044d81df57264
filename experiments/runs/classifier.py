"""A classifier's file: what it takes, and how pictures become that."""

import dataclasses
import json
import pathlib

import numpy as np
import openvino

SUFFIXES = (".onnx", ".xml")
_DTYPES = {openvino.Type.u8: np.uint8, openvino.Type.f32: np.float32, openvino.Type.f16: np.float16}


@dataclasses.dataclass(frozen=True)
class Normalization:
    """How pixels become a file's input: (pixels - mean) / scale, pixels from 0 to 255.

    Attributes:
      mean, scale: of red, green and blue.
      reverse_channels: whether the file takes blue, green, red.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    reverse_channels: bool = False


@dataclasses.dataclass(frozen=True)
class Classifier:
    """An ONNX or IR file of one picture in and one score for each class out.

    Attributes:
      file: its path.
      image_size: side of the picture, px.
      channels_last: whether its input is [1, size, size, 3] and not [1, 3, size, size].
      dtype: of its input.
      num_classes: scores for a picture.
      class_names: in the order of the scores, where the file has them.
      crop_fraction: side of the centerd square of a picture that it is given, over the picture's
        shorter side; 1 where the file does not say.
      normalization: of its input.
    """

    file: pathlib.Path
    image_size: int
    channels_last: bool
    dtype: np.dtype
    num_classes: int
    class_names: tuple[str, ...] | None
    crop_fraction: float
    normalization: Normalization

    def input_of(self, pixels: np.ndarray) -> np.ndarray:
        """The file's input, without its batch, of uint8 pixels [size, size, 3]."""
        if self.normalization.reverse_channels:
            pixels = pixels[..., ::-1]
        if self.dtype != np.uint8:
            values = pixels - np.float32(self.normalization.mean)
            pixels = (values / np.float32(self.normalization.scale)).astype(self.dtype)
        return np.ascontiguousarray(pixels if self.channels_last else np.moveaxis(pixels, -1, 0))


def read_classifier(
    file: pathlib.Path, image_size: int | None = None, normalization: Normalization | None = None
) -> Classifier:
    """Reads what a file takes and gives.

    Args:
      image_size: px, of a file whose own input has a dynamic size.
      normalization: of its input; None is none.

    Raises:
      ValueError: no file of a network, no classifier of one picture, or a size that it does not
        take; one line with what is allowed.
    """
    normalization = normalization or Normalization()
    if not file.is_file() or file.suffix not in SUFFIXES:
        raise ValueError(
            f"{file} is no network's file; give one that ends in "
            f"{' or '.join(SUFFIXES)}, or the folder of a run"
        )
    try:
        network = openvino.Core().read_model(file)
    except RuntimeError as error:
        reason = next(
            (line.strip() for line in reversed(str(error).splitlines()) if line.strip()),
            "no reason given",
        )
        raise ValueError(f"{file} cannot be read as a network: {reason}") from error
    if (len(network.inputs), len(network.outputs)) != (1, 1):
        raise ValueError(
            f"{file} has {len(network.inputs)} inputs and {len(network.outputs)} "
            f"outputs; give a classifier with one picture in and one output of scores"
        )
    channels_last, size = _picture(file, network.inputs[0], image_size)
    dtype = _DTYPES.get(network.inputs[0].get_element_type())
    if dtype is None:
        raise ValueError(
            f"{file}: its input is {network.inputs[0].get_element_type()}; pictures "
            f"are given as 8-bit pixels or as floats"
        )
    if dtype == np.uint8 and (normalization.mean, normalization.scale) != (
        Normalization.mean,
        Normalization.scale,
    ):
        raise ValueError(
            f"{file} takes 8-bit pixels, which cannot be normalized; leave "
            f"--mean_values and --scale_values out"
        )
    num_classes = _classes(file, network.outputs[0])
    return Classifier(
        file,
        size,
        channels_last,
        np.dtype(dtype),
        num_classes,
        _class_names(file, network, num_classes),
        float(_metadata(network, "crop_fraction") or 1.0),
        normalization,
    )


def _picture(
    file: pathlib.Path, value: openvino.Output, image_size: int | None
) -> tuple[bool, int]:
    """Whether channels are last, and the size in px; raises ValueError."""
    shape = value.get_partial_shape()
    sides = [None] * 4
    if shape.rank.is_static and len(shape) == 4:
        sides = [d.get_length() if d.is_static else None for d in shape]
    if 3 not in (sides[1], sides[3]) or sides[0] not in (1, None):
        raise ValueError(
            f"{file}: its input is {shape}; give a network that takes one picture, "
            f"[1, 3, size, size] or [1, size, size, 3]"
        )
    channels_last = sides[1] != 3
    height, width = sides[1:3] if channels_last else sides[2:]
    if None in (height, width):
        if image_size is None:
            raise ValueError(f"{file}: its input {shape} is of any size; give --image_size")
        height, width = height or image_size, width or image_size
    if height != width:
        raise ValueError(f"{file}: its input is of {height} x {width} px; square ones are taken")
    if image_size not in (None, height):
        raise ValueError(f"--image_size={image_size}: {file} takes {height} px; leave it out")
    return channels_last, height


def _classes(file: pathlib.Path, value: openvino.Output) -> int:
    shape = value.get_partial_shape()
    sides = [d.get_length() if d.is_static else None for d in shape] if shape.rank.is_static else []
    if (
        len(sides) < 2
        or sides[0] not in (1, None)
        or sides[1] is None
        or sides[1] < 2
        or any(side != 1 for side in sides[2:])
    ):
        raise ValueError(
            f"{file}: its output is {shape}; a classifier's is [1, classes], of two classes or more"
        )
    return sides[1]


def _metadata(network: openvino.Model, key: str) -> str | None:
    """An entry of ONNX's metadata, which OpenVINO keeps in its IR, too."""
    path = ["framework", key]
    return network.get_rt_info(path).astype(str) if network.has_rt_info(path) else None


def _class_names(
    file: pathlib.Path, network: openvino.Model, num_classes: int
) -> tuple[str, ...] | None:
    """The names in the metadata: ours, or those of OpenVINO's Model API."""
    ours = _metadata(network, "class_names")
    if ours is not None:
        names = json.loads(ours)
    elif network.has_rt_info(["model_info", "labels"]):
        labels = network.get_rt_info(["model_info", "labels"]).astype(str)
        names = [name.replace("~", " ") for name in labels.split()]
    else:
        return None
    if len(names) != num_classes:
        raise ValueError(
            f"{file} names {len(names)} classes and has {num_classes} scores; its "
            f"metadata are of another network"
        )
    return tuple(names)
