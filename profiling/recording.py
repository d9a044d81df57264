"""A device that remembers what it measured."""

import pathlib
from collections.abc import Iterable
from typing import Self

import numpy as np
from absl import logging

from profiling.database import Store, StoreError
from profiling.device import Device, Executor
from profiling.measurement import Measurement, Setup


class Recording:
    """A device whose every measurement goes into a store; in all else the device itself."""

    def __init__(self, device: Device | Executor, store: Store):
        self.store = store
        self._device = device

    @property
    def setup(self) -> Setup:
        return self._device.setup

    @property
    def repeats(self) -> int:
        return self._device.repeats

    def measure(self, model: bytes, recipe: str | None = None) -> Measurement:
        """As the device's; a measurement that cannot be stored is given all the same, and said so.

        Args:
          model: an ONNX network.
          recipe: what it was made from; see `Store.add`.
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
        """As `Executor.scores`, of a device that runs networks."""
        return self._device.scores(file, images)

    def __enter__(self) -> Self:
        self._device.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        self._device.__exit__(*reason)
