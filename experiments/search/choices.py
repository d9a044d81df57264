"""What the next best choice of each block would be worth, with the supernet's weights.

For each block one network is scored that differs from the derived one in this block alone: it has
the most probable other candidate. Nothing is trained. As in `pareto`, α was trained on the examples
that score the networks, so the scores only compare them.
"""

from typing import Any

import numpy as np

from experiments.runs.run_folder import Workdir
from experiments.search.path_scores import batch_scores
from experiments.search.supernet_trainer import Trainer
from jaxnas import data

FILE = "choices.json"
_BATCHES = 2  # of held-out examples, which take five seconds in the quick start


def weigh(trainer: Trainer, architecture: str) -> None:
    """Scores the next best choice of each block; writes choices.json.

    The trainer's state is not changed. A run that is stopped before the file is written repeats
    this part.

    Args:
      trainer: trainer at the end of its search.
      architecture: text of the derived architecture.
    """
    if is_weighed(trainer.workdir, architecture):
        return
    space, config = trainer.space, trainer.config
    alpha = np.asarray(trainer.state.alpha)
    path = space.path(space.parse(architecture))
    others = _next_best(np.where(space.allowed, alpha, -np.inf), path)
    changed = [np.where(np.arange(len(path)) == row, others[row], path) for row in others]
    batches = min(_BATCHES, max(1, len(trainer.parts.alpha) // config.batch_size))
    scores: list[dict[str, float]] = []
    with trainer.progress.phase("choices", total=1 + len(changed)) as phase:
        for top1, loss in batch_scores(trainer, [path, *changed], batches):
            scores.append({"inherited_top1": top1, "inherited_loss": loss})
            phase.update(len(scores), "the next best choice of each block")
    of_others = dict(zip(others, scores[1:], strict=True))
    probabilities = trainer.probabilities(alpha).tolist()
    blocks: dict[str, Any] = {}
    for row, block in enumerate(space.blocks):
        known = zip(space.candidates, probabilities[row], space.allowed[row], strict=True)
        blocks[block.name] = {
            "probabilities": {str(candidate): p for candidate, p, allowed in known if allowed},
            "next_best": {
                "candidate": str(space.candidates[others[row]]),
                **of_others[row],
            }
            if row in others
            else None,
        }
    trainer.workdir.write_json(
        FILE,
        {
            "schema": 1,
            "architecture": architecture,
            **scores[0],
            "split": f"held out of {data.dataset(config.dataset).train_split} for α",
            "examples": min(batches * config.batch_size, len(trainer.parts.alpha)),
            "image_size": config.search_image_size,
            "blocks": blocks,
        },
    )


def is_weighed(workdir: Workdir, architecture: str) -> bool:
    """Returns whether an earlier start of the run wrote the file for this architecture."""
    known = workdir.read_json(FILE)
    return known is not None and known["architecture"] == architecture


def _next_best(alpha: np.ndarray, path: np.ndarray) -> dict[int, int]:
    """Returns the most probable other candidate, by block; none where one alone is allowed.

    Args:
      alpha: [blocks, candidates], -inf where not allowed.
      path: candidate of each block, int32 [blocks].
    """
    alpha = alpha.copy()
    alpha[np.arange(len(path)), path] = -np.inf
    return {row: int(one.argmax()) for row, one in enumerate(alpha) if np.isfinite(one).any()}
