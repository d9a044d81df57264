"""Latency of one network and of its layers on one device.

    python -m profiling.measure --model=FILE.onnx --device=MYRIADX_COMPILER

Prints the latency and the slowest layers as text. With `--json`, prints only one JSON object with
all layers on standard output. `--model` may also be the name of a published network.
"""

import json
import pathlib
from collections.abc import Sequence

from absl import flags

from jaxnas import export, pretrained
from jaxnas.zoo import ZOO, find_network
from profiling import command, report
from profiling.device import measure_repeatedly
from profiling.onnx_file import read_network
from profiling.progress import Progress
from profiling.recording_device import Recording
from profiling.registry import device_names, open_device
from profiling.tables import exported


def read_model(name: str, image_size: int, shape: str | None, weights: str | None) -> bytes:
    """Reads an ONNX file, or exports a published network.

    Args:
      name: path of an ONNX file, or name of a published network.
      image_size: image size in px, for published networks.
      shape: value of --shape, for ONNX files.
      weights: value of --weights, for published networks; None draws random weights.

    Raises:
      ValueError: the file or the weights are missing, or a device cannot take the network; the
        message says what is allowed.
    """
    if name in ZOO:
        if shape is not None:
            raise ValueError(f"--shape={shape}: leave it out, {name} takes --image_size")
        if weights is not None:
            pretrained.check_network(name)
            network = pretrained.pretrained(pretrained.NUM_CLASSES)
            return export.to_onnx(network, image_size).SerializeToString()
        return exported(find_network(name), image_size)
    if weights is not None:
        raise ValueError(f"--weights={weights}: leave it out, {name} is no published network")
    file = pathlib.Path(name)
    if not file.exists():
        raise ValueError(
            f"--model={name}: no such file; give an ONNX file or one of {', '.join(ZOO)}"
        )
    return read_network(file, None if shape is None else parsed_shape(shape))


def parsed_shape(text: str) -> list[int]:
    """Returns the sizes in a value of --shape; raises ValueError if it is not a list of sizes."""
    sizes = text.strip("[] ").split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise ValueError(f"--shape={text}: give sizes of 1 or more, such as 1,3,224,224")
    return [int(size) for size in sizes]


def main(argv: Sequence[str]) -> int:
    """Runs the program; see the module."""
    del argv
    args = flags.FLAGS
    with command.usage_errors():
        device_names(args.device)
        options = command.device_options()
        with Progress() as progress, progress.phase("read model", total=1):
            if args.model not in ZOO and flags.FLAGS["image_size"].present:
                raise ValueError(
                    f"--image_size={args.image_size}: {args.model} has its own size; give --shape "
                    f"for another, such as --shape=1,3,{args.image_size},{args.image_size}"
                )
            model = read_model(args.model, args.image_size, args.shape, args.weights)
    with (
        command.device_errors(),
        command.open_store(args.store) as store,
        Recording(open_device(args.device, options), store) as device,
    ):
        with Progress() as progress, progress.phase("measure", total=device.repeats) as phase:
            measurement = measure_repeatedly(
                device, model, lambda done, run: phase.update(done, f"{run.latency_ms:.3f} ms")
            )
    if args.json:
        print(json.dumps(measurement.document(args.model), indent=1))
    else:
        report.show_measurement(measurement, args.model)
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("model", None, f"ONNX file, or one of {', '.join(ZOO)}.", required=True)
    flags.DEFINE_string(
        "shape",
        None,
        "Input shape for an ONNX file, such as 1,3,224,224; sets dynamic sizes and replaces "
        "fixed ones.",
    )
    flags.DEFINE_integer("image_size", 224, "px, for published networks only.", lower_bound=32)
    flags.DEFINE_enum(
        "weights",
        None,
        pretrained.WEIGHTS,
        "Published weights, for published networks only; unset is random ones.",
    )
    flags.DEFINE_bool("json", False, "Print only one JSON object on standard output.")
    command.define_device_flags()
    command.define_store_flag()
    command.run(main)
