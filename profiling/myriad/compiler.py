"""MyriadX latency without a stick: the real compiler's schedule and a calibrated cost model."""

import hashlib
import pathlib
from typing import Self

from profiling.device import Options
from profiling.errors import CompileError
from profiling.measurement import Measurement, Setup
from profiling.myriad.calibration import CALIBRATION, Calibration
from profiling.myriad.client import Worker
from profiling.myriad.cost import check_calibrated, estimate_stages
from profiling.myriad.model_check import depthwise_layers
from profiling.myriad.stages import parse

NAME = "MYRIADX_COMPILER"
PRECISION = "FP16"


class MyriadXCompiler:
    """The device MYRIADX_COMPILER."""

    repeats = 1

    def __init__(self, name: str, options: Options):
        """Starts the compiler's process; installs its environment at first use.

        Raises:
          ValueError: worker_prefix is not a command.
          DeviceUnavailable: the compiler cannot run; the message gives the reason and a remedy.
        """
        self._shaves = options.shaves
        self._compiler = Worker(prefix=options.worker_prefix)
        versions = {**self._compiler.hello(), "cost_model": _digest(CALIBRATION)}
        self.setup = Setup(
            name,
            "estimated",
            "MyriadX, as in the Neural Compute Stick 2",
            PRECISION,
            versions,
            {"shaves": options.shaves},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._compiler.close()

    def measure(self, model: bytes) -> Measurement:
        compiled = self._compiler.compile(model, shaves=self._shaves)
        try:
            stages = parse(compiled.graph)
            check_calibrated(stages)
            result = estimate_stages(stages, Calibration.load(), depthwise_layers(model))
        except ValueError as error:
            raise CompileError(f"no estimate of this network is possible: {error}") from error
        return Measurement(
            self.setup,
            result.latency_ms,
            *result.interval_ms,
            0,
            result.layers,
            host_ms=result.host_ms,
            blob=compiled.blob,
        )


def _digest(file: pathlib.Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
