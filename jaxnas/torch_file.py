"""Reads the tensors of a file of PyTorch, without PyTorch.

Such a file is a pickle, which could run any function on the machine that reads it. Here it can make
tensors and ordered dictionaries and nothing else. The format is that of `torch.save` before
PyTorch 1.6: five pickles, then each storage's number of elements and its bytes.
"""

import collections
import dataclasses
import io
import pickle
from typing import Any

import numpy as np

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """Tensor whose storage is read later; strides count elements."""

    storage: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    """Unpickler of tensors and ordered dictionaries."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of a tensor")

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype]:
        _, dtype, key, *_ = pid
        return str(key), np.dtype(dtype)


def _tensor(storage: tuple[str, np.dtype], offset: int, size: Any, stride: Any, *_: Any) -> _Tensor:
    return _Tensor(*storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def read_tensors(content: bytes) -> dict[str, np.ndarray]:
    """Returns the tensors of a file's dictionary by name: float32 or int64.

    Args:
      content: bytes of the file.

    Raises:
      ValueError: the file is of another format, is damaged, or has anything but tensors.
    """
    file = io.BytesIO(content)
    try:
        head = [_Unpickler(file).load() for _ in range(2)]
        if head != [_MAGIC, _PROTOCOL]:
            raise pickle.UnpicklingError("it does not begin as a file of PyTorch before 1.6")
        _Unpickler(file).load()  # facts about the machine that wrote it
        tensors, keys = _Unpickler(file).load(), _Unpickler(file).load()
        if not isinstance(tensors, dict) or not all(
            isinstance(tensor, _Tensor) for tensor in tensors.values()
        ):
            raise pickle.UnpicklingError("it is no dictionary of tensors")
        dtypes = {tensor.storage: tensor.dtype for tensor in tensors.values()}
        storages = {}
        for key in keys:
            count = int.from_bytes(file.read(8), "little")
            storages[key] = np.frombuffer(content, dtypes[key], count, file.tell())
            file.seek(storages[key].nbytes, io.SEEK_CUR)
        return {name: _values(tensor, storages[tensor.storage]) for name, tensor in tensors.items()}
    except Exception as error:  # a damaged pickle raises errors of any kind
        raise ValueError(f"no tensors can be read: {error}") from error


def _values(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    places = np.array(tensor.offset)
    for size, stride in zip(tensor.shape, tensor.strides, strict=True):
        places = places[..., None] + stride * np.arange(size)
    return storage[places]
