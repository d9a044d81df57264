"""NAS-Bench-Macro: the true accuracy of all networks of a space (Su et al. 2021).

Its file has, for each of the 6,561 networks, the top-1 of three trainings on CIFAR-10 and the
number of multiply-accumulates, which the authors call flops.
"""

import dataclasses
import gzip
import itertools
import json
import pathlib
from typing import Any

import numpy as np

from jaxnas.builtin_spaces import NAS_BENCH_MACRO as SPACE
from jaxnas.latency import FIXED, LatencyTable
from jaxnas.network import block_of, count_block_macs, count_macs, network_of

IMAGE_SIZE, NUM_CLASSES = 32, 10
# Of a budget; what is below does not use it.
LEAST_FRACTION = 0.95
_SOURCE = "give nas-bench-macro_cifar10.json of NAS-Bench-Macro's repository, or it with gzip"


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """True accuracy of all networks.

    Attributes:
      paths: int32 [networks, blocks].
      top1: float64 [networks], mean test accuracy of the trainings, a fraction.
      millions: float64 [networks], multiply-accumulates of an image, in millions.
    """

    paths: np.ndarray
    top1: np.ndarray
    millions: np.ndarray

    def top1_of(self, path: np.ndarray) -> float:
        """Returns the true accuracy of a path, int32 [blocks]."""
        (index,) = np.flatnonzero((self.paths == path).all(1))
        return float(self.top1[index])

    def within(self, budget: float) -> np.ndarray:
        """Returns the indices of the networks that use a budget in millions."""
        return np.flatnonzero(
            (self.millions >= LEAST_FRACTION * budget) & (self.millions <= budget)
        )

    def best_top1(self, budget: float) -> float:
        """Returns the greatest true accuracy of the networks of at most a budget in millions."""
        return float(self.top1[self.millions <= budget].max())


def read_benchmark(file: pathlib.Path) -> Benchmark:
    """Reads the benchmark's file, JSON or JSON with gzip.

    Raises:
      ValueError: the file cannot be read, lacks a network, or counts the operations of one
        differently; the message names the file and the remedy.
    """
    try:
        content = file.read_bytes()
        document = json.loads(gzip.decompress(content) if file.suffix == ".gz" else content)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"--benchmark={file} cannot be read ({error}): {_SOURCE}") from error
    paths, top1, millions = [], [], []
    for digits in itertools.product("012", repeat=len(SPACE.blocks)):
        name = "".join(digits)
        path = path_of(name)
        spec = network_of(SPACE, SPACE.arch(path), NUM_CLASSES)
        macs, entry = count_macs(spec, IMAGE_SIZE), _entry(document, name)
        if entry is None or entry[1] != macs:
            raise ValueError(
                f"--benchmark={file}: {'no' if entry is None else 'another'} entry for network "
                f"{name}, of {macs} multiply-accumulates: {_SOURCE}"
            )
        paths.append(path)
        top1.append(entry[0] / 100)
        millions.append(macs / 1e6)
    return Benchmark(np.array(paths), np.array(top1), np.array(millions))


def path_of(name: str) -> np.ndarray:
    """Returns the path, int32 [blocks], of a network as the benchmark names it, such as 02012100.

    0 is skip, or the projection where the block changes the shape; 1 is k3e3, 2 is k5e6.
    """
    tokens = [
        {"0": "-" if block.allows_skip else "f1e1", "1": "k3e3", "2": "k5e6"}[digit]
        for block, digit in zip(SPACE.blocks, name, strict=True)
    ]
    return SPACE.path(SPACE.parse(" ".join(tokens)))


def name_of(path: np.ndarray) -> str:
    """Returns the benchmark's name of a path; the inverse of `path_of`."""
    digits = {"-": "0", "f1e1": "0", "k3e3": "1", "k5e6": "2"}
    return "".join(digits[str(candidate)] for candidate in SPACE.arch(path))


def macs_table() -> LatencyTable:
    """Returns a table that counts multiply-accumulates: a million stands for 1 ms."""
    entries = np.full(SPACE.allowed.shape, np.inf)
    size = IMAGE_SIZE // SPACE.stem_stride
    for row, block in enumerate(SPACE.blocks):
        for column in np.flatnonzero(SPACE.allowed[row]):
            candidate = SPACE.candidates[column]
            entries[row, column] = (
                0.0
                if candidate.is_skip
                else count_block_macs(block_of(block, candidate), size) / 1e6
            )
        size = -(-size // block.stride)
    path = path_of("0" * len(SPACE.blocks))
    macs = count_macs(network_of(SPACE, SPACE.arch(path), NUM_CLASSES), IMAGE_SIZE)
    variable = entries[np.arange(len(path)), path].sum()
    fixed = dict.fromkeys(FIXED, 0.0) | {"stem": macs / 1e6 - variable}
    return LatencyTable(
        space=SPACE.name,
        device="million multiply-accumulates",
        kind="estimated",
        image_size=IMAGE_SIZE,
        num_classes=NUM_CLASSES,
        precision="f32",
        fixed_ms=fixed,
        candidate_ms=entries,
    )


def _entry(document: Any, name: str) -> tuple[float, int] | None:
    """Returns a network's top-1 in per cent and its operations; None if they are not there."""
    try:
        top1, macs = document[name]["mean_acc"], document[name]["flops"]
    except (KeyError, TypeError):
        return None
    numbers = all(isinstance(value, int | float) for value in (top1, macs))
    return (float(top1), int(macs)) if numbers else None
