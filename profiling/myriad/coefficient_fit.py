"""Fits the cost model's coefficients to layers timed on a stick.

The fit is non-negative least squares on relative errors, with linear loss for large errors (Huber).
Which of two alternatives bounds a stage depends on the coefficients, so the fit is iterative. It
starts at values of the right order of magnitude, and each round moves halfway to its solution.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.linear_model import LinearRegression

from profiling.myriad.calibration import COEFFICIENTS, Calibration
from profiling.myriad.cost import Amounts, layer_amounts, total
from profiling.myriad.stages import Stage

ROUNDS = 25
FLOOR_MS = 0.1  # errors are relative to the measured time plus this
LARGE = 0.02  # relative error above which the loss is linear
NO_LAYER = "<Extra>"  # name of the counter for conversions of input and output

_START = {
    "multiplication_clocks": 1.0,
    "mode_1_256_clocks": 5.0,
    "mode_2_128_clocks": 15.0,
    "mode_4_64_clocks": 28.0,
    "mode_8_32_clocks": 38.0,
    "mode_16_16_clocks": 60.0,
    "output_channel_clocks": 0.7,
    "max_pool_clocks": 14.0,
    "average_pool_clocks": 20.0,
    "pool_scan_clocks": 3.0,
    "read_ms_per_mb": 0.25,
    "read_ms_per_thousand_runs": 0.02,
    "weight_ms_per_mb": 0.1,
    "engine_stage_ms": 0.006,
    "copy_stage_ms": 0.005,
    "copy_ms_per_mb": 0.12,
    "copy_ms_per_thousand_rows": 0.01,
    "chip_copy_ms_per_thousand_rows": 0.01,
    "vector_stage_ms": 0.01,
    "sum_ms_per_million": 2.5,
    "vector_ms_per_million": 2.0,
    "vector_ms_per_mb": 0.14,
    "softmax_ms": 0.03,
}


@dataclasses.dataclass(frozen=True)
class Timed:
    """A network compiled here and timed elsewhere.

    Attributes:
      stages: stages of the compiler's schedule.
      measured_ms: measured time of each layer.
      held_out: layers that no fit may use.
      counted_with: layers without a counter, mapped to the layer whose counter includes them.
    """

    stages: Sequence[Stage]
    measured_ms: Mapping[str, float]
    held_out: frozenset[str] = frozenset()
    counted_with: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def amounts(self, calibration: Calibration) -> dict[str, Amounts]:
        """Returns the amounts of every timed layer; those of conversions are under NO_LAYER.

        Raises:
          ValueError: a layer has stages but no counter, or a counter but no stages.
        """
        layers: dict[str, Amounts] = {}
        own = {stage.layer for stage in self.stages}
        for name, amounts in layer_amounts(self.stages, calibration).items():
            counter = self.counted_with.get(name, name) if name in own else NO_LAYER
            layer = layers.setdefault(counter, {})
            for coefficient, amount in amounts.items():
                layer[coefficient] = layer.get(coefficient, 0.0) + amount
        if layers.keys() != self.measured_ms.keys():
            raise ValueError(
                f"not both in the stages and in the counters: "
                f"{sorted(layers.keys() ^ self.measured_ms.keys())}"
            )
        return layers

    def estimated_ms(self, calibration: Calibration) -> dict[str, float]:
        """Returns the estimated device time of each layer."""
        return {
            layer: total(amounts, calibration)
            for layer, amounts in self.amounts(calibration).items()
        }


def fit(networks: Sequence[Timed]) -> Calibration:
    """Returns the coefficients fitted to these networks; host_ms and error_percent are 0."""
    names = list(COEFFICIENTS)
    values = np.array([_START[name] for name in names])
    for _ in range(ROUNDS):
        calibration = Calibration(dict(zip(names, values.tolist(), strict=True)))
        rows = [
            (amounts, network.measured_ms[layer])
            for network in networks
            for layer, amounts in network.amounts(calibration).items()
            if layer not in network.held_out
        ]
        matrix = np.array([[amounts.get(name, 0.0) for name in names] for amounts, _ in rows])
        measured = np.array([ms for _, ms in rows])
        error = np.abs(matrix @ values - measured) / (measured + FLOOR_MS)
        weight = np.minimum(1.0, LARGE / np.maximum(error, 1e-9)) / (measured + FLOOR_MS) ** 2
        seen = matrix.any(0)
        model = LinearRegression(positive=True, fit_intercept=False)
        model.fit(matrix[:, seen], measured, sample_weight=weight)
        values[seen] = (values[seen] + model.coef_) / 2
    return Calibration(dict(zip(names, values.tolist(), strict=True)))


def left_out(networks: Mapping[str, Timed]) -> dict[str, Calibration]:
    """Returns, for each network, the fit to all the others."""
    return {
        name: fit([one for other, one in networks.items() if other != name]) for name in networks
    }
