"""Flags of a training, read once into a frozen `TrainConfig`.

The defaults train on scikit-learn's handwritten digits. `train_imagenet.flags` has the published
schedule.
"""

import dataclasses
import pathlib
import zlib
from typing import Any

from experiments.runs.config import (
    RunConfig,
    check_epochs,
    check_run,
    default_workdir,
    define_config_flags,
    flag_values,
    option,
)
from experiments.runs.networks import Architecture, find_architecture
from experiments.train.training import Training
from jaxnas import pretrained
from jaxnas.builtin_spaces import SPACES
from jaxnas.space_file import find_space
from jaxnas.zoo import ZOO


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Configuration of a training. Fields are flags, except `architecture`.

    `architecture` and `space` are those of the network that --network and --space name.
    """

    network: str = option(
        None,
        f"Network to train: {', '.join(ZOO)}; the folder of a run; or an architecture, one token "
        f"for each block of --space.",
    )
    architecture: str
    space: str | None = option(
        None,
        f"Space of an architecture: {', '.join(SPACES)}, or a JSON file that describes one; "
        f"unset is proxyless. A run's folder has its own.",
    )
    start: str = option(
        "scratch",
        "scratch: random initial weights. supernet: weights of the search in the folder that "
        "--network names.",
        choices=("scratch", "supernet"),
    )
    weights: pretrained.Weights | None = option(
        None,
        f"Published weights to start from instead of random ones: imagenet, for "
        f"{pretrained.NETWORK}, from the package {pretrained.PACKAGE}. The linear layer is "
        f"fitted to the pictures unless there are {pretrained.NUM_CLASSES} classes.",
        choices=pretrained.WEIGHTS,
    )
    epochs: int = option(20, "Epochs in total, each followed by an evaluation on held-out data.", 1)
    warmup_epochs: int = option(
        0,
        "Number of first epochs in which the learning rate rises linearly to its peak; the "
        "published recipe has none.",
        0,
    )
    learning_rate: float = option(
        0.05, "Peak of the cosine learning rate, scaled by base_batch_size alone.", 0
    )
    dropout: float = option(0.1, "Dropout rate of the features before the classifier.", 0, 0.9)
    ema_decay: float = option(
        0.0,
        "Decay per step of the moving average of weights and statistics that is evaluated and "
        "delivered, such as 0.9999; 0 uses the weights without averaging.",
        0,
        0.999999,
    )

    @property
    def chosen(self) -> Architecture:
        """The architecture to train."""
        return Architecture(self.architecture, self.space)

    @property
    def training(self) -> Training:
        """Parameters of the training."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(Training)}
        size = self.train_image_size or self.image_size
        training = Training(**{**values, "train_image_size": size})
        return training.scaled(self.batch_scale(self.batch_size))

    @property
    def title(self) -> str:
        """Title of the training, for people."""
        name = self.architecture if self.space is None else f"a network of {self.space}"
        start = "from scratch" if self.start == "scratch" else "from the supernet's weights"
        if self.weights is not None:
            start = f"from weights of {self.weights}"
        return f"{name} on {self.dataset}, {start}"

    def identity(self) -> dict[str, Any]:
        """Returns `RunConfig.identity` without `network`, which `architecture` replaces.

        Where training starts from a supernet's weights, the folder of that supernet belongs to it.
        """
        left_out = () if self.start == "supernet" else ("network",)
        return {k: v for k, v in super().identity().items() if k not in left_out}


def define_flags() -> None:
    """Defines the flags of a training."""
    define_config_flags(TrainConfig)


def config_from_flags() -> TrainConfig:
    """Returns the flags as a checked `TrainConfig`.

    Raises:
      ValueError: an invalid value; the message names it, what is allowed and the remedy.
    """
    values = flag_values(TrainConfig)
    if values["network"] is None:
        raise ValueError(
            f"--network is missing: give one of {', '.join(ZOO)}, the folder of a run, or the text "
            f"of an architecture"
        )
    chosen = find_architecture(values["network"], values["space"])
    name = (
        chosen.text
        if chosen.space is None
        else f"{pathlib.Path(chosen.space).stem}-{zlib.crc32(chosen.text.encode()):08x}"
    )
    values["workdir"] = values["workdir"] or default_workdir(
        "train", name, values["dataset"], f"seed{values['seed']}"
    )
    space_name = None if chosen.space is None else find_space(chosen.space).name
    config = TrainConfig(
        **{**values, "architecture": chosen.text, "space": chosen.space},
        space_name=space_name,
    )
    check(config)
    return config


def check(config: TrainConfig) -> None:
    """Raises ValueError for an invalid configuration, before any work."""
    if config.start == "supernet" and not pathlib.Path(config.network).is_dir():
        raise ValueError(
            f"--start=supernet: --network={config.network} is not a folder; give the folder of a "
            f"search, whose supernet has the weights"
        )
    if config.weights is not None:
        if config.start == "supernet":
            raise ValueError(
                f"--weights={config.weights} --start=supernet: give one of them, as either sets "
                f"the initial weights"
            )
        pretrained.check_network(config.architecture)
    spec = config.chosen.spec(2)
    check_run(
        config,
        {name: getattr(config, name) for name in ("image_size", "train_image_size")},
        spec.downsampling,
        "the network",
    )
    check_epochs(config, config.epochs, "epochs")
    first, *rest = config.training.phases()
    if config.warmup_epochs >= first[1]:
        before = " before the last --deployment_epochs" if rest else ""
        raise ValueError(
            f"--warmup_epochs={config.warmup_epochs}: give fewer than the {first[1]} "
            f"of --epochs{before}"
        )
