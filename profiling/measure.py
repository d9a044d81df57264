"""Latency of one network on one device, and where it goes.

    python -m profiling.measure --model=FILE.onnx --device=MYRIADX_COMPILER

prints the slowest layers for people; with `--json` one JSON object of all, and nothing else, on
standard output. `--model` may also be the name of a published network.
"""

import json
import pathlib
from collections.abc import Sequence

import onnx
from absl import flags

from jaxnas.zoo import ZOO, find_network
from profiling import command, report
from profiling.device import device_names, open_device
from profiling.measurement import measure_in_passes
from profiling.progress import Progress
from profiling.recording import Recording
from profiling.tables import exported


def read_model(name: str, image_size: int) -> bytes:
    """The bytes of an ONNX file, or of a published network with drawn weights.

    Raises:
      ValueError: no such file, or no ONNX; says what is allowed.
    """
    if name in ZOO:
        return exported(find_network(name), image_size)
    file = pathlib.Path(name)
    if not file.is_file():
        raise ValueError(f"--model={name}: no such file; give an ONNX file or one of "
                         f"{', '.join(ZOO)}")
    model = file.read_bytes()
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        # protobuf and the checker share no base class below Exception.
        raise ValueError(f"--model={name} is no ONNX file: {str(error).splitlines()[0]}") from error
    return model


def main(argv: Sequence[str]) -> int:
    """Measures as the flags say; see the module."""
    del argv
    args = flags.FLAGS
    with command.usage_errors():
        device_names(args.device)
        options = command.device_options()
        with Progress() as progress, progress.phase("read model", total=1):
            model = read_model(args.model, args.image_size)
    with (command.device_errors(), command.open_store(args.store) as store,
          Recording(open_device(args.device, options), store) as device):
        with Progress() as progress, progress.phase("measure", total=device.passes) as phase:
            measurement = measure_in_passes(device, model, lambda done, run: phase.update(
                done, f"{run.latency_ms:.3f} ms"))
    if args.json:
        print(json.dumps(measurement.document(args.model), indent=1))
    else:
        report.show_measurement(measurement, args.model)
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("model", None, f"An ONNX file, or one of {', '.join(ZOO)}.", required=True)
    flags.DEFINE_integer("image_size", 224, "px; for published networks only.", lower_bound=32)
    flags.DEFINE_bool("json", False, "Print one JSON object, and nothing else, on standard output.")
    command.define_device_flags()
    command.define_store_flag()
    command.run(main)
