"""What search and training have in common: where, on what data, for which device.

A configuration is a table: a field has the name, default, help and bounds of its flag.
"""

import dataclasses
import pathlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from jaxnas import data
from jaxnas.search_steps import PRECISIONS, Precision
from profiling import command
from profiling.device import Options
from profiling.registry import device_names

# What may differ when a run is resumed.
_SAME_RUN = (
    "workdir",
    "checkpoint_seconds",
    "data_workers",
    "data_dir",
    "worker_prefix",
    "store",
    "require_target",
)


def option(
    default: typing.Any,
    help_text: str,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] | None = None,
    required: bool = False,
) -> typing.Any:
    """A field that is a flag; low and high bound a number, choices are all that a text may be."""
    return dataclasses.field(
        default=default,
        metadata={
            "help": help_text,
            "low": low,
            "high": high,
            "choices": choices,
            "required": required,
        },
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every run is told. The first fields are the flags of `profiling.command`.

    `pictures`, which is no flag, is the fingerprint of the data set where that is a folder of them.
    """

    device: str
    shaves: int | None
    threads: int | None
    worker_prefix: str | None
    store: str | None
    image_size: int = option(
        224, "Deployment size in px: of the exported files, their accuracy and their latency.", 32
    )
    train_image_size: int | None = option(
        None,
        "Size in px that the network is trained at before its last epochs; unset is image_size.",
        8,
    )
    deployment_epochs: int = option(
        5,
        "The last epochs of the training, which are at image_size "
        "where train_image_size is another.",
        1,
    )
    dataset: str = option(
        "digits",
        f"Data set: {', '.join(data.SPECS)}, or a folder of pictures, "
        f"train/CLASS/*.jpg and test/CLASS/*.jpg.",
    )
    data_dir: str | None = option(
        None,
        "Folder of the prepared data sets; unset is that of tensorflow-datasets "
        "($TFDS_DATA_DIR or ~/tensorflow_datasets).",
    )
    held_out: int | None = option(
        None,
        "Training examples held out, for α and to choose the best epoch; a multiple of the "
        "number of classes; unset is the data set's own default.",
        1,
    )
    batch_size: int = option(64, "Examples in a step, over all devices.", 2)
    data_workers: int = option(
        0,
        "Processes that make the batches of each part, the same ones, "
        "for photographs on hosts of many cores; 0 is threads of this "
        "process.",
        0,
    )
    weight_decay: float = option(4e-5, "Added to the weights' gradient, times the weights.", 0)
    label_smoothing: float = option(0.1, "Of the loss that weights are trained by.", 0, 0.5)
    precision: Precision = option(
        "f32",
        "Of the layers' products in steps; weights, loss and "
        "evaluation are float32. bf16 is for accelerators.",
        choices=tuple(PRECISIONS),
    )
    seed: int = option(0, "Of every random draw of the run.", 0)
    checkpoint_seconds: int = option(60, "Least time between checkpoints.", 0)
    workdir: str = option(
        None,
        "Folder of the run; unset is a folder in runs/ named after the flags that matter most.",
    )
    pictures: str | None = None

    @property
    def options(self) -> Options:
        return Options(self.shaves, self.threads, self.worker_prefix)

    def identity(self) -> dict[str, Any]:
        """The fields that make two runs different, in JSON's types."""
        return identity_of(dataclasses.asdict(self))


def identity_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config.json that make two runs different."""
    return {k: v for k, v in document.items() if k not in (*_SAME_RUN, "schema")}


def define_config_flags(config: type[RunConfig]) -> None:
    """Defines the flags of a configuration's fields."""
    command.define_device_flags()
    command.define_store_flag()
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        if not field.metadata:
            continue
        name, help_text, choices = field.name, field.metadata["help"], field.metadata["choices"]
        kinds = [kind for kind in typing.get_args(hints[name]) if kind is not types.NoneType]
        kind = kinds[0] if isinstance(hints[name], types.UnionType) else hints[name]
        bounds = {"lower_bound": field.metadata["low"], "upper_bound": field.metadata["high"]}
        if choices is not None:
            flags.DEFINE_enum(name, field.default, choices, help_text)
        elif kind is bool:
            flags.DEFINE_bool(name, field.default, help_text)
        elif kind is int:
            flags.DEFINE_integer(name, field.default, help_text, **bounds)
        elif kind is float:
            flags.DEFINE_float(name, field.default, help_text, **bounds)
        elif kind is str:
            flags.DEFINE_string(name, field.default, help_text, required=field.metadata["required"])
        else:
            flags.DEFINE_list(name, field.default, help_text)


def flag_values(config: type[RunConfig]) -> dict[str, typing.Any]:
    """The values of a configuration's fields, by the flags and the data set that they name.

    Raises:
      ValueError: what no device can be asked for, or a data set that is not laid out as one.
    """
    command.device_options()  # refuses what no device can be asked for
    values = {
        field.name: flags.FLAGS[field.name].value
        for field in dataclasses.fields(config)
        if field.name in flags.FLAGS
    }
    dataset = values["dataset"]
    return values | {"pictures": data.fingerprint(dataset) if data.is_folder(dataset) else None}


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
            raise ValueError(
                f"--{name}={size}: give a multiple of {factor} px, by which "
                f"{divides} divides its input"
            )
    if config.held_out is not None and config.held_out % spec.num_classes:
        raise ValueError(
            f"--held_out={config.held_out}: give a multiple of the "
            f"{spec.num_classes} classes of {spec.name}, the part held out is "
            f"balanced"
        )


def check_epochs(config: RunConfig, epochs: int, flag: str) -> None:
    """Raises ValueError where the training has fewer epochs than its last ones."""
    if (
        config.train_image_size not in (None, config.image_size)
        and config.deployment_epochs > epochs
    ):
        raise ValueError(
            f"--deployment_epochs={config.deployment_epochs}: give at most the {epochs} of --{flag}"
        )


def default_workdir(*parts: str) -> str:
    """A folder in runs/, of names of which paths are cut to their last part."""
    return f"runs/{'-'.join(pathlib.Path(part).stem if '/' in part else part for part in parts)}"
