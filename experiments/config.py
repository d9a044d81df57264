"""The flags of a search, read once into a frozen `Config`.

Defaults are the quick start: scikit-learn's handwritten digits at a small training size, minutes
on two cores. `imagenet.flags` sets the published schedule over them.
"""

import dataclasses
import math
import pathlib

from absl import flags

from jaxnas import data, estimators, loss, steps, supernet
from jaxnas.space import SPACES, Space, find_space
from profiling import command
from profiling.device import device_names
from profiling.measurement import Options

DERIVE = ("budget", "argmax")


@dataclasses.dataclass(frozen=True)
class Config:
    """What a search does. Fields have the names, units and meaning of the flags below."""

    device: str
    shaves: int | None
    threads: int | None
    worker_prefix: str | None
    store: str | None
    space: str
    image_size: int
    target_ms: float
    pareto_ms: tuple[float, ...] | None
    latency_weight: float
    latency_control: str
    estimator: str
    gumbel_temperature: float | None
    latency_table: str | None
    derive: str
    finalists: int
    tolerance: float
    require_target: bool
    dataset: str
    data_dir: str | None
    held_out: int | None
    train_image_size: int
    batch_size: int
    data_workers: int
    warmup_epochs: int
    search_epochs: int
    finetune_epochs: int
    warmup_learning_rate: float
    search_learning_rate: float
    finetune_learning_rate: float
    weight_decay: float
    label_smoothing: float
    precision: steps.Precision
    initialisation: str
    alpha_learning_rate: float
    alpha_every: int
    calibration_batches: int
    seed: int
    checkpoint_seconds: int
    workdir: str

    @property
    def search_space(self) -> Space:
        return find_space(self.space)

    @property
    def options(self) -> Options:
        return Options(self.shaves, self.threads, self.worker_prefix)

    def identity(self) -> dict[str, object]:
        """The fields that make two runs different, in JSON's types."""
        same_run = ("workdir", "checkpoint_seconds", "data_workers", "require_target", "data_dir",
                    "worker_prefix", "store")
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in same_run}


