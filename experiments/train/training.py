"""Parameters of a training."""

import dataclasses

from experiments.runs.config import RISE_EPOCHS
from jaxnas import train_steps
from jaxnas.pixels import Precision


@dataclasses.dataclass(frozen=True)
class Training:
    """Parameters of a training, with the names, units and meaning of experiments.train's flags."""

    image_size: int
    train_image_size: int
    epochs: int
    deployment_epochs: int
    warmup_epochs: int
    batch_size: int
    data_workers: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    dropout: float
    ema_decay: float
    precision: Precision
    batch_norm_group: int
    seed: int
    checkpoint_seconds: int

    def phases(self) -> list[tuple[int, int]]:
        """Returns (image size in px, epochs) of each part; the last is at the deployment size."""
        if self.train_image_size == self.image_size:
            return [(self.image_size, self.epochs)]
        phases = [
            (self.train_image_size, self.epochs - self.deployment_epochs),
            (self.image_size, self.deployment_epochs),
        ]
        return [phase for phase in phases if phase[1]]

    def scaled(self, factor: float) -> "Training":
        """Returns this training with a multiple of the learning rate, of a larger batch if > 1."""
        rise = min(RISE_EPOCHS, self.phases()[0][1] - 1) if factor > 1 else 0
        return dataclasses.replace(
            self,
            learning_rate=self.learning_rate * factor,
            warmup_epochs=max(self.warmup_epochs, rise),
        )

    def epoch_steps(self, examples: int, dataset: str, flag: str = "batch_size") -> int:
        """Returns the steps of an epoch; raises ValueError if a batch exceeds the examples."""
        if self.batch_size > examples:
            raise ValueError(
                f"--{flag}={self.batch_size}: {dataset} has {examples} examples to "
                f"train on; give at most that many"
            )
        return examples // self.batch_size

    def recipe(self, epoch_steps: int) -> train_steps.Recipe:
        """Returns the recipe, with epochs converted to steps."""
        *before, (_, last_epochs) = self.phases()
        return train_steps.Recipe(
            steps=self.epochs * epoch_steps,
            last_steps=last_epochs * epoch_steps if before else 0,
            warmup_steps=self.warmup_epochs * epoch_steps,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            label_smoothing=self.label_smoothing,
            dropout=self.dropout,
            ema_decay=self.ema_decay,
            precision=self.precision,
            batch_norm_group=self.batch_norm_group or None,
        )
