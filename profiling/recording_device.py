"""A device that stores its measurements."""

import pathlib
from collections.abc import Iterable
from typing import Self

import numpy as np
from absl import logging

from profiling.database import Store, StoreError
from profiling.device import Device, Executor
from profiling.measurement import Measurement, Setup


class Recording:
    """Wrapper of a device that adds every measurement to a store."""

    def __init__(self, device: Device, store: Store):
        self.store = store
        self._device = device

    @property
    def setup(self) -> Setup:
        return self._device.setup

    @property
    def repeats(self) -> int:
        return self._device.repeats

    def measure(self, model: bytes, recipe: str | None = None) -> Measurement:
        """Measures and stores; if storing fails, warns and still returns the measurement.

        Args:
          model: bytes of an ONNX file.
          recipe: description of how the network was made; see `Store.add`.

        Raises:
          CompileError, DeviceUnavailable: as in `Device.measure`.
        """
        measurement = self._device.measure(model)
        try:
            self.store.add(measurement, model, recipe)
        except StoreError as error:
            logging.warning(
                "a measurement of %.3f ms is not stored: %s", measurement.latency_ms, error
            )
        return measurement

    def scores(self, file: pathlib.Path, images: Iterable[np.ndarray]) -> np.ndarray:
        """See `Executor.scores`; the device must be an `Executor`."""
        assert isinstance(self._device, Executor)
        return self._device.scores(file, images)

    def __enter__(self) -> Self:
        self._device.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        self._device.__exit__(*reason)
