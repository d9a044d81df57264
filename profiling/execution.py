"""Devices that run networks and do not only estimate them."""

import pathlib
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

from profiling.errors import CompileError
from profiling.measurement import Device
from profiling.onnx_file import read_network


class Executor(Device, Protocol):
    """A device that runs networks."""

    def scores(self, file: pathlib.Path, images: Iterable[np.ndarray]) -> np.ndarray:
        """Runs a network of one input and one output on images, one image an inference.

        Args:
          file: ONNX; or OpenVINO IR, which CPU, GPU and NPU read.
          images: at least one, each of the input's shape without its batch of 1 and of its dtype.

        Returns:
          float32 [images, elements of an output].

        Raises:
          CompileError: the device cannot read the file, or its compiler refuses the network.
          DeviceUnavailable: the device fails, or is gone.
        """


def onnx_bytes(file: pathlib.Path, device: str) -> bytes:
    """The bytes of a file for a device that reads ONNX alone; raises CompileError for another."""
    if file.suffix != ".onnx":
        raise CompileError(f"{file}: {device} is given ONNX files; give the network's .onnx")
    try:
        return read_network(file)
    except ValueError as error:
        raise CompileError(str(error)) from error


def batched(images: Iterable[np.ndarray], max_bytes: int) -> Iterator[np.ndarray]:
    """Images [count, ...] of max_bytes at most, one image at least."""
    batch: list[np.ndarray] = []
    for image in images:
        if batch and (len(batch) + 1) * image.nbytes > max_bytes:
            yield np.stack(batch)
            batch = []
        batch.append(image)
    if batch:
        yield np.stack(batch)
