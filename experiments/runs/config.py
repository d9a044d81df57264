"""Flags that search and training share: folder, data, device and training basics.

A configuration class is a table of flags: each field has the name, default, help and bounds of its
flag.
"""

import dataclasses
import importlib.util
import pathlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from jaxnas import data
from jaxnas.batch_norm import BATCH_NORM_GROUP
from jaxnas.pixels import PRECISIONS, Precision
from profiling import command
from profiling.device import Options
from profiling.registry import device_names

RISE_EPOCHS = 5  # in which learning rates of larger batches rise (Goyal et al. 2017, §2.2)
# Fields that may change when a run is resumed.
_SAME_RUN = (
    "workdir",
    "checkpoint_seconds",
    "data_workers",
    "data_dir",
    "worker_prefix",
    "store",
    "require_target",
    "tensorboard",
)


def option(
    default: Any,
    help_text: str,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] | None = None,
) -> Any:
    """Returns a field that is a flag; low and high bound a number, choices restrict a string."""
    return dataclasses.field(
        default=default,
        metadata={"help": help_text, "low": low, "high": high, "choices": choices},
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Configuration that every run has. The first five fields are flags of `profiling.command`.

    Two fields are no flags: `pictures`, the fingerprint of the data set if that is a folder of
    pictures, and `space_name`, the name of the space, with the fingerprint of its file's content.
    """

    device: str
    shaves: int | None
    threads: int | None
    worker_prefix: str | None
    store: str | None
    image_size: int = option(
        224, "Deployment size in px of the exported files, their accuracy and their latency.", 32
    )
    train_image_size: int | None = option(
        None,
        "Size in px at which the network is trained before its last deployment_epochs; unset is "
        "image_size.",
        8,
    )
    deployment_epochs: int = option(
        5,
        "Last epochs of the training, at image_size; used if train_image_size differs from it.",
        1,
    )
    dataset: str = option(
        "digits",
        f"Data set: {', '.join(data.SPECS)}, or a folder of pictures, "
        f"train/CLASS/*.jpg and test/CLASS/*.jpg.",
    )
    data_dir: str | None = option(
        None,
        "Folder of the prepared data sets; unset is the default of tensorflow-datasets "
        "($TFDS_DATA_DIR or ~/tensorflow_datasets).",
    )
    held_out: int | None = option(
        None,
        "Training examples held out for α and to choose the best epoch, a multiple of the number "
        "of classes; unset is the data set's default.",
        1,
    )
    train_examples: int | None = option(
        None,
        "Training examples that the weights are trained on, a multiple of the number of classes, "
        "drawn by the seed; unset is all that are not held out.",
        1,
    )
    batch_size: int = option(64, "Examples per step, over all devices.", 2)
    base_batch_size: int | None = option(
        None,
        "Batch size for which the learning rates and α's steps are given; unset is the batch size "
        "itself, so nothing is scaled. Learning rates are multiplied by the ratio of both batch "
        "sizes; for a larger batch they rise linearly over 5 epochs. The number of α steps per "
        "epoch does not change, and each uses this many examples.",
        2,
    )
    data_workers: int = option(
        0,
        "Processes that make the batches of each part, for photographs on hosts with many cores; "
        "0 uses threads of this process. The batches are the same.",
        0,
    )
    weight_decay: float = option(
        4e-5, "Weight decay: this factor times the weights is added to their gradient.", 0
    )
    label_smoothing: float = option(
        0.1, "Label smoothing in the loss that trains the weights.", 0, 0.5
    )
    precision: Precision = option(
        "f32",
        "Precision of the layers' products in steps; weights, loss and evaluation are float32. "
        "bf16 is for accelerators.",
        choices=tuple(PRECISIONS),
    )
    batch_norm_group: int = option(
        BATCH_NORM_GROUP,
        "Images that batch normalization takes together in training, as one GPU of the official "
        "search does; a larger batch is divided into equal groups of at least that many. 0 uses "
        "the running statistics and keeps them, for published weights and few pictures.",
        0,
    )
    seed: int = option(0, "Seed of all random draws of the run.", 0)
    checkpoint_seconds: int = option(60, "Minimum time between checkpoints in s.", 0)
    tensorboard: bool = option(
        False,
        "Also write the metrics as event files of TensorBoard, in the folder tensorboard of the "
        "run; needs the package tensorboardX.",
    )
    workdir: str = option(
        None,
        "Folder of the run; unset is a folder in runs/ named after the most important flags.",
    )
    pictures: str | None = None
    space_name: str | None = None

    def batch_scale(self, batch_size: int) -> float:
        """Returns the factor of the learning rates for a batch size (Goyal et al. 2017, §2.1)."""
        return batch_size / (self.base_batch_size or batch_size)

    @property
    def options(self) -> Options:
        return Options(self.shaves, self.threads, self.worker_prefix)

    def parts(self) -> data.Parts:
        """Returns the parts of the data set; raises as `data.load`."""
        return data.load(
            self.dataset,
            self.data_dir,
            seed=self.seed,
            held_out=self.held_out,
            train_examples=self.train_examples,
        )

    def identity(self) -> dict[str, Any]:
        """Returns the fields that distinguish two runs."""
        return identity_of(dataclasses.asdict(self))


def identity_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a config.json that distinguish two runs."""
    return {k: v for k, v in document.items() if k not in (*_SAME_RUN, "schema")}


def define_config_flags(config: type[RunConfig]) -> None:
    """Defines the device flags, --store and a flag for each field made by `option`."""
    command.define_device_flags()
    command.define_store_flag()
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        if not field.metadata:
            continue
        name, help_text, choices = field.name, field.metadata["help"], field.metadata["choices"]
        default: Any = field.default
        kinds = [kind for kind in typing.get_args(hints[name]) if kind is not types.NoneType]
        kind = kinds[0] if isinstance(hints[name], types.UnionType) else hints[name]
        bounds = {"lower_bound": field.metadata["low"], "upper_bound": field.metadata["high"]}
        if choices is not None:
            flags.DEFINE_enum(name, default, choices, help_text)
        elif kind is bool:
            flags.DEFINE_bool(name, default, help_text)
        elif kind is int:
            flags.DEFINE_integer(name, default, help_text, **bounds)
        elif kind is float:
            flags.DEFINE_float(name, default, help_text, **bounds)
        elif kind is str:
            flags.DEFINE_string(name, default, help_text)
        else:
            flags.DEFINE_list(name, default, help_text)


def flag_values(config: type[RunConfig]) -> dict[str, Any]:
    """Returns the values of a configuration's fields, from the flags and the data set.

    Raises:
      ValueError: invalid device options, or a folder of pictures with a wrong layout.
    """
    command.device_options()  # raises ValueError for invalid ones
    values: dict[str, Any] = {
        field.name: flags.FLAGS[field.name].value
        for field in dataclasses.fields(config)
        if field.name in flags.FLAGS
    }
    dataset = values["dataset"]
    return values | {"pictures": data.fingerprint(dataset) if data.is_folder(dataset) else None}


def check_run(config: RunConfig, sizes: dict[str, int | None], stride: int, owner: str) -> None:
    """Checks the values that search and training share, before any work.

    Args:
      config: configuration to check.
      sizes: image sizes in px, by flag; each must be a multiple of the stride.
      stride: total stride of the network.
      owner: description of the network, for the error message.

    Raises:
      ValueError: an invalid value; the message names it, what is allowed and the remedy.
    """
    device_names(config.device)
    if config.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise ValueError(
            "--tensorboard: the package tensorboardX is not installed; run "
            "`pip install tensorboardX`, or leave the flag out"
        )
    spec = data.dataset(config.dataset)
    for name, size in sizes.items():
        if size is not None and size % stride:
            raise ValueError(
                f"--{name}={size}: give a multiple of {stride} px, the total stride of {owner}"
            )
    for name in ("held_out", "train_examples"):
        examples = getattr(config, name)
        if examples is not None and examples % spec.num_classes:
            raise ValueError(
                f"--{name}={examples}: give a multiple of the {spec.num_classes} classes of "
                f"{spec.name}, since that part is balanced"
            )


def check_epochs(config: RunConfig, epochs: int, flag: str) -> None:
    """Raises ValueError if the training has fewer epochs than `deployment_epochs`."""
    if (
        config.train_image_size not in (None, config.image_size)
        and config.deployment_epochs > epochs
    ):
        raise ValueError(
            f"--deployment_epochs={config.deployment_epochs}: give at most the {epochs} of --{flag}"
        )


def default_workdir(*parts: str) -> str:
    """Returns a folder in runs/ named after the parts; of a path only its stem is used."""
    return f"runs/{'-'.join(pathlib.Path(part).stem if '/' in part else part for part in parts)}"
