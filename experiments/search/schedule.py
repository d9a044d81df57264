"""Boundaries of the phases of a search."""

import dataclasses

from experiments.search.config import Config


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Boundaries of the phases of a search, in weight steps.

    Attributes:
      epoch_steps: number of steps in an epoch.
      shared_end: last step in which the candidates' shared function is trained; 0 for none.
      warmup_end: last step of the warm-up.
      end: last step of the search.
    """

    epoch_steps: int
    shared_end: int
    warmup_end: int
    end: int

    @classmethod
    def of(cls, config: Config, examples: int) -> "Schedule":
        """Returns the schedule for a number of training examples.

        Raises:
          ValueError: the batch is larger than the number of examples.
        """
        if config.batch_size > examples:
            raise ValueError(
                f"--batch_size={config.batch_size}: {config.dataset} has {examples} "
                f"examples for the weights; give at most that many"
            )
        epoch = examples // config.batch_size
        warmup = config.warmup_epochs * epoch
        shared = warmup // 2 if config.initialisation == "shared" else 0
        return cls(epoch, shared, warmup, warmup + config.search_epochs * epoch)
