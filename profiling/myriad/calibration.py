"""Coefficients of the MyriadX cost model, from calibration.json, which calibrate.py writes."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

CALIBRATION = pathlib.Path(__file__).with_name("calibration.json")
SCHEMA = 2

# Each coefficient, with its unit and what it stands for. Clocks are the engine's, of 700 MHz.
COEFFICIENTS = {
    "multiplication_clocks": "clocks for each that the multiplications should take",
    "mode_1_256_clocks": "clocks a pixel to gather the sums, 256 outputs side by side",
    "mode_2_128_clocks": "the same, 128 outputs",
    "mode_4_64_clocks": "the same, 64 outputs",
    "mode_8_32_clocks": "the same, 32 outputs",
    "mode_16_16_clocks": "the same, 16 outputs",
    "output_channel_clocks": "clocks to write a channel of a pixel",
    "max_pool_clocks": "clocks a pixel of 16 channels of maximum pooling",
    "average_pool_clocks": "clocks a pixel of 16 channels of average pooling",
    "pool_scan_clocks": "clocks an input pixel of 16 channels of pooling",
    "read_ms_per_mb": "ms a MB that the engine reads from DRAM",
    "read_ms_per_thousand_runs": "ms for a thousand pieces without a gap of such a reading",
    "weight_ms_per_mb": "ms a MB of weights",
    "engine_stage_ms": "ms for any stage of the engine",
    "copy_stage_ms": "ms for any copy",
    "copy_ms_per_mb": "ms a MB copied from or to DRAM",
    "copy_ms_per_thousand_rows": "ms for a thousand rows of it that end in filling",
    "chip_copy_ms_per_thousand_rows": "ms for a thousand such rows copied within the chip",
    "vector_stage_ms": "ms for any stage of the vector processors",
    "sum_ms_per_million": "ms for a million elements added, on one SHAVE",
    "vector_ms_per_million": "ms for a million elements of other vector stages, on one SHAVE",
    "vector_ms_per_mb": "ms a MB that vector stages read from or write to DRAM",
    "softmax_ms": "ms for a softmax over a thousand classes",
}


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The cost model's numbers.

    Attributes:
      coefficients: by name of COEFFICIENTS, none negative.
      host_ms: what host and USB add to the device's time.
      error_percent: p10 and p90 of (measured / estimated - 1) for a whole network, in percent.
    """

    coefficients: Mapping[str, float]
    host_ms: float = 0.0
    error_percent: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def load(cls, path: pathlib.Path = CALIBRATION) -> "Calibration":
        """Reads a calibration file.

        Raises:
          ValueError: it has another schema, or a coefficient too many or too few.
        """
        content = json.loads(path.read_text())
        if content.get("schema") != SCHEMA:
            raise ValueError(
                f"{path} has schema {content.get('schema')!r}; this program reads {SCHEMA}"
            )
        values = {name: entry["value"] for name, entry in content["coefficients"].items()}
        if values.keys() != COEFFICIENTS.keys():
            raise ValueError(
                f"{path} must have the coefficients {sorted(COEFFICIENTS)}, it has {sorted(values)}"
            )
        return cls(values, content["host_ms"]["value"], tuple(content["error_percent"]["value"]))

    def save(self, path: pathlib.Path, sources: Mapping[str, str]) -> None:
        """Writes the file that `load` reads.

        Args:
          path: where to.
          sources: whence coefficients, host_ms and error_percent come, in words.
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
                    "error_percent": {"value": [round(value, 2) for value in self.error_percent]},
                },
                indent=1,
            )
            + "\n"
        )
