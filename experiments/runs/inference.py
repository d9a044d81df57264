"""What evaluate and predict have in common: a model that a user names, and what runs it."""

import dataclasses
import pathlib
from typing import Any

from absl import flags

from experiments.runs.classifier import SUFFIXES, Classifier, Normalization, read_classifier
from experiments.runs.delivery import IR, ONNX
from jaxnas.json_file import read_object
from profiling import command, openvino_device
from profiling.device import Executor, Options
from profiling.registry import device_kind, executor_name, open_device


@dataclasses.dataclass(frozen=True)
class Model:
    """A classifier's file, and where it runs.

    Attributes:
      device: its name.
      precision: that it is run in on a CPU or GPU; None is OpenVINO's own choice.
      options: of the device.
      run: config.json of the run whose file it is; None for another file.
    """

    classifier: Classifier
    device: str
    precision: str | None
    options: Options
    run: dict[str, Any] | None

    def open(self) -> Executor:
        """The device, to run the model on.

        Raises:
          DeviceUnavailable: it is not there; says why.
        """
        if self.precision is not None and device_kind(self.device) in openvino_device.NAMES:
            return openvino_device.OpenVinoDevice(self.device, self.options, self.precision)
        return open_device(self.device, self.options)


def define_model_flags() -> None:
    """Defines --model, and what may be said of its input."""
    flags.DEFINE_string(
        "model",
        None,
        f"The folder of a run, or a classifier's file "
        f"({', '.join(SUFFIXES)}) that takes one picture.",
        required=True,
    )
    flags.DEFINE_string(
        "device",
        None,
        "What runs it: CPU, GPU, NPU, MYRIAD or OAK; unset is what "
        "gave a run's accuracy, and CPU for another file.",
    )
    flags.DEFINE_enum(
        "inference_precision",
        None,
        ("native", "f32", "f16", "bf16"),
        "Of CPU and "
        "GPU, native being OpenVINO's own choice; unset is what gave a run's "
        "accuracy, else f32 on a CPU and native elsewhere.",
    )
    flags.DEFINE_integer("image_size", None, "px, for a file that takes any size.", lower_bound=1)
    flags.DEFINE_list(
        "mean_values",
        None,
        "Of red, green and blue, subtracted from pixels (0 to "
        "255) for a file that does not do so itself, such as 123.675,116.28,103.53.",
    )
    flags.DEFINE_list(
        "scale_values", None, "By which they are divided then, such as 58.395,57.12,57.375."
    )
    flags.DEFINE_bool("reverse_input_channels", False, "The file takes blue, green, red.")
    command.define_option_flags()


def model_from_flags() -> Model:
    """The model that the flags name; raises ValueError for what is none, in one line."""
    args = flags.FLAGS
    normalization = Normalization(
        _three("mean_values", 0.0), _three("scale_values", 1.0), args.reverse_input_channels
    )
    if 0.0 in normalization.scale:
        raise ValueError("--scale_values has a 0, by which nothing can be divided")
    return find_model(
        args.model,
        args.device,
        args.inference_precision,
        args.image_size,
        normalization,
        command.device_options(),
    )


def find_model(
    name: str,
    device: str | None,
    precision: str | None,
    image_size: int | None,
    normalization: Normalization,
    options: Options,
) -> Model:
    """The model of a name; the arguments are the flags' values.

    Raises:
      ValueError: no classifier, or no device that runs one; in one line.
    """
    file, run, chosen, inference_precision = pathlib.Path(name), None, "CPU", "f32"
    if file.is_dir():
        run, accuracy = _read_run(file)
        chosen, inference_precision = accuracy["device"], accuracy["inference_precision"]
        file = file / accuracy["file"]
    if device is not None and device != chosen:
        chosen = executor_name(device)
        inference_precision = "f32" if device_kind(chosen) == "CPU" else None
        if run is not None:
            file = file.with_name(IR if device_kind(chosen) in openvino_device.NAMES else ONNX)
    if precision is not None:
        if device_kind(chosen) not in openvino_device.NAMES:
            raise ValueError(
                f"--inference_precision={precision}: {chosen} computes in one "
                f"precision alone; leave it out"
            )
        inference_precision = None if precision == "native" else precision
    return Model(
        read_classifier(file, image_size, normalization), chosen, inference_precision, options, run
    )


def _read_run(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json of a run that has come to its end, and its result's accuracy."""
    documents = []
    for name, remedy in (
        ("config.json", "give the folder of a search or a training"),
        ("result.json", "let the run come to its end, it has no files yet"),
    ):
        if not (folder / name).exists():
            raise ValueError(f"--model={folder} has no {name}: {remedy}")
        documents.append(read_object(folder / name, remedy))
    config, result = documents
    accuracy = result.get("accuracy")
    if not isinstance(accuracy, dict) or not all(
        isinstance(accuracy.get(key), kind)
        for key, kind in (("device", str), ("inference_precision", str | None), ("file", str))
    ):
        raise ValueError(
            f"{folder / 'result.json'} says nothing of what ran its file; give the "
            f"folder of a run of this version, or its model.xml"
        )
    return config, accuracy


def _three(flag: str, default: float) -> tuple[float, float, float]:
    texts = flags.FLAGS[flag].value
    if texts is None:
        return (default,) * 3
    try:
        red, green, blue = map(float, texts)
    except ValueError:
        raise ValueError(
            f"--{flag}={','.join(texts)}: give three numbers, of red, green and blue"
        ) from None
    return red, green, blue