def define_flags() -> None:
    """Defines the flags of a search."""
    integer, real, text = flags.DEFINE_integer, flags.DEFINE_float, flags.DEFINE_string
    command.define_device_flags()
    command.define_store_flag()
    text("space", "proxyless", f"Search space: {', '.join(SPACES)}, or a JSON file "
         f"that describes one.")
    integer("image_size", 224, "Deployment size in px: of latency, export and measurement.",
            lower_bound=32)
    real("target_ms", 17.2, "LAT_T, the latency budget in ms on the device, batch 1.")
    flags.DEFINE_list("pareto_ms", None, "Further budgets in ms, comma-separated; unset is none. "
                      "From the one α each gets a network with the supernet's weights, its device "
                      "figure and its accuracy on held-out data: pareto.json, pareto.svg, "
                      "pareto.png.")
    real("latency_weight", 0.1, "λ of latency_control=fixed, 0 searching for accuracy alone; where "
         "λ of dual starts; the exponent β of mul_log (published: 0.3); with estimator=reinforce "
         "the exponent of the reward.")
    flags.DEFINE_enum("latency_control", "fixed", loss.LATENCY_CONTROLS, "How latency enters the "
                      "search. fixed: CE + λ (E[LAT] - LAT_T) / LAT_T, which does not settle at "
                      "the target by itself. dual: the same, λ driven so that E[LAT] comes to "
                      "LAT_T. mul_log: CE (ln E[LAT] / ln LAT_T)^β.")
    flags.DEFINE_enum("estimator", "two", estimators.ESTIMATORS, "Of α's gradient. two: a pair of "
                      "candidates a block and step. full: all of them. gumbel: all of them, "
                      "straight-through. reinforce: the accuracy of ten networks, times "
                      "(LAT_T / LAT)^latency_weight.")
    real("gumbel_temperature", None, f"Of estimator=gumbel; unset is {steps.GUMBEL_TEMPERATURE:g}.",
         lower_bound=0.01)
    text("latency_table", None, "Latency table, a JSON file made by profiling.tables; unset takes "
         "the one that ships for device, space and image size, or builds one.")
    flags.DEFINE_enum("derive", "budget", DERIVE, "budget: the likeliest path that spends the "
                      "budget, at most target_ms and at least (1 - tolerance / 2) of it where "
                      "there is one. argmax: the likeliest candidate of each block, whatever it "
                      "takes.")
    integer("finalists", 1, "Likeliest paths that spend the budget, of which the one most accurate "
            "on held-out data is derived, each with the supernet's weights. 1 takes the likeliest.",
            lower_bound=1, upper_bound=50)
    real("tolerance", 0.02, "Fraction of the latency by which prediction and device may differ "
         "before the table is rescaled and the network derived again.", lower_bound=0.001,
         upper_bound=0.5)
    flags.DEFINE_bool("require_target", False, "Exit with status 1 if the device's figure is above "
                      "target_ms or the device is not there.")
    text("dataset", "digits", f"Data set: {', '.join(data.SPECS)}, or a folder of pictures, "
         f"train/CLASS/*.jpg and test/CLASS/*.jpg.")
    text("data_dir", None, "Folder of the prepared data sets; unset is that of "
         "tensorflow-datasets ($TFDS_DATA_DIR or ~/tensorflow_datasets).")
    integer("held_out", None, "Training examples kept for α, a multiple of the number of classes; "
            "unset is the data set's own default.", lower_bound=1)
    integer("train_image_size", 32, "Size in px that the search trains at; image_size is apart.",
            lower_bound=8)
    integer("batch_size", 64, "Examples in a step, over all devices.", lower_bound=2)
    integer("data_workers", 0, "Processes that make the batches of each part, the same ones, for "
            "photographs on hosts of many cores; 0 is threads of this process.", lower_bound=0)
    integer("warmup_epochs", 20, "Epochs of weight steps alone, paths drawn.", lower_bound=0)
    integer("search_epochs", 40, "Epochs of weight steps with architecture steps between, none in "
            "the first.", lower_bound=2)
    integer("finetune_epochs", 20, "Epochs of the derived network.", lower_bound=0)
    real("warmup_learning_rate", 0.02, "Peak of the warm-up's cosine, not scaled by batch size.",
         lower_bound=0)
    real("search_learning_rate", 0.01, "Peak of the search's cosine, not scaled by batch size.",
         lower_bound=0)
    real("finetune_learning_rate", 0.025, "Peak of the fine-tuning's cosine, not scaled by batch "
         "size.", lower_bound=0)
    real("weight_decay", 4e-5, "Added to the sampled weights' gradient, times the weights.",
         lower_bound=0)
    real("label_smoothing", 0.1, "Of weight steps; architecture steps have none.", lower_bound=0,
         upper_bound=0.5)
    flags.DEFINE_enum("precision", "f32", tuple(steps.PRECISIONS), "Of the layers' products in "
                      "weight and architecture steps; weights, loss and evaluation are float32. "
                      "bf16 is for accelerators.")
    flags.DEFINE_enum("initialisation", "shared", supernet.INITIALISATIONS, "Of the supernet. "
                      "independent: as published, for long schedules. shared: the candidates of a "
                      "block start as one function, so that short schedules learn.")
    real("alpha_learning_rate", 0.05, "Of α's Adam.", lower_bound=0)
    integer("alpha_every", 2, "Weight steps to one architecture step.", lower_bound=1)
    integer("calibration_batches", 16, "Training batches whose mean gives the derived network's "
            "batch statistics.", lower_bound=1)
    integer("seed", 0, "Of every random draw of the run.", lower_bound=0)
    integer("checkpoint_seconds", 60, "Least time between checkpoints.", lower_bound=0)
    text("workdir", None, "Folder of the run; unset is runs/ and a name made of space, data set, "
         "device, target and seed.")


