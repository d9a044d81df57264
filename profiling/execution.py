"""Helpers of the devices that run networks."""

import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from profiling.errors import CompileError
from profiling.onnx_file import read_network


def onnx_bytes(file: pathlib.Path, device: str) -> bytes:
    """Reads a file for a device that accepts ONNX only.

    Args:
      file: file to read.
      device: name of the device, for error messages.

    Raises:
      CompileError: the file is not an ONNX file, or not a valid network.
    """
    if file.suffix != ".onnx":
        raise CompileError(f"{file}: {device} accepts only ONNX files; give the network's .onnx")
    try:
        return read_network(file)
    except ValueError as error:
        raise CompileError(str(error)) from error


def batched(images: Iterable[np.ndarray], max_bytes: int) -> Iterator[np.ndarray]:
    """Yields batches [count, ...] of at most `max_bytes`, but of at least one image."""
    batch: list[np.ndarray] = []
    for image in images:
        if batch and (len(batch) + 1) * image.nbytes > max_bytes:
            yield np.stack(batch)
            batch = []
        batch.append(image)
    if batch:
        yield np.stack(batch)
