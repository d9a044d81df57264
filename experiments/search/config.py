"""Flags of a search, read once into a frozen `Config`.

The defaults search on scikit-learn's handwritten digits. `vpu.flags` is the quick start, minutes on
two cores; `imagenet.flags` has the published schedule.
"""

import dataclasses
import math

from experiments.runs.config import (
    RunConfig,
    check_epochs,
    check_run,
    default_workdir,
    define_config_flags,
    flag_values,
    option,
)
from experiments.train.training import Training
from jaxnas import estimators, loss, search_state, supernet_initialization, supernet_pretrained
from jaxnas.builtin_spaces import SPACES
from jaxnas.space import Space
from jaxnas.space_file import find_space


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """Configuration of a search. Fields are flags."""

    space: str = option(
        "proxyless", f"Search space: {', '.join(SPACES)}, or a JSON file that describes one."
    )
    target_ms: float = option(17.2, "LAT_T, the latency budget in ms on the device, batch 1.")
    pareto_ms: tuple[float, ...] | None = option(
        None,
        "Further budgets in ms, comma-separated; unset is none. Each gets a network from the same "
        "α, with the supernet's weights, its latency on the device and its accuracy on held-out "
        "data, in pareto.json, pareto.svg and pareto.png.",
    )
    latency_weight: float = option(
        0.1,
        "λ for latency_control=fixed, 0 to search for accuracy only; initial λ for dual; exponent "
        "β for mul_log (published: 0.3); exponent of the reward for estimator=reinforce.",
    )
    latency_control: loss.Control = option(
        "fixed",
        "How latency enters the loss. fixed: CE + λ (E[LAT] - LAT_T) / LAT_T; E[LAT] does not "
        "converge to LAT_T by itself. dual: the same, with λ adapted so that E[LAT] converges to "
        "LAT_T. mul_log: CE (ln E[LAT] / ln LAT_T)^β.",
        choices=loss.LATENCY_CONTROLS,
    )
    estimator: str = option(
        "two",
        "Estimator of α's gradient. two: a pair of candidates per block and step. full: all "
        "candidates. gumbel: all candidates, straight-through. reinforce: the reward of ten "
        "networks, accuracy times (LAT_T / LAT)^latency_weight.",
        choices=estimators.ESTIMATORS,
    )
    gumbel_temperature: float | None = option(
        None,
        f"Temperature for estimator=gumbel; unset is {search_state.GUMBEL_TEMPERATURE:g}.",
        0.01,
    )
    latency_table: str | None = option(
        None,
        "Latency table, a JSON file made by profiling.tables; unset uses the shipped table for "
        "device, space and image size, or builds one.",
    )
    derive: str = option(
        "budget",
        "budget: the most probable path that uses the budget: at most target_ms and, if such a "
        "path exists, at least (1 - tolerance / 2) of it. argmax: the most probable candidate of "
        "each block, at any latency.",
        choices=("budget", "argmax"),
    )
    finalists: int = option(
        1,
        "Number of most probable paths that use the budget. The path with the best accuracy on "
        "held-out data, with the supernet's weights, is derived. 1 derives the most probable.",
        1,
        50,
    )
    tolerance: float = option(
        0.02,
        "Fraction of the latency by which prediction and device may differ. At a larger "
        "difference the table is rescaled and the network derived again.",
        0.001,
        0.5,
    )
    require_target: bool = option(
        False,
        "Exit with status 1 if the latency on the device is above target_ms or the device is "
        "unavailable.",
    )
    search_image_size: int = option(32, "Size in px at which the supernet is trained.", 8)
    warmup_epochs: int = option(20, "Epochs of weight steps only, on sampled paths.", 0)
    search_epochs: int = option(
        40, "Epochs of weight steps with α steps in between, none in the first epoch.", 2
    )
    warmup_learning_rate: float = option(
        0.02, "Peak of the warm-up's cosine learning rate, scaled by base_batch_size alone.", 0
    )
    search_learning_rate: float = option(
        0.01, "Peak of the search's cosine learning rate, scaled by base_batch_size alone.", 0
    )
    initialisation: supernet_initialization.Initialization = option(
        "shared",
        "Initialization of the supernet. independent: as published, for long schedules. shared: "
        "the candidates of a block start as the same function, which the first half of the "
        "warm-up trains, so that short schedules learn. pretrained: the published weights of "
        "EfficientNet-Lite0, for the space efficientnet_lite and few pictures.",
        choices=supernet_initialization.INITIALISATIONS,
    )
    alpha_learning_rate: float = option(0.05, "Learning rate of α's Adam.", 0)
    alpha_every: int = option(2, "Weight steps per α step, at the base_batch_size.", 1)
    calibration_batches: int = option(
        16, "Training batches over which a path's batch statistics are averaged to score it.", 1
    )
    train_epochs: int = option(
        20, "Epochs of training the derived network, from the supernet's weights.", 1
    )
    train_batch_size: int | None = option(
        None, "Examples per step when the derived network is trained; unset is batch_size.", 2
    )
    train_learning_rate: float = option(
        0.02,
        "Peak of the derived network's cosine learning rate, scaled by base_batch_size alone.",
        0,
    )
    train_dropout: float = option(
        0.0, "Dropout rate of the derived network's features before the classifier.", 0, 0.9
    )
    train_ema_decay: float = option(
        0.0,
        "Decay per step of the moving average of weights and statistics that is evaluated and "
        "delivered; 0 uses the weights without averaging.",
        0,
        0.999999,
    )

    @property
    def title(self) -> str:
        """Title of the search, for people."""
        return f"{self.space} for {self.device}, {self.target_ms:g} ms"

    @property
    def search_space(self) -> Space:
        return find_space(self.space)

    @property
    def training(self) -> Training:
        """Parameters of the derived network's training."""
        batch_size = self.train_batch_size or self.batch_size
        training = Training(
            image_size=self.image_size,
            train_image_size=self.train_image_size or self.image_size,
            epochs=self.train_epochs,
            deployment_epochs=self.deployment_epochs,
            warmup_epochs=0,
            batch_size=batch_size,
            data_workers=self.data_workers,
            learning_rate=self.train_learning_rate,
            weight_decay=self.weight_decay,
            label_smoothing=self.label_smoothing,
            dropout=self.train_dropout,
            ema_decay=self.train_ema_decay,
            precision=self.precision,
            batch_norm_group=self.batch_norm_group,
            seed=self.seed,
            checkpoint_seconds=self.checkpoint_seconds,
        )
        return training.scaled(self.batch_scale(batch_size))

    @property
    def alpha_batch_size(self) -> int:
        """Examples per α step."""
        return self.base_batch_size or self.batch_size

    def alpha_steps(self, step: int) -> int:
        """Returns the number of α steps that belong to the first `step` weight steps.

        An epoch has as many as with the base batch size.
        """
        return step * self.batch_size // (self.alpha_batch_size * self.alpha_every)


