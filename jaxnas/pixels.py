"""Input of networks: precision, and normalization, the same in JAX and in exported files."""

import dataclasses
from typing import Literal

import chex
import jax
import jax.numpy as jnp

Precision = Literal["f32", "bf16"]
PRECISIONS = {"f32": jnp.float32, "bf16": jnp.bfloat16}  # of the input and products of layers


@dataclasses.dataclass(frozen=True)
class Normalization:
    """A network's input by its pixels, 0 to 255: (pixels - mean) / scale.

    Networks of this project have no mean: the stem's batch norm removes any constant, and a mean
    costs the MyriadX a stage of its own. It cannot be folded into the stem's convolution, which
    pads with zeros. Published weights require theirs.

    Attributes:
      mean: mean of all channels, a whole number, so that the subtraction is exact in FP16.
      scale: a power of two, so that the division is exact, folded into the stem's kernel too.
    """

    mean: int = 0
    scale: int = 64


SCALED = Normalization()


def from_pixels(
    pixels: jax.Array,
    dtype: jax.typing.DTypeLike = jnp.float32,
    normalization: Normalization = SCALED,
) -> jax.Array:
    """Converts pixels, uint8 [batch, size, size, 3], to a network's input in `dtype`."""
    x = pixels.astype(dtype)
    if normalization.mean:
        x = x - normalization.mean
    return x * (1 / normalization.scale)


def check_batch(batch: dict[str, jax.Array]) -> None:
    """Checks shapes and dtypes of a batch: pixels as above, labels int32 [batch].

    Raises:
      AssertionError: one differs; chex's message names it.
    """
    chex.assert_rank(batch["image"], 4)
    chex.assert_axis_dimension(batch["image"], 3, 3)
    chex.assert_shape(batch["label"], batch["image"].shape[:1])
    chex.assert_type([batch["image"], batch["label"]], [jnp.uint8, jnp.int32])
