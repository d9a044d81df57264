"""Skips updates that are not finite: one bad batch or overflow must not spoil the weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Tree = Any  # nested dicts of arrays


class Skipped(NamedTuple):
    """Counts of skipped updates, int32 []: all of the run, and those since the last one taken.

    The names are those of metrics.
    """

    skipped: jax.Array
    skipped_in_a_row: jax.Array


def none_skipped() -> Skipped:
    """Returns the counts before the first step."""
    return Skipped(jnp.int32(0), jnp.int32(0))


def is_finite(loss: jax.Array, *trees: Tree) -> jax.Array:
    """Returns whether a loss and the norm of trees such as its gradient are finite, bool []."""
    return jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(trees))


def if_finite(finite: jax.Array, new: Tree, old: Tree) -> Tree:
    """Returns the new tree if `finite`, else the old one."""
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)


def counted(skipped: Skipped, finite: jax.Array) -> Skipped:
    """Returns the counts after one more update, which was taken if `finite`."""
    return Skipped(
        skipped.skipped + ~finite,
        jnp.where(finite, 0, skipped.skipped_in_a_row + 1).astype(jnp.int32),
    )
