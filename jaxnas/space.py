"""Search spaces of inverted-residual (MBConv) networks, and the text form of an architecture.

A `Space` is a table: fixed first layers, a row of searchable blocks, fixed last layers. Every block
has the same candidates in the same order; skip is allowed only where the block keeps its shape. An
architecture is one candidate per block:

    k5e6 k3e3 - k7e6 ...      kernel 5 expansion 6, kernel 3 expansion 3, skip, ...
"""

import dataclasses
import inspect
import itertools
import json
import pathlib
import re
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from jaxnas.json_file import read_object


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Choice for a block: an MBConv with this depthwise kernel and expansion, or skip (0, 0)."""

    kernel: int
    expansion: int

    @property
    def is_skip(self) -> bool:
        return self.kernel == 0

    def __str__(self) -> str:
        return "-" if self.is_skip else f"k{self.kernel}e{self.expansion}"


SKIP = Candidate(0, 0)
MOST_CHANNELS, MOST_BLOCKS = 8192, 256  # limits of a space in a file

Arch = tuple[Candidate, ...]


@dataclasses.dataclass(frozen=True)
class Block:
    """Searchable block: its name in every file, and its shape."""

    name: str
    in_channels: int
    out_channels: int
    stride: int

    @property
    def allows_skip(self) -> bool:
        return self.stride == 1 and self.in_channels == self.out_channels


@dataclasses.dataclass(frozen=True)
class Space:
    """Search space.

    Attributes:
      name: name of the space, which latency tables and results record.
      stem_channels: output channels of the 3x3 stride-2 stem convolution.
      first_channels: output channels of the first block, a fixed MBConv k3 e1 after the stem.
      blocks: searchable blocks, in order.
      head_channels: output channels of the last 1x1 convolution, before pooling.
      candidates: choices of every block, in the order of the columns of α and of tables.
    """

    name: str
    stem_channels: int
    first_channels: int
    blocks: tuple[Block, ...]
    head_channels: int
    candidates: tuple[Candidate, ...]

    @property
    def convolutions(self) -> tuple[Candidate, ...]:
        """Candidates that have weights: all but skip, which is last."""
        return tuple(c for c in self.candidates if not c.is_skip)

    @property
    def allowed(self) -> np.ndarray:
        """Valid mask, bool [blocks, candidates]: False where a block may not skip."""
        return np.array(
            [[b.allows_skip or not c.is_skip for c in self.candidates] for b in self.blocks]
        )

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yields (start, length) of each sequence of consecutive blocks of one shape, in order."""
        start = 0
        for _, group in itertools.groupby(
            self.blocks, key=lambda b: (b.in_channels, b.out_channels, b.stride)
        ):
            length = len(list(group))
            yield start, length
            start += length

    def parse(self, text: str) -> Arch:
        """Parses the text form of an architecture strictly; `format_arch` is the inverse.

        Raises:
          ValueError: the text has an unknown token, a wrong length, or a skip where shapes differ;
            the message names the block.
        """
        tokens = text.split()
        if len(tokens) != len(self.blocks):
            short = len(tokens) < len(self.blocks)
            where = (
                f"none for {self.blocks[len(tokens)].name}"
                if short
                else f"too many after {self.blocks[-1].name}"
            )
            raise ValueError(
                f"architecture has {len(tokens)} tokens, the {self.name} space has "
                f"{len(self.blocks)} blocks ({where}): give one of {self._tokens()} for each"
            )
        arch = []
        for block, token in zip(self.blocks, tokens, strict=True):
            match = re.fullmatch(r"k(\d+)e(\d+)", token)
            candidate = (
                SKIP if token == "-" else Candidate(int(match[1]), int(match[2])) if match else None
            )
            if candidate not in self.candidates or str(candidate) != token:
                raise ValueError(
                    f"{block.name}: unknown token {token!r}, allowed are {self._tokens()}"
                )
            arch.append(candidate)
        self.path(arch)
        return tuple(arch)

    def path(self, arch: Sequence[Candidate]) -> np.ndarray:
        """Returns an architecture as int32 [blocks], the index of each block's candidate.

        Raises:
          ValueError: as `parse`.
        """
        if len(arch) != len(self.blocks):
            raise ValueError(
                f"architecture has {len(arch)} blocks, the {self.name} space has {len(self.blocks)}"
            )
        for block, candidate in zip(self.blocks, arch, strict=True):
            if candidate not in self.candidates:
                raise ValueError(
                    f"{block.name}: {candidate} is not in the {self.name} space, "
                    f"allowed are {self._tokens()}"
                )
            if candidate.is_skip and not block.allows_skip:
                raise ValueError(
                    f"{block.name}: skip is not allowed, the block maps {block.in_channels} "
                    f"channels to {block.out_channels} at stride {block.stride}; choose a "
                    f"convolution for it"
                )
        return np.array([self.candidates.index(c) for c in arch], np.int32)

    def arch(self, path: Sequence[int] | np.ndarray) -> Arch:
        """Returns the architecture of candidate indices [blocks]; raises ValueError like `path`."""
        arch = tuple(self.candidates[int(i)] for i in path)
        self.path(arch)
        return arch

    def random_path(self, rng: np.random.Generator) -> np.ndarray:
        """Draws a path int32 [blocks] uniformly over the allowed candidates of each block."""
        return np.array([rng.choice(np.flatnonzero(row)) for row in self.allowed], np.int32)

    def _tokens(self) -> str:
        return " ".join(map(str, self.candidates))