def define_flags() -> None:
    """Defines the flags of a search."""
    define_config_flags(Config)


def config_from_flags() -> Config:
    """Returns the flags as a checked `Config`.

    Raises:
      ValueError: an invalid value; the message names it, what is allowed and the remedy.
    """
    values = flag_values(Config)
    values["workdir"] = values["workdir"] or default_workdir(
        values["space"],
        values["dataset"],
        values["device"].split(",")[0].lower(),
        f"{values['target_ms']:g}ms",
        f"seed{values['seed']}",
    )
    if values["pareto_ms"] is not None:
        values["pareto_ms"] = _budgets(values["pareto_ms"])
    config = Config(**values, space_name=find_space(values["space"]).name)
    check(config)
    return config


def check(config: Config) -> None:
    """Raises ValueError for an invalid configuration, before any work."""
    space = find_space(config.space)
    check_run(
        config,
        {
            name: getattr(config, name)
            for name in ("image_size", "search_image_size", "train_image_size")
        },
        space.downsampling,
        f"the {space.name} space",
    )
    check_epochs(config, config.train_epochs, "train_epochs")
    if not (math.isfinite(config.target_ms) and config.target_ms > 0):
        raise ValueError(f"--target_ms={config.target_ms}: give a positive latency in ms")
    if config.pareto_ms is not None:
        _check_budgets(config.pareto_ms)
    if config.derive == "argmax" and config.finalists > 1:
        raise ValueError(
            f"--finalists={config.finalists} --derive=argmax: argmax has only one candidate; leave "
            f"--finalists out or give --derive=budget"
        )
    if not (math.isfinite(config.latency_weight) and config.latency_weight >= 0):
        raise ValueError(
            f"--latency_weight={config.latency_weight}: λ is 0 or more; a negative λ "
            f"would reward slow networks"
        )
    if config.initialisation == "pretrained":
        supernet_pretrained.check_space(config.search_space)
    _check_estimator(config)


def _budgets(texts: list[str]) -> tuple[float, ...]:
    """Returns the sorted budgets of --pareto_ms; raises ValueError."""
    try:
        return tuple(sorted(map(float, texts)))
    except ValueError as error:
        raise ValueError(
            f"--pareto_ms={','.join(texts)}: {error}; give budgets in ms, such as 12,14,16"
        ) from None


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
        raise ValueError(
            f"--estimator=reinforce --latency_control={config.latency_control}: reinforce has the "
            f"latency in its reward, not in the loss; give --latency_control=fixed or another "
            f"estimator"
        )
    if config.estimator != "gumbel" and config.gumbel_temperature is not None:
        raise ValueError(
            f"--gumbel_temperature={config.gumbel_temperature:g} "
            f"--estimator={config.estimator}: only gumbel has a temperature; leave it "
            f"out or give --estimator=gumbel"
        )
    if config.latency_control == "mul_log" and config.target_ms <= 1:
        raise ValueError(
            f"--latency_control=mul_log --target_ms={config.target_ms:g}: it divides "
            f"logarithms of milliseconds; give a target above 1 ms or another control"
        )
