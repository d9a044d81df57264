"""The flags of a training, read once into a frozen `TrainConfig`.

Defaults are the quick start: scikit-learn's handwritten digits at a small training size, minutes
on two cores. `train_imagenet.flags` sets the published schedule over them.
"""

import dataclasses
import functools
import math
import pathlib
import zlib

from absl import flags

from experiments.network_training import Training
from experiments.networks import Architecture, find_architecture
from experiments.runs.config import (
    RunConfig,
    check_epochs,
    check_run,
    default_workdir,
    define_run_flags,
)
from jaxnas.space import SPACES
from jaxnas.zoo import ZOO
from profiling import command

STARTS = ("scratch", "supernet")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """What a training does. Fields have the names, units and meaning of the flags below.

    `architecture` and `space` are what --network and --space came to when the run began.
    """

    network: str
    architecture: str
    space: str | None
    start: str
    epochs: int
    warmup_epochs: int
    learning_rate: float
    dropout: float
    ema_decay: float

    @property
    def chosen(self) -> Architecture:
        return Architecture(self.architecture, self.space)

    @property
    def training(self) -> Training:
        """How the network is trained."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(Training)}
        return Training(**{**values, "train_image_size": self.train_image_size or self.image_size})

    def identity(self) -> dict[str, object]:
        """As `RunConfig.identity`; the network is known by its architecture."""
        return {k: v for k, v in super().identity().items() if k != "network"}


def define_flags() -> None:
    """Defines the flags of a training."""
    text = flags.DEFINE_string
    define_run_flags()
    text("network", None, f"What is trained: {', '.join(ZOO)}; the folder of a search; or an "
         f"architecture, one token a block of --space.", required=True)
    text("space", None, f"Space of an architecture: {', '.join(SPACES)}, or a JSON file that "
         f"describes one; unset is proxyless. A folder knows its own.")
    flags.DEFINE_enum("start", "scratch", STARTS, "scratch: weights drawn anew. supernet: those of "
                      "the search in the folder that --network names.")
    define_recipe_flags()


def define_recipe_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of the recipe that are a training's alone."""
    integer = functools.partial(flags.DEFINE_integer, flag_values=flag_values)
    real = functools.partial(flags.DEFINE_float, flag_values=flag_values)
    integer("epochs", 20, "Epochs in all, each followed by an evaluation on held-out data.",
            lower_bound=1)
    integer("warmup_epochs", 0, "Of these, the first, with a linear learning rate up to its peak; "
            "the published recipe has none.", lower_bound=0)
    real("learning_rate", 0.05, "Peak of the cosine, not scaled by batch size.", lower_bound=0)
    real("dropout", 0.1, "Rate at which features before the classifier are dropped.",
         lower_bound=0, upper_bound=0.9)
    real("ema_decay", 0.0, "Decay per step of the moving average of weights and statistics that is "
         "evaluated and delivered, such as 0.9999; 0 takes the weights as they are.",
         lower_bound=0, upper_bound=0.999999)


def recipe_defaults() -> dict[str, object]:
    """The recipe's fields of `TrainConfig` with their flags' defaults.

    For a program that trains by this recipe and whose own flags have some of these names.
    """
    values = flags.FlagValues()
    define_recipe_flags(values)
    return {name: values[name].default for name in values}


def config_from_flags() -> TrainConfig:
    """The flags as a checked `TrainConfig`.

    Raises:
      ValueError: a value that is not allowed; names it, what is allowed and the remedy.
    """
    command.device_options()  # refuses what no device can be asked for
    resolved = ("architecture", "space")
    values = {f.name: flags.FLAGS[f.name].value for f in dataclasses.fields(TrainConfig)
              if f.name not in resolved}
    chosen = find_architecture(values["network"], flags.FLAGS.space)
    name = chosen.text if chosen.space is None else (
        f"{pathlib.Path(chosen.space).stem}-{zlib.crc32(chosen.text.encode()):08x}")
    values["workdir"] = values["workdir"] or default_workdir(
        "train", name, values["dataset"], f"seed{values['seed']}")
    config = TrainConfig(**values, architecture=chosen.text, space=chosen.space)
    check(config)
    return config


def check(config: TrainConfig) -> None:
    """Refuses what cannot work, before any work; raises ValueError."""
    if config.start == "supernet" and not pathlib.Path(config.network).is_dir():
        raise ValueError(f"--start=supernet: --network={config.network} is no folder; give that of "
                         f"a search, whose supernet has the weights")
    spec = config.chosen.spec(2)
    check_run(config, {name: getattr(config, name) for name in ("image_size", "train_image_size")},
              2 * math.prod(block.stride for block in spec.blocks), "the network")
    check_epochs(config, config.epochs, "epochs")
    first, *rest = config.training.phases()
    if config.warmup_epochs >= first[1]:
        before = " before the last --deployment_epochs" if rest else ""
        raise ValueError(f"--warmup_epochs={config.warmup_epochs}: give fewer than the {first[1]} "
                         f"of --epochs{before}")
