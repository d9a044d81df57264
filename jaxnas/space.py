"""Search spaces of MBConv and fused MBConv blocks, and the text form of an architecture.

A `Space` is a table: fixed first layers, a row of searchable blocks, fixed last layers. All blocks
have the same candidates in the same order, of which a block may allow only some; skip is allowed
only where the block keeps its shape. An architecture is one candidate per block:

    k5e6 f3e4 - k7e6 ...      MBConv of kernel 5 and expansion 6, fused of 3 and 4, skip, ...
"""

import dataclasses
import itertools
import math
import re
import typing
from collections.abc import Iterator, Sequence

import numpy as np

from jaxnas.padding import Padding
from jaxnas.pixels import Normalization

Activation = typing.Literal["relu6", "relu"]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Choice for a block.

    Attributes:
      kernel: size of the depthwise kernel of an MBConv, or of the dense one of a fused MBConv; 0 is
        skip.
      expansion: width inside the block over its input's.
      fused: whether one dense convolution replaces the MBConv's expansion and depthwise convolution
        (Gupta and Akin 2020). With expansion 1 it is the whole block; with kernel 1 as well it is a
        projection, without activation: the least that changes a shape.
    """

    kernel: int
    expansion: int
    fused: bool = False

    @property
    def is_skip(self) -> bool:
        return self.kernel == 0

    def __str__(self) -> str:
        return (
            "-" if self.is_skip else f"{'f' if self.fused else 'k'}{self.kernel}e{self.expansion}"
        )


SKIP = Candidate(0, 0)
MOST_CHANNELS, MOST_BLOCKS = 8192, 256  # limits of a space in a file

Arch = tuple[Candidate, ...]


def parse_candidate(token: str) -> Candidate:
    """Parses `k5e6`, `f3e4` or `-`; raises ValueError that says what is allowed."""
    match = re.fullmatch(r"([kf])(\d{1,4})e(\d{1,4})", token)
    candidate = (
        SKIP
        if token == "-"
        else Candidate(int(match[2]), int(match[3]), match[1] == "f")
        if match
        else None
    )
    if candidate is None or str(candidate) != token:
        raise ValueError(
            f"{token!r} is no candidate: give k and f for MBConv and fused MBConv, such as k5e6 or "
            f"f3e4, or - for skip"
        )
    if not candidate.is_skip and (
        candidate.kernel % 2 == 0 or candidate.expansion < (1 if candidate.fused else 2)
    ):
        raise ValueError(
            f"{token!r} has kernel {candidate.kernel} and expansion {candidate.expansion}; give an "
            f"odd kernel and an expansion of 2 or more, or of 1 to a fused MBConv"
        )
    return candidate


@dataclasses.dataclass(frozen=True)
class Block:
    """Searchable block.

    Attributes:
      name: name of the block in every file.
      in_channels, out_channels, stride: shape of the block.
      convolutions: candidates that the block allows besides skip, in the order of the space's.
      activation: activation of its layers.
      padding: padding of its convolutions.
    """

    name: str
    in_channels: int
    out_channels: int
    stride: int
    convolutions: tuple[Candidate, ...]
    activation: Activation = "relu6"
    padding: Padding = "symmetric"

    @property
    def allows_skip(self) -> bool:
        return self.stride == 1 and self.in_channels == self.out_channels


@dataclasses.dataclass(frozen=True)
class Space:
    """Search space.

    Attributes:
      name: name of the space, which latency tables and results record.
      stem_channels: output channels of the 3x3 stem convolution.
      first_channels: output channels of the first block, which is fixed, after the stem.
      first: choice of the first block: an MBConv k3 e1, or a fused one; skip for no such block.
      blocks: searchable blocks, in order.
      head_channels: output channels of the last 1x1 convolution, before pooling.
      candidates: choices of every block, in the order of the columns of α and of tables.
      stem_stride: stride of the stem.
      normalization: what makes pixels the networks' input.
    """

    name: str
    stem_channels: int
    first_channels: int
    blocks: tuple[Block, ...]
    head_channels: int
    candidates: tuple[Candidate, ...]
    first: Candidate = Candidate(3, 1)
    stem_stride: int = 2
    normalization: Normalization = Normalization()

    @property
    def downsampling(self) -> int:
        """Factor between the size of an image and that of the last blocks."""
        return self.stem_stride * math.prod(block.stride for block in self.blocks)

    @property
    def activation(self) -> Activation:
        """Activation of all layers."""
        return self.blocks[0].activation

    @property
    def padding(self) -> Padding:
        """Padding of all convolutions."""
        return self.blocks[0].padding

    @property
    def convolutions(self) -> tuple[Candidate, ...]:
        """Candidates that have weights: all but skip, which is last."""
        return tuple(c for c in self.candidates if not c.is_skip)

    @property
    def allowed(self) -> np.ndarray:
        """Valid mask, bool [blocks, candidates]: False where a block does not allow a candidate."""
        return np.array([[self._allows(b, c) for c in self.candidates] for b in self.blocks])

    def _allows(self, block: Block, candidate: Candidate) -> bool:
        return block.allows_skip if candidate.is_skip else candidate in block.convolutions

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yields (start, length) of each sequence of equal blocks that keep their shape, in order.

        A block that changes it is a sequence of its own.
        """
        start = 0
        for _, group in itertools.groupby(
            self.blocks,
            key=lambda b: dataclasses.replace(b, name="" if b.allows_skip else b.name),
        ):
            length = len(list(group))
            yield start, length
            start += length

    def parse(self, text: str) -> Arch:
        """Parses the text form of an architecture strictly; `format_arch` is the inverse.

        Raises:
          ValueError: the text has an unknown token, a wrong length, or a candidate that its block
            does not allow; the message names the block.
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
            by_token = {str(candidate): candidate for candidate in self.candidates}
            if token not in by_token:
                raise ValueError(
                    f"{block.name}: unknown token {token!r}, allowed are {self._tokens()}"
                )
            arch.append(by_token[token])
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
            if not self._allows(block, candidate):
                raise ValueError(
                    f"{block.name}: {candidate} is not allowed in this block, allowed are "
                    f"{format_arch(block.convolutions)}" + " -" * block.allows_skip
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
    candidates: Sequence[Sequence[str]] | None = None,
    first_block: str = "k3e1",
    stem_stride: int = 2,
    activation: Activation = "relu6",
    padding: Padding = "symmetric",
) -> Space:
    """Returns a space of stages; the first block of a stage has its stride and changes the width.

    Args:
      stem, first, head: output channels of the first layers and of the last convolution.
      widths, counts, strides: output channels, number of blocks and stride of each stage.
      kernels, expansions: the MBConvs that every block allows, each kernel with each expansion.
      candidates: the candidates of each stage instead, such as [["f3e1", "f3e4"], ["k5e6"]]; one
        list for all stages may stand alone. Skip is added where shapes stay.
      first_block: the first block, of expansion 1: k3e1, or fused as f3e1; or - for none.
      stem_stride: stride of the stem, 1 or 2.
      activation: activation of all layers, relu6 or relu.
      padding: padding of all convolutions, symmetric or same.

    Raises:
      ValueError: `widths`, `counts` and `strides` (and `candidates`) differ in length, a kernel is
        even, or an expansion is below 2; or a token is no candidate of a stage; or there is no
        first block and its channels are not the stem's, or every block may be skipped.
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
    convolutions = [c for k in (3, 5, 7) for c in (Candidate(k, 1), Candidate(k, 1, True))]
    first_choices = {str(c): c for c in (*convolutions, SKIP)}
    if first_block not in first_choices:
        raise ValueError(
            f"{name}: the first block is {first_block!r}; give one of {', '.join(first_choices)}"
        )
    if first_choices[first_block].is_skip and first != stem:
        raise ValueError(
            f"{name}: first is {first} without a first block; give the stem's {stem} channels"
        )
    for key, value, allowed in (
        ("stem_stride", stem_stride, (1, 2)),
        ("activation", activation, typing.get_args(Activation)),
        ("padding", padding, typing.get_args(Padding)),
    ):
        if value not in allowed:
            raise ValueError(f"{name}: {key} is {value!r}; give {' or '.join(map(str, allowed))}")
    if candidates is None:
        stages = [[Candidate(k, e) for k in kernels for e in expansions]] * len(widths)
    else:
        stages = [_stage_candidates(name, tokens) for tokens in candidates]
        stages = stages * len(widths) if len(stages) == 1 else stages
    if len(stages) != len(widths):
        raise ValueError(
            f"{name}: candidates are given for {len(stages)} stages of {len(widths)}; give a list "
            f"for each stage, or one for all"
        )
    blocks: list[Block] = []
    channels = first
    every = tuple(dict.fromkeys(itertools.chain(*stages)))
    for width, count, stride, stage in zip(widths, counts, strides, stages, strict=True):
        for i in range(count):
            blocks.append(
                Block(
                    f"block{len(blocks):02d}",
                    channels,
                    width,
                    stride if i == 0 else 1,
                    tuple(c for c in every if c in stage),
                    activation,
                    padding,
                )
            )
            channels = width
    if first_choices[first_block].is_skip and all(block.allows_skip for block in blocks):
        raise ValueError(
            f"{name}: all blocks may be skipped, which would leave none; give a first block, or a "
            f"stage that changes the shape"
        )
    return Space(
        name,
        stem,
        first,
        tuple(blocks),
        head,
        (*every, SKIP),
        first_choices[first_block],
        stem_stride,
    )


def _stage_candidates(name: str, tokens: Sequence[str]) -> list[Candidate]:
    try:
        stage = [parse_candidate(token) for token in tokens]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not stage or SKIP in stage or len(set(stage)) < len(stage):
        raise ValueError(
            f"{name}: a stage's candidates are {' '.join(tokens) or 'none'}; give each candidate "
            f"once, and no skip, which is added where shapes stay"
        )
    return stage
