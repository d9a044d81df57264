"""Reads the input and output of a classifier's file, and converts pictures to its input."""

import dataclasses
import json
import pathlib

import numpy as np

from jaxnas.openvino_package import openvino

SUFFIXES = (".onnx", ".xml")
_DTYPES = {openvino.Type.u8: np.uint8, openvino.Type.f32: np.float32, openvino.Type.f16: np.float16}


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Conversion of pixels (0 to 255) to a file's input: (pixels - mean) / scale.

    Attributes:
      mean, scale: values for red, green and blue.
      reverse_channels: whether the file expects the order blue, green, red.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    reverse_channels: bool = False


@dataclasses.dataclass(frozen=True)
class Classifier:
    """An ONNX or IR file with one picture as input and one score per class as output.

    Attributes:
      file: path of the file.
      image_size: side of the input picture in px.
      channels_last: whether the input is [1, size, size, 3] instead of [1, 3, size, size].
      dtype: type of the input.
      num_classes: number of scores.
      class_names: names in the order of the scores; None if the file has none.
      crop_fraction: side of the centered crop over the picture's shorter side; 1 if the file has
        no entry.
      normalization: applied to the pixels.
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
        """Returns the file's input, without the batch axis, for uint8 pixels [size, size, 3]."""
        if self.normalization.reverse_channels:
            pixels = pixels[..., ::-1]
        if self.dtype != np.uint8:
            mean, scale = np.array([self.normalization.mean, self.normalization.scale], np.float32)
            pixels = ((pixels - mean) / scale).astype(self.dtype)
        return np.ascontiguousarray(pixels if self.channels_last else np.moveaxis(pixels, -1, 0))


def read_classifier(
    file: pathlib.Path, image_size: int | None = None, normalization: Normalization | None = None
) -> Classifier:
    """Reads the description of a classifier from its file.

    Args:
      file: an ONNX file or an OpenVINO IR's .xml.
      image_size: size in px for a file with a dynamic input size.
      normalization: applied to the pixels; None for none.

    Raises:
      ValueError: the file is not a model, not a classifier of one picture, or does not accept the
        size; one line that names what is allowed.
    """
    normalization = normalization or Normalization()
    if not file.is_file() or file.suffix not in SUFFIXES:
        raise ValueError(
            f"{file} is not a model file; give a file that ends in "
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
            f"outputs; give a classifier with one input, a picture, and one output, its scores"
        )
    channels_last, size = _picture(file, network.inputs[0], image_size)
    element_type = network.inputs[0].get_element_type()
    dtype = _DTYPES.get(element_type)
    if dtype is None:
        raise ValueError(
            f"{file}: its input has the type {element_type.get_type_name()}; supported are "
            f"8-bit pixels (u8), f32 and f16"
        )
    if dtype == np.uint8 and (normalization.mean, normalization.scale) != (
        Normalization.mean,
        Normalization.scale,
    ):
        raise ValueError(
            f"{file} takes 8-bit pixels, which cannot be normalized; leave out "
            f"--mean_values and --scale_values"
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
    """Returns whether channels are last, and the size in px; raises ValueError."""
    shape = value.get_partial_shape()
    sides: list[int | None] = [None] * 4
    if shape.rank.is_static and len(shape) == 4:
        sides = [d.get_length() if d.is_static else None for d in shape]
    if 3 not in (sides[1], sides[3]) or sides[0] not in (1, None):
        raise ValueError(
            f"{file}: its input is {shape}; give a network that takes one picture, "
            f"[1, 3, size, size] or [1, size, size, 3]"
        )
    channels_last = sides[1] != 3
    height, width = sides[1:3] if channels_last else sides[2:]
    height, width = (image_size if side is None else side for side in (height, width))
    if height is None or width is None:
        raise ValueError(f"{file}: its input {shape} has a dynamic size; give --image_size")
    if height != width:
        raise ValueError(f"{file}: its input is {height} x {width} px; only squares are supported")
    if image_size not in (None, height):
        raise ValueError(f"--image_size={image_size}: {file} takes {height} px; leave it out")
    return channels_last, height


def _classes(file: pathlib.Path, value: openvino.Output) -> int:
    """Returns the number of scores; raises ValueError."""
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
            f"{file}: its output is {shape}; a classifier's is [1, classes] with 2 or more classes"
        )
    return sides[1]


def _metadata(network: openvino.Model, key: str) -> str | None:
    """Returns an entry of the ONNX metadata, which OpenVINO also keeps in the IR."""
    path = ["framework", key]
    return network.get_rt_info(path).astype(str) if network.has_rt_info(path) else None


def _class_names(
    file: pathlib.Path, network: openvino.Model, num_classes: int
) -> tuple[str, ...] | None:
    """Returns the names in the metadata: those of `export`, else those of OpenVINO's Model API."""
    exported = _metadata(network, "class_names")
    if exported is not None:
        names = json.loads(exported)
    elif network.has_rt_info(["model_info", "labels"]):
        labels = network.get_rt_info(["model_info", "labels"]).astype(str)
        names = [name.replace("~", " ") for name in labels.split()]
    else:
        return None
    if len(names) != num_classes:
        raise ValueError(
            f"{file} names {len(names)} classes and has {num_classes} scores; its "
            f"metadata belongs to another network"
        )
    return tuple(names)
