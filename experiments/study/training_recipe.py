"""Recipe by which every network of a study is trained from scratch."""

import dataclasses
from typing import Any

from experiments.search.config import Config
from experiments.train.config import TrainConfig


def training_size(config: Config) -> int:
    """Returns the image size in px at which every network of a study is trained and tested."""
    return config.train_image_size or config.image_size


def recipe(config: Config) -> dict[str, Any]:
    """Returns the training recipe of every network of a study.

    It is the default of experiments.train, except that the study's flags set epochs, weight decay,
    label smoothing and precision.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    return {
        **{
            name: defaults[name]
            for name in ("warmup_epochs", "learning_rate", "dropout", "ema_decay")
        },
        "epochs": config.train_epochs,
        **{
            name: getattr(config, name) for name in ("weight_decay", "label_smoothing", "precision")
        },
    }
