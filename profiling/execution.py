"""Devices that run networks and do not only estimate them."""

import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from profiling.errors import CompileError
from profiling.onnx_file import read_network


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