def format_arch(arch: Sequence[Candidate]) -> str:
    """Returns the text form of an architecture, one token per block."""
    return " ".join(map(str, arch))


def staged_space(
    name: str,
    *,
    stem: int,
    first: int,
    widths: Sequence[int],
    counts: Sequence[int],
    strides: Sequence[int],
    head: int,
    kernels: Sequence[int] = (3, 5, 7),
    expansions: Sequence[int] = (3, 6),
) -> Space:
    """Returns a space of stages; the first block of a stage has its stride and changes the width.

    Raises:
      ValueError: `widths`, `counts` and `strides` differ in length, a kernel is even, or an
        expansion is below 2.
    """
    if not len(widths) == len(counts) == len(strides):
        raise ValueError(
            f"{name}: widths, counts and strides are given for {len(widths)}, "
            f"{len(counts)} and {len(strides)} stages; give one of each per stage"
        )
    if any(k % 2 == 0 for k in kernels) or min(expansions) < 2:
        raise ValueError(
            f"{name}: kernels {tuple(kernels)} and expansions {tuple(expansions)}; "
            f"give odd kernels and expansions of 2 or more"
        )
    blocks: list[Block] = []
    channels = first
    for width, count, stride in zip(widths, counts, strides, strict=True):
        for i in range(count):
            blocks.append(
                Block(f"block{len(blocks):02d}", channels, width, stride if i == 0 else 1)
            )
            channels = width
    candidates = [Candidate(k, e) for k in kernels for e in expansions]
    return Space(name, stem, first, tuple(blocks), head, (*candidates, SKIP))


# Cai, Zhu, Han: ProxylessNAS (ICLR 2019), §4.2, and the search network of its official repository.
PROXYLESS = staged_space(
    "proxyless",
    stem=32,
    first=16,
    widths=(24, 40, 80, 96, 192, 320),
    counts=(4, 4, 4, 4, 4, 1),
    strides=(2, 2, 2, 1, 2, 1),
    head=1280,
)

# The same kind of network at a fraction of the size, to try every phase in a minute or two.
PROXYLESS_TINY = staged_space(
    "proxyless_tiny", stem=8, first=8, widths=(16, 24), counts=(2, 3), strides=(2, 2), head=64
)

SPACES = {space.name: space for space in (PROXYLESS, PROXYLESS_TINY)}


def find_space(name: str) -> Space:
    """Returns the space of this name, or the one that a JSON file describes.

    Args:
      name: one of SPACES, or the path of a `.json` file that holds an object of `staged_space`'s
        arguments. Its space is named after the file and its content, so a latency table made before
        a change of the file is refused after it.

    Raises:
      ValueError: the name is unknown, or the file describes no space.
    """
    if name in SPACES:
        return SPACES[name]
    if not name.endswith(".json"):
        raise ValueError(
            f"unknown space {name!r}, allowed are {', '.join(SPACES)}, or a JSON file "
            f"that describes one"
        )
    return _read_space(pathlib.Path(name))


def _read_space(file: pathlib.Path) -> Space:
    document = read_object(file, f"give a JSON file, or one of {', '.join(SPACES)}")
    parameters = inspect.signature(staged_space).parameters
    keys = [key for key in parameters if key != "name"]
    optional = [key for key in keys if parameters[key].default is not inspect.Parameter.empty]
    required = set(keys) - set(optional)
    if not required <= set(document) <= set(keys):
        raise ValueError(
            f"--space={file} describes no space: give an object with "
            f"{', '.join(keys)} and nothing else; {' and '.join(optional)} may be "
            f"left out"
        )
    for key, value in document.items():
        numbers = value if isinstance(value, list) else [value]
        if (
            isinstance(value, list) != (key not in ("stem", "first", "head"))
            or not numbers
            or any(
                type(number) is not int or not 1 <= number <= MOST_CHANNELS for number in numbers
            )
        ):
            raise ValueError(
                f"--space={file}: {key} is {value!r}; give stem, first and head as "
                f"whole numbers from 1 to {MOST_CHANNELS} and the others as lists of "
                f"them"
            )
    if sum(document["counts"]) > MOST_BLOCKS:
        raise ValueError(
            f"--space={file} has {sum(document['counts'])} blocks; {MOST_BLOCKS} are allowed"
        )
    text = json.dumps(document, sort_keys=True)
    return staged_space(f"{file.stem}-{zlib.crc32(text.encode()):08x}", **document)
