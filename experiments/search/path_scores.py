"""Scores of paths with the supernet's weights: the inherited accuracy, on held-out data."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runs.prefetch import Feed, right_answers
from experiments.search.supernet_trainer import Trainer

Tree = Any  # nested dicts of arrays


def inherited_top1(trainer: Trainer, path: np.ndarray) -> float:
    """Returns a path's top-1, as a fraction, with the supernet's weights on held-out data.

    Recalibrates the path's batch statistics; does not change the trainer's state.

    Args:
      path: candidate of each block, int32 [blocks].
    """
    stats = calibrated_stats(trainer, path)
    with trainer.progress.phase("held out", total=1.0) as phase:
        right = right_answers(
            lambda batch: trainer.steps.evaluate(
                trainer.state.params, stats, np.int32(path), batch
            ),
            trainer.parts.alpha,
            trainer.sizes,
            trainer.layout,
            phase.update,
        )
    return float(right.mean())


def batch_scores(
    trainer: Trainer, paths: Sequence[np.ndarray], batches: int
) -> Iterator[tuple[float, float]]:
    """Yields each path's top-1, as a fraction, and loss on held-out data, inherited weights.

    Less exact than `inherited_top1`, and without a program of its own to compile: weight steps
    of learning rate 0 normalize by the statistics of each batch. Does not change the trainer's
    state.

    Args:
      paths: candidate of each block, int32 [blocks].
      batches: number of batches; the same ones for all paths.
    """
    place = trainer.layout.replicate
    feed = Feed(trainer.parts.alpha, trainer.sizes, trainer.layout, 0)
    held_out = [next(feed) for _ in range(batches)]
    feed.close()
    state = jax.tree.map(jnp.copy, trainer.state)  # which a step consumes
    rate = place(np.float32(0))
    for path in paths:
        scores = []
        for batch in held_out:
            state, metrics = trainer.steps.weight(state, batch, place(np.int32(path)), rate)
            scores.append((float(metrics["top1"]), float(metrics["ce"])))
        top1, loss = np.mean(scores, 0).tolist()
        yield top1, loss


def calibrated_stats(trainer: Trainer, path: np.ndarray) -> Tree:
    """Returns running statistics in which a path's are the mean over training batches.

    Computes the batches' statistics without a backward pass. Statistics that training does not
    change are returned as they are.
    """
    if not trainer.config.batch_norm_group:
        return trainer.state.stats
    feed = Feed(trainer.parts.weights, trainer.sizes, trainer.layout, 0)
    stats = trainer.state.stats
    with trainer.progress.phase("calibrate", trainer.config.calibration_batches) as phase:
        for i in range(trainer.config.calibration_batches):
            stats = trainer.steps.recalibrate(
                trainer.state.params, stats, np.int32(path), next(feed), np.float32(i / (i + 1))
            )
            phase.update(i + 1)
    feed.close()
    return stats
