"""Scaling of pixels for networks, without a shift; the same in JAX and in exported files."""

import chex
import jax
import jax.numpy as jnp

# A power of two, so that folding it into the stem's convolution is exact. No mean is subtracted: it
# could not be folded, since the convolution pads with zeros, and would cost a stage of its own on
# the MyriadX (0.13 ms at 224 px). The stem's batch norm removes any constant.
PIXEL_SCALE = 1 / 64


def from_pixels(pixels: jax.Array, dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
    """Converts pixels, uint8 [batch, size, size, 3], to a network's input in `dtype`."""
    return pixels.astype(dtype) * PIXEL_SCALE


def check_batch(batch: dict[str, jax.Array]) -> None:
    """Checks shapes and dtypes of a batch: pixels as above, labels int32 [batch].

    Raises:
      AssertionError: one differs; chex's message names it.
    """
    chex.assert_rank(batch["image"], 4)
    chex.assert_axis_dimension(batch["image"], 3, 3)
    chex.assert_shape(batch["label"], batch["image"].shape[:1])
    chex.assert_type([batch["image"], batch["label"]], [jnp.uint8, jnp.int32])
