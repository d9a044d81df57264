"""Coefficients of the MyriadX cost model, read from calibration.json (written by calibrate.py)."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

CALIBRATION = pathlib.Path(__file__).with_name("calibration.json")
SCHEMA = 3

# Unit and meaning of each coefficient. Clocks are those of the convolution engine, 700 MHz.
COEFFICIENTS = {
    "multiplication_clocks": "clocks per nominal clock of the multiplications",
    "mode_1_256_clocks": "clocks per pixel to collect the sums, 256 outputs in parallel",
    "mode_2_128_clocks": "the same, 128 outputs",
    "mode_4_64_clocks": "the same, 64 outputs",
    "mode_8_32_clocks": "the same, 32 outputs",
    "mode_16_16_clocks": "the same, 16 outputs",
    "output_channel_clocks": "clocks to write one channel of one pixel",
    "max_pool_clocks": "clocks per output pixel and 16 channels, max pooling",
    "average_pool_clocks": "clocks per output pixel and 16 channels, average pooling",
    "pool_scan_clocks": "clocks per input pixel and 16 channels, pooling",
    "read_ms_per_mb": "ms per MB that the engine reads from DRAM",
    "read_ms_per_thousand_runs": "ms per thousand contiguous pieces in these reads",
    "weight_ms_per_mb": "ms per MB of weights",
    "engine_stage_ms": "ms per stage of the engine",
    "copy_stage_ms": "ms per copy",
    "copy_ms_per_mb": "ms per MB copied from or to DRAM",
    "copy_ms_per_thousand_rows": "ms per thousand rows in these copies that end in padding",
    "chip_copy_ms_per_thousand_rows": "ms per thousand such rows copied within the chip",
    "vector_stage_ms": "ms per stage of the vector processors",
    "sum_ms_per_million": "ms per million elements added, on one SHAVE",
    "vector_ms_per_million": "ms per million elements of other vector stages, on one SHAVE",
    "vector_ms_per_mb": "ms per MB that vector stages read from or write to DRAM",
    "softmax_ms": "ms per softmax over a thousand classes",
}


# Kinds of layers, whose errors differ; `depthwise` are all grouped convolutions.
KINDS = ("convolution", "depthwise", "pooling", "other")


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Parameters of the cost model.

    Attributes:
      coefficients: non-negative values under the names of COEFFICIENTS.
      host_ms: time that host and USB add to the device's time.
      error_percent: by kind of layer, half the width of the interval from p10 to p90 of
        (measured / estimated - 1) for all such layers of a network, in percent.
    """

    coefficients: Mapping[str, float]
    host_ms: float = 0.0
    error_percent: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(KINDS, 0.0)
    )

    @classmethod
    def load(cls, path: pathlib.Path = CALIBRATION) -> "Calibration":
        """Reads a calibration file.

        Raises:
          ValueError: the file has another schema, or other coefficients than COEFFICIENTS.
        """
        content = json.loads(path.read_text())
        if content.get("schema") != SCHEMA:
            raise ValueError(
                f"{path} has schema {content.get('schema')!r}; this program reads {SCHEMA}"
            )
        values = {name: entry["value"] for name, entry in content["coefficients"].items()}
        if values.keys() != COEFFICIENTS.keys():
            raise ValueError(
                f"{path} has the coefficients {sorted(values)}; required: {sorted(COEFFICIENTS)}"
            )
        return cls(values, content["host_ms"]["value"], content["error_percent"]["value"])

    def save(self, path: pathlib.Path, sources: Mapping[str, str]) -> None:
        """Writes the file that `load` reads.

        Args:
          path: file to write.
          sources: descriptions of where coefficients, host_ms and error_percent come from.
        """
        path.write_text(
            json.dumps(
                {
                    "schema": SCHEMA,
                    "device": "MyriadX, as in the Neural Compute Stick 2",
                    "sources": dict(sources),
                    "coefficients": {
                        name: {"value": round(self.coefficients[name], 6), "what": what}
                        for name, what in COEFFICIENTS.items()
                    },
                    "host_ms": {"value": self.host_ms},
                    "error_percent": {
                        "value": {kind: round(self.error_percent[kind], 2) for kind in KINDS}
                    },
                },
                indent=1,
            )
            + "\n"
        )
