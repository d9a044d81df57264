"""Coefficients of the MyriadX cost model, from calibration.json."""

import dataclasses
import json
import pathlib

CALIBRATION = pathlib.Path(__file__).with_name("calibration.json")
SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Coefficients of the cost model; calibration.json says where each comes from.

    Attributes:
      clock_khz: of the convolution engine.
      clocks_per_cycle: clocks that a cycle of the compiler's `cost` takes.
      columns_at_once: output columns are computed in groups of so many.
      hardware_ms, copy_ms, shave_ms: for any stage of the kind.
      weight_ms_per_mb, activation_ms_per_mb: hardware stages; activations in plus out.
      copy_ms_per_mb: of the data copied, counted once.
      shave_ms_per_mb: of the data in plus out.
    """

    clock_khz: float
    clocks_per_cycle: float
    columns_at_once: int
    hardware_ms: float
    weight_ms_per_mb: float
    activation_ms_per_mb: float
    copy_ms: float
    copy_ms_per_mb: float
    shave_ms: float
    shave_ms_per_mb: float

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
        expected = {field.name for field in dataclasses.fields(cls)}
        if values.keys() != expected:
            raise ValueError(
                f"{path} must have the coefficients {sorted(expected)}, it has {sorted(values)}"
            )
        return cls(**values)
