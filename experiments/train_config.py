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

from experiments.networks import Architecture, find_architecture
from jaxnas import data
from jaxnas.network_steps import PRECISIONS, Precision, Recipe
from jaxnas.space import SPACES
from jaxnas.zoo import ZOO
from profiling import command
from profiling.device import device_names
from profiling.measurement import Options

STARTS = ("scratch", "supernet")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What a training does. Fields have the names, units and meaning of the flags below.

    `architecture` and `space` are what --network and --space came to when the run began.
    """

    network: str
    architecture: str
    space: str | None
    start: str
    device: str
    shaves: int | None
    threads: int | None
    worker_prefix: str | None
    store: str | None
    image_size: int
    dataset: str
    data_dir: str | None
    held_out: int | None
    train_image_size: int
    batch_size: int
    data_workers: int
    epochs: int
    warmup_epochs: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    dropout: float
    ema_decay: float
    precision: Precision
    seed: int
    checkpoint_seconds: int
    workdir: str

    @property
    def chosen(self) -> Architecture:
        return Architecture(self.architecture, self.space)

    @property
    def options(self) -> Options:
        return Options(self.shaves, self.threads, self.worker_prefix)

    def recipe(self, epoch_steps: int) -> Recipe:
        """The recipe with its epochs in steps."""
        return Recipe(
            steps=self.epochs * epoch_steps, warmup_steps=self.warmup_epochs * epoch_steps,
            learning_rate=self.learning_rate, weight_decay=self.weight_decay,
            label_smoothing=self.label_smoothing, dropout=self.dropout,
            ema_decay=self.ema_decay, precision=self.precision)

    def identity(self) -> dict[str, object]:
        """The fields that make two runs different, in JSON's types."""
        same_run = ("network", "workdir", "checkpoint_seconds", "data_workers", "data_dir",
                    "worker_prefix", "store")
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in same_run}


def define_flags() -> None:
    """Defines the flags of a training."""
    integer, text = flags.DEFINE_integer, flags.DEFINE_string
    command.define_device_flags()
    command.define_store_flag()
    text("network", None, f"What is trained: {', '.join(ZOO)}; the folder of a search; or an "
         f"architecture, one token a block of --space.", required=True)
    text("space", None, f"Space of an architecture: {', '.join(SPACES)}, or a JSON file that "
         f"describes one; unset is proxyless. A folder knows its own.")
    flags.DEFINE_enum("start", "scratch", STARTS, "scratch: weights drawn anew. supernet: those of "
                      "the search in the folder that --network names.")
    integer("image_size", 224, "Deployment size in px: of latency, export and measurement.",
            lower_bound=32)
    text("dataset", "digits", f"Data set: {', '.join(data.SPECS)}, or a folder of pictures, "
         f"train/CLASS/*.jpg and test/CLASS/*.jpg.")
    text("data_dir", None, "Folder of the prepared data sets; unset is that of "
         "tensorflow-datasets ($TFDS_DATA_DIR or ~/tensorflow_datasets).")
    integer("held_out", None, "Training examples that choose the best epoch, a multiple of the "
            "number of classes; unset is the data set's own default.", lower_bound=1)
    integer("train_image_size", 32, "Size in px that is trained at; image_size is apart.",
            lower_bound=8)
    integer("batch_size", 64, "Examples in a step.", lower_bound=2)
    integer("data_workers", 0, "Processes that make the batches of each part, the same ones, for "
            "photographs on hosts of many cores; 0 is threads of this process.", lower_bound=0)
    define_recipe_flags()
    integer("seed", 0, "Of every random draw of the run.", lower_bound=0)
    integer("checkpoint_seconds", 60, "Least time between checkpoints.", lower_bound=0)
    text("workdir", None, "Folder of the run; unset is runs/train- and a name made of network, "
         "data set and seed.")


def define_recipe_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of the recipe, the fields of `Recipe` with its epochs."""
    integer = functools.partial(flags.DEFINE_integer, flag_values=flag_values)
    real = functools.partial(flags.DEFINE_float, flag_values=flag_values)
    integer("epochs", 20, "Epochs in all, each followed by an evaluation on held-out data.",
            lower_bound=1)
    integer("warmup_epochs", 0, "Of these, the first, with a linear learning rate up to its peak; "
            "the published recipe has none.", lower_bound=0)
    real("learning_rate", 0.05, "Peak of the cosine, not scaled by batch size.", lower_bound=0)
    real("weight_decay", 4e-5, "Added to the weights' gradient, times the weights; batch norm's "
         "scale and bias have none.", lower_bound=0)
    real("label_smoothing", 0.1, "Of the training loss.", lower_bound=0, upper_bound=0.5)
    real("dropout", 0.1, "Rate at which features before the classifier are dropped.",
         lower_bound=0, upper_bound=0.9)
    real("ema_decay", 0.0, "Decay per step of the moving average of weights and statistics that is "
         "evaluated and delivered, such as 0.9999; 0 takes the weights as they are.",
         lower_bound=0, upper_bound=0.999999)
    flags.DEFINE_enum("precision", "f32", tuple(PRECISIONS), "Of the layers' products in training; "
                      "weights, loss and evaluation are float32.", flag_values=flag_values)


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
    values["workdir"] = values["workdir"] or (
        f"runs/train-{name}-{pathlib.Path(values['dataset']).stem}-seed{values['seed']}")
    config = TrainConfig(**values, architecture=chosen.text, space=chosen.space)
    check(config)
    return config


def check(config: TrainConfig) -> None:
    """Refuses what cannot work, before any work; raises ValueError."""
    device_names(config.device)
    spec = data.dataset(config.dataset)
    if config.start == "supernet" and not pathlib.Path(config.network).is_dir():
        raise ValueError(f"--start=supernet: --network={config.network} is no folder; give that of "
                         f"a search, whose supernet has the weights")
    if config.warmup_epochs >= config.epochs:
        raise ValueError(f"--warmup_epochs={config.warmup_epochs}: give fewer than the "
                         f"{config.epochs} of --epochs")
    factor = 2 * math.prod(block.stride for block in config.chosen.spec(spec.num_classes).blocks)
    for name in ("image_size", "train_image_size"):
        size = getattr(config, name)
        if size % factor:
            raise ValueError(f"--{name}={size}: give a multiple of {factor} px, by which the "
                             f"network divides its input")
    if config.held_out is not None and config.held_out % spec.num_classes:
        raise ValueError(f"--held_out={config.held_out}: give a multiple of the "
                         f"{spec.num_classes} classes of {spec.name}, the held-out part is "
                         f"balanced")
