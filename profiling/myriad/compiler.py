"""The MyriadX without a stick: the real compiler's schedule under a calibrated cost model."""

from typing import Self

from profiling.errors import CompileError
from profiling.measurement import Measurement, Options, Setup
from profiling.myriad.client import MyriadCompiler
from profiling.myriad.stages import estimate

NAME = "MYRIADX_COMPILER"
PRECISION = "FP16"


class MyriadXCompiler:
    """The device MYRIADX_COMPILER."""

    passes = 1

    def __init__(self, name: str, options: Options):
        """Starts the compiler's process; installs its environment at first use.

        Raises:
          DeviceUnavailable: it cannot run here; says why and what to do.
        """
        self._shaves = options.shaves
        self._compiler = MyriadCompiler()
        versions = self._compiler.hello()
        self.setup = Setup(name, "estimated", "MyriadX, as in the Neural Compute Stick 2",
                           PRECISION, versions, {"shaves": options.shaves})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._compiler.close()

    def measure(self, model: bytes) -> Measurement:
        compiled = self._compiler.compile(model, shaves=self._shaves)
        try:
            result = estimate(compiled.graph)
        except ValueError as error:
            raise CompileError(f"the compiler's stage graph of this network is beyond the cost "
                               f"model: {error}") from error
        return Measurement(self.setup, result.latency_ms, *result.interval_ms, 0, result.layers,
                           blob=compiled.blob)