def config_from_flags() -> Config:
    """The flags as a checked `Config`.

    Raises:
      ValueError: a value that is not allowed; names it, what is allowed and the remedy.
    """
    command.device_options()  # refuses what no device can be asked for
    values = {f.name: flags.FLAGS[f.name].value for f in dataclasses.fields(Config)}
    values["workdir"] = values["workdir"] or (
        f"runs/{pathlib.Path(values['space']).stem}-{pathlib.Path(values['dataset']).stem}-"
        f"{values['device'].split(',')[0].lower()}-{values['target_ms']:g}ms-"
        f"seed{values['seed']}")
    if values["pareto_ms"] is not None:
        values["pareto_ms"] = _budgets(values["pareto_ms"])
    config = Config(**values)
    check(config)
    return config


def check(config: Config) -> None:
    """Refuses what cannot work, before any work; raises ValueError."""
    device_names(config.device)
    space = find_space(config.space)
    spec = data.dataset(config.dataset)
    if not (math.isfinite(config.target_ms) and config.target_ms > 0):
        raise ValueError(f"--target_ms={config.target_ms}: give a positive latency in ms")
    if config.pareto_ms is not None:
        _check_budgets(config.pareto_ms)
    if config.derive == "argmax" and config.finalists > 1:
        raise ValueError(f"--finalists={config.finalists} --derive=argmax: argmax has one network "
                         f"to offer; leave it out or give --derive=budget")
    if not (math.isfinite(config.latency_weight) and config.latency_weight >= 0):
        raise ValueError(f"--latency_weight={config.latency_weight}: λ is 0 or more; a negative λ "
                         f"would reward slow networks")
    _check_estimator(config)
    factor = 2 * math.prod(block.stride for block in space.blocks)
    for name in ("image_size", "train_image_size"):
        size = getattr(config, name)
        if size % factor:
            raise ValueError(f"--{name}={size}: give a multiple of {factor} px, by which the "
                             f"{space.name} space divides its input")
    if config.held_out is not None and config.held_out % spec.num_classes:
        raise ValueError(f"--held_out={config.held_out}: give a multiple of the "
                         f"{spec.num_classes} classes of {spec.name}, the part for α is balanced")


def _budgets(texts: list[str]) -> tuple[float, ...]:
    """The numbers of --pareto_ms, in order; raises ValueError."""
    try:
        return tuple(sorted(map(float, texts)))
    except ValueError as error:
        raise ValueError(f"--pareto_ms={','.join(texts)}: {error}; give budgets in ms, such as "
                         f"12,14,16") from None


def _check_budgets(budgets_ms: tuple[float, ...]) -> None:
    text = ",".join(f"{ms:g}" for ms in budgets_ms)
    if not budgets_ms:
        raise ValueError("--pareto_ms is empty: give one budget in ms or more, or leave it out")
    if not all(math.isfinite(ms) and ms > 0 for ms in budgets_ms):
        raise ValueError(f"--pareto_ms={text}: give positive latencies in ms")
    if len(set(budgets_ms)) < len(budgets_ms):
        raise ValueError(f"--pareto_ms={text} names a budget twice: give each once")


def _check_estimator(config: Config) -> None:
    if config.estimator == "reinforce" and config.latency_control != "fixed":
        raise ValueError(f"--estimator=reinforce --latency_control={config.latency_control}: its "
                         f"latency stands in the reward, which no other control reaches; give "
                         f"--latency_control=fixed or another estimator")
    if config.estimator != "gumbel" and config.gumbel_temperature is not None:
        raise ValueError(f"--gumbel_temperature={config.gumbel_temperature:g} "
                         f"--estimator={config.estimator}: only gumbel has a temperature; leave it "
                         f"out or give --estimator=gumbel")
    if config.latency_control == "mul_log" and config.target_ms <= 1:
        raise ValueError(f"--latency_control=mul_log --target_ms={config.target_ms:g}: it divides "
                         f"logarithms of milliseconds; give a target above 1 ms or another control")
