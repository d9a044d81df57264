"""What the next best choice of each block would be worth, with the supernet's weights.

For each block one network is scored that differs from the derived one in this block alone: it has
the most probable other candidate. Nothing is trained. As in `pareto`, α was trained on the examples
that score the networks, so the scores only compare them.
"""

from typing import Any

import numpy as np

from experiments.runs.run_folder import Workdir
from experiments.search.supernet_trainer import Trainer
from jaxnas import data

FILE = "choices.json"


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
    space, alpha = trainer.space, np.asarray(trainer.state.alpha)
    path = space.path(space.parse(architecture))
    others = np.where(space.allowed, alpha, -np.inf)
    others[np.arange(len(path)), path] = -np.inf
    probabilities = trainer.probabilities(alpha).tolist()
    blocks: dict[str, Any] = {}
    with trainer.progress.phase("choices", total=1 + len(path)) as phase:
        top1 = trainer.inherited_top1(path)
        for row, block in enumerate(space.blocks):
            phase.update(1 + row, f"{block.name} of {architecture}")
            blocks[block.name] = {
                "probabilities": {
                    str(candidate): p
                    for candidate, p, allowed in zip(
                        space.candidates, probabilities[row], space.allowed[row], strict=True
                    )
                    if allowed
                },
                "next_best": None,
            }
            if np.isfinite(others[row]).any():
                changed = path.copy()
                changed[row] = others[row].argmax()
                blocks[block.name]["next_best"] = {
                    "candidate": str(space.candidates[changed[row]]),
                    "inherited_top1": trainer.inherited_top1(changed),
                }
    trainer.workdir.write_json(
        FILE,
        {
            "schema": 1,
            "architecture": architecture,
            "inherited_top1": top1,
            "split": f"held out of {data.dataset(trainer.config.dataset).train_split} for α",
            "examples": len(trainer.parts.alpha),
            "image_size": trainer.config.search_image_size,
            "blocks": blocks,
        },
    )


def is_weighed(workdir: Workdir, architecture: str) -> bool:
    """Returns whether an earlier start of the run wrote the file for this architecture."""
    known = workdir.read_json(FILE)
    return known is not None and known["architecture"] == architecture
