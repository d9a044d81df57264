"""Latency of one network on one device.

    python -m profiling.measure --model=FILE.onnx --device=MYRIADX_COMPILER

prints one JSON object on standard output. `--model` may also be the name of a published network.
"""

import json
import pathlib
from collections.abc import Sequence

import numpy as np
import onnx
from absl import flags

from jaxnas import export
from jaxnas.network import Network
from jaxnas.zoo import ZOO, find_network
from profiling import command
from profiling.device import device_names, open_device


def read_model(name: str, image_size: int) -> bytes:
    """The bytes of an ONNX file, or of a published network with drawn weights.

    Raises:
      ValueError: no such file, or no ONNX; says what is allowed.
    """
    if name in ZOO:
        network = Network(find_network(name), rng=np.random.default_rng(0))
        return export.to_onnx(network, image_size).SerializeToString()
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
        model = read_model(args.model, args.image_size)
    with command.device_errors(), open_device(args.device, options) as device:
        measurement = device.measure(model)
    print(json.dumps(measurement.document(args.model), indent=1))
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("model", None, f"An ONNX file, or one of {', '.join(ZOO)}.", required=True)
    flags.DEFINE_integer("image_size", 224, "px; for published networks only.", lower_bound=32)
    command.define_device_flags()
    command.run(main)
