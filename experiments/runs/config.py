"""What search and training have in common: where, on what data, for which device."""

import dataclasses
import functools
import pathlib

from absl import flags

from jaxnas import data
from jaxnas.steps import PRECISIONS, Precision
from profiling import command
from profiling.device import device_names
from profiling.measurement import Options

# What may differ when a run is resumed.
_SAME_RUN = ("workdir", "checkpoint_seconds", "data_workers", "data_dir", "worker_prefix", "store")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Fields have the names, units and meaning of the flags below."""

    device: str
    shaves: int | None
    threads: int | None
    worker_prefix: str | None
    store: str | None
    image_size: int
    train_image_size: int | None
    deployment_epochs: int
    dataset: str
    data_dir: str | None
    held_out: int | None
    batch_size: int
    data_workers: int
    weight_decay: float
    label_smoothing: float
    precision: Precision
    seed: int
    checkpoint_seconds: int
    workdir: str

    @property
    def options(self) -> Options:
        return Options(self.shaves, self.threads, self.worker_prefix)

    def identity(self) -> dict[str, object]:
        """The fields that make two runs different, in JSON's types."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in _SAME_RUN}


def define_run_flags(batch_size: int = 64) -> None:
    """Defines the flags of `RunConfig`."""
    integer, text = flags.DEFINE_integer, flags.DEFINE_string
    real = functools.partial(flags.DEFINE_float, lower_bound=0)
    command.define_device_flags()
    command.define_store_flag()
    integer("image_size", 224, "Deployment size in px: of the exported files, their accuracy and "
            "their latency.", lower_bound=32)
    integer("train_image_size", None, "Size in px that the network is trained at before its last "
            "epochs; unset is image_size.", lower_bound=8)
    integer("deployment_epochs", 5, "The last epochs of the training, which are at image_size "
            "where train_image_size is another.", lower_bound=1)
    text("dataset", "digits", f"Data set: {', '.join(data.SPECS)}, or a folder of pictures, "
         f"train/CLASS/*.jpg and test/CLASS/*.jpg.")
    text("data_dir", None, "Folder of the prepared data sets; unset is that of "
         "tensorflow-datasets ($TFDS_DATA_DIR or ~/tensorflow_datasets).")
    integer("held_out", None, "Training examples held out, for α and to choose the best epoch; a "
            "multiple of the number of classes; unset is the data set's own default.",
            lower_bound=1)
    integer("batch_size", batch_size, "Examples in a step, over all devices.", lower_bound=2)
    integer("data_workers", 0, "Processes that make the batches of each part, the same ones, for "
            "photographs on hosts of many cores; 0 is threads of this process.", lower_bound=0)
    real("weight_decay", 4e-5, "Added to the weights' gradient, times the weights.")
    real("label_smoothing", 0.1, "Of the loss that weights are trained by.", upper_bound=0.5)
    flags.DEFINE_enum("precision", "f32", tuple(PRECISIONS), "Of the layers' products in steps; "
                      "weights, loss and evaluation are float32. bf16 is for accelerators.")
    integer("seed", 0, "Of every random draw of the run.", lower_bound=0)
    integer("checkpoint_seconds", 60, "Least time between checkpoints.", lower_bound=0)
    text("workdir", None, "Folder of the run; unset is a folder in runs/ named after the flags that "
         "matter most.")


def check_run(config: RunConfig, sizes: dict[str, int | None], factor: int, divides: str) -> None:
    """Refuses what cannot work, before any work.

    Args:
      sizes: in px, by flag.
      factor: that each of them must be a multiple of.
      divides: what divides its input by it.

    Raises:
      ValueError: names the value, what is allowed and the remedy.
    """
    device_names(config.device)
    spec = data.dataset(config.dataset)
    for name, size in sizes.items():
        if size is not None and size % factor:
            raise ValueError(f"--{name}={size}: give a multiple of {factor} px, by which "
                             f"{divides} divides its input")
    if config.held_out is not None and config.held_out % spec.num_classes:
        raise ValueError(f"--held_out={config.held_out}: give a multiple of the "
                         f"{spec.num_classes} classes of {spec.name}, the part held out is "
                         f"balanced")


def check_epochs(config: RunConfig, epochs: int, flag: str) -> None:
    """Raises ValueError where the training has fewer epochs than its last ones."""
    if config.train_image_size not in (None, config.image_size) and \
            config.deployment_epochs > epochs:
        raise ValueError(f"--deployment_epochs={config.deployment_epochs}: give at most the "
                         f"{epochs} of --{flag}")


def default_workdir(*parts: str) -> str:
    """A folder in runs/, of names of which paths are cut to their last part."""
    return f"runs/{'-'.join(pathlib.Path(part).stem if '/' in part else part for part in parts)}"
