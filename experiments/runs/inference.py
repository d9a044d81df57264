"""Flags of evaluate and predict: the model that a user names and the device that runs it."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from experiments.runs.classifier import SUFFIXES, Classifier, Normalization, read_classifier
from experiments.runs.delivery import IR, ONNX
from experiments.runs.published_model import write_model
from jaxnas import pretrained
from jaxnas.json_file import read_object
from jaxnas.zoo import ZOO
from profiling import command, openvino_device
from profiling.device import Executor, Options
from profiling.registry import device_kind, device_names, executor_name, open_device


@dataclasses.dataclass(frozen=True)
class Model:
    """A classifier's file and the device that runs it.

    Attributes:
      classifier: description of the file.
      device: name of the device.
      precision: precision on a CPU, GPU or NPU; None leaves it to OpenVINO.
      options: options of the device.
      run: config.json of the run that wrote the file; None for any other file.
    """

    classifier: Classifier
    device: str
    precision: str | None
    options: Options
    run: dict[str, Any] | None

    def open(self) -> Executor:
        """Opens the device that runs the model.

        Raises:
          DeviceUnavailable: the device is unavailable.
        """
        if self.precision is not None and device_kind(self.device) in openvino_device.NAMES:
            return openvino_device.OpenVinoDevice(self.device, self.options, self.precision)
        device = open_device(self.device, self.options)
        assert isinstance(device, Executor)  # `executor_name` accepts no other
        return device


def define_model_flags() -> None:
    """Defines --model and the flags of its device and input."""
    flags.DEFINE_string(
        "model",
        None,
        f"Folder of a run, a classifier's file ({', '.join(SUFFIXES)}) with one picture as "
        f"input, or, with --weights, a published network: {pretrained.NETWORK}.",
        required=True,
    )
    flags.DEFINE_enum(
        "weights",
        None,
        pretrained.WEIGHTS,
        "Weights of a published network, whose files are written to a folder in runs/.",
    )
    flags.DEFINE_string(
        "device",
        None,
        "Device that runs it: CPU, GPU, NPU, MYRIAD or OAK; unset is the device of a run's "
        "accuracy, and CPU for any other file.",
    )
    flags.DEFINE_enum(
        "inference_precision",
        None,
        ("native", "f32", "f16", "bf16"),
        "Precision on CPU, GPU and NPU; native leaves it to OpenVINO; unset is the precision of a "
        "run's accuracy, else f32 on a CPU and native elsewhere.",
    )
    flags.DEFINE_integer(
        "image_size",
        None,
        "Size in px for a file with a dynamic input size, and for a published network; unset is "
        "224 for the latter.",
        lower_bound=1,
    )
    flags.DEFINE_list(
        "mean_values",
        None,
        "Means of red, green and blue to subtract from the pixels (0 to 255), for a file that "
        "does not normalize, such as 123.675,116.28,103.53.",
    )
    flags.DEFINE_list(
        "scale_values", None, "Divisors after the subtraction, such as 58.395,57.12,57.375."
    )
    flags.DEFINE_bool(
        "reverse_input_channels", False, "The file expects the order blue, green, red."
    )
    command.define_option_flags()


def model_from_flags() -> Model:
    """Returns the model that the flags name; raises ValueError as `find_model` does."""
    args = flags.FLAGS
    normalization = Normalization(
        _three("mean_values", 0.0), _three("scale_values", 1.0), args.reverse_input_channels
    )
    if 0.0 in normalization.scale:
        raise ValueError("--scale_values contains 0; give three divisors other than 0")
    name, image_size = args.model, args.image_size
    if name in ZOO:
        name, image_size = str(write_model(name, args.weights, image_size or 224)), None
    elif args.weights is not None:
        raise ValueError(
            f"--weights={args.weights}: {name} has weights of its own; leave it out, or give "
            f"--model={pretrained.NETWORK}"
        )
    return find_model(
        name,
        args.device,
        args.inference_precision,
        image_size,
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
    """Returns a model by the values of the flags.

    Raises:
      ValueError: the file is not a classifier, or the device does not run networks; one line.
    """
    file, run, chosen = pathlib.Path(name), None, "CPU"
    inference_precision: str | None = "f32"
    if file.is_dir():
        run, accuracy = _read_run(file)
        chosen, inference_precision = _device_of(run, accuracy), accuracy["inference_precision"]
        file = file / accuracy["file"]
    if device is not None and device != chosen:
        chosen = executor_name(device)
        inference_precision = "f32" if device_kind(chosen) == "CPU" else None
        if run is not None:
            file = file.with_name(IR if device_kind(chosen) in openvino_device.NAMES else ONNX)
    if precision is not None:
        if device_kind(chosen) not in openvino_device.NAMES:
            raise ValueError(
                f"--inference_precision={precision}: {chosen} has only one precision; leave it out"
            )
        inference_precision = None if precision == "native" else precision
    return Model(
        read_classifier(file, image_size, normalization), chosen, inference_precision, options, run
    )


def _read_run(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns config.json of a finished run and the accuracy in its result."""
    documents = []
    for name, remedy in (
        ("config.json", "give the folder of a search or a training"),
        ("result.json", "let the run finish, it has no model files yet"),
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
            f"{folder / 'result.json'} does not name the device and precision of its accuracy; "
            f"give the folder of a run of this version, or its model.xml"
        )
    return config, accuracy


def _device_of(config: Mapping[str, Any], accuracy: Mapping[str, Any]) -> str:
    """Returns the device of a run's accuracy by its full name, such as GPU.1."""
    kind = accuracy["device"]
    names = [name for name in device_names(config["device"]) if device_kind(name) == kind]
    return names[0] if names else kind


def _three(flag: str, default: float) -> tuple[float, float, float]:
    """Returns the values of a flag for red, green and blue; raises ValueError."""
    texts = flags.FLAGS[flag].value
    if texts is None:
        return default, default, default
    try:
        red, green, blue = map(float, texts)
    except ValueError:
        raise ValueError(
            f"--{flag}={','.join(texts)}: give three numbers, for red, green and blue"
        ) from None
    return red, green, blue
