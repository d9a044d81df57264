"""The flags of a search, read once into a frozen `Config`.

Defaults are the quick start: scikit-learn's handwritten digits at a small training size, minutes
on two cores. `imagenet.flags` sets the published schedule over them.
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
from experiments.train.fit import Training
from jaxnas import estimators, loss, search_steps, supernet
from jaxnas.space import SPACES, Space, find_space


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """What a search does. Fields are flags."""

    space: str = option(
        "proxyless", f"Search space: {', '.join(SPACES)}, or a JSON file that describes one."
    )
    target_ms: float = option(17.2, "LAT_T, the latency budget in ms on the device, batch 1.")
    pareto_ms: tuple[float, ...] | None = option(
        None,
        "Further budgets in ms, comma-separated; unset is none. From the one α each gets a "
        "network with the supernet's weights, its device figure and its accuracy on held-out data: "
        "pareto.json, pareto.svg, pareto.png.",
    )
    latency_weight: float = option(
        0.1,
        "λ of latency_control=fixed, 0 searching for accuracy alone; where λ of dual starts; "
        "the exponent β of mul_log (published: 0.3); with estimator=reinforce the exponent of the "
        "reward.",
    )
    latency_control: str = option(
        "fixed",
        "How latency enters the search. fixed: CE + λ (E[LAT] - LAT_T) / LAT_T, which "
        "does not converge to the target by itself. dual: the same, λ driven so that E[LAT] comes "
        "to LAT_T. mul_log: CE (ln E[LAT] / ln LAT_T)^β.",
        choices=loss.LATENCY_CONTROLS,
    )
    estimator: str = option(
        "two",
        "Of α's gradient. two: a pair of candidates a block and step. full: all of them. "
        "gumbel: all of them, straight-through. reinforce: the accuracy of ten networks, times "
        "(LAT_T / LAT)^latency_weight.",
        choices=estimators.ESTIMATORS,
    )
    gumbel_temperature: float | None = option(
        None, f"Of estimator=gumbel; unset is {search_steps.GUMBEL_TEMPERATURE:g}.", 0.01
    )
    latency_table: str | None = option(
        None,
        "Latency table, a JSON file made by profiling.tables; unset takes the one that ships "
        "for device, space and image size, or builds one.",
    )
    derive: str = option(
        "budget",
        "budget: the most probable path that uses the budget, at most target_ms and at "
        "least (1 - tolerance / 2) of it where there is one. argmax: the most probable candidate "
        "of each block, whatever it takes.",
        choices=("budget", "argmax"),
    )
    finalists: int = option(
        1,
        "Most probable paths that use the budget, of which the one most accurate on held-out "
        "data is derived, each with the supernet's weights. 1 takes the most probable.",
        1,
        50,
    )
    tolerance: float = option(
        0.02,
        "Fraction of the latency by which prediction and device may differ before the table "
        "is rescaled and the network derived again.",
        0.001,
        0.5,
    )
    require_target: bool = option(
        False,
        "Exit with status 1 if the device's figure is above target_ms or the device is not there.",
    )
    search_image_size: int = option(32, "Size in px that the supernet is trained at.", 8)
    warmup_epochs: int = option(20, "Epochs of weight steps alone, paths drawn.", 0)
    search_epochs: int = option(
        40, "Epochs of weight steps with architecture steps between, none in the first.", 2
    )
    warmup_learning_rate: float = option(
        0.02, "Peak of the warm-up's cosine, not scaled by batch size.", 0
    )
    search_learning_rate: float = option(
        0.01, "Peak of the search's cosine, not scaled by batch size.", 0
    )
    initialisation: str = option(
        "shared",
        "Of the supernet. independent: as published, for long schedules. shared: the "
        "candidates of a block start as one function, so that short schedules learn.",
        choices=supernet.INITIALISATIONS,
    )
    alpha_learning_rate: float = option(0.05, "Of α's Adam.", 0)
    alpha_every: int = option(2, "Weight steps to one architecture step.", 1)
    calibration_batches: int = option(
        16, "Training batches whose mean gives a path's batch statistics, where it is scored.", 1
    )
    train_epochs: int = option(
        20, "Epochs of the network that is found, from the supernet's weights.", 1
    )
    train_batch_size: int | None = option(
        None, "Examples in a step of them; unset is batch_size.", 2
    )
    train_learning_rate: float = option(
        0.02, "Peak of the training's cosine, not scaled by batch size.", 0
    )
    train_dropout: float = option(
        0.0, "Rate at which the network's features before the classifier are dropped.", 0, 0.9
    )
    train_ema_decay: float = option(
        0.0,
        "Decay per step of the moving average of weights and statistics that is evaluated and "
        "delivered; 0 takes the weights as they are.",
        0,
        0.999999,
    )

    @property
    def search_space(self) -> Space:
        return find_space(self.space)

    @property
    def training(self) -> Training:
        """How the network that is found is trained."""
        return Training(
            image_size=self.image_size,
            train_image_size=self.train_image_size or self.image_size,
            epochs=self.train_epochs,
            deployment_epochs=self.deployment_epochs,
            warmup_epochs=0,
            batch_size=self.train_batch_size or self.batch_size,
            data_workers=self.data_workers,
            learning_rate=self.train_learning_rate,
            weight_decay=self.weight_decay,
            label_smoothing=self.label_smoothing,
            dropout=self.train_dropout,
            ema_decay=self.train_ema_decay,
            precision=self.precision,
            seed=self.seed,
            checkpoint_seconds=self.checkpoint_seconds,
        )


def define_flags() -> None:
    """Defines the flags of a search."""
    define_config_flags(Config)


def config_from_flags() -> Config:
    """The flags as a checked `Config`.

    Raises:
      ValueError: a value that is not allowed; names it, what is allowed and the remedy.
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
    config = Config(**values)
    check(config)
    return config


def check(config: Config) -> None:
    """Refuses what cannot work, before any work; raises ValueError."""
    space = find_space(config.space)
    check_run(
        config,
        {
            name: getattr(config, name)
            for name in ("image_size", "search_image_size", "train_image_size")
        },
        2 * math.prod(block.stride for block in space.blocks),
        f"the {space.name} space",
    )
    check_epochs(config, config.train_epochs, "train_epochs")
    if not (math.isfinite(config.target_ms) and config.target_ms > 0):
        raise ValueError(f"--target_ms={config.target_ms}: give a positive latency in ms")
    if config.pareto_ms is not None:
        _check_budgets(config.pareto_ms)
    if config.derive == "argmax" and config.finalists > 1:
        raise ValueError(
            f"--finalists={config.finalists} --derive=argmax: argmax has one network "
            f"to offer; leave it out or give --derive=budget"
        )
    if not (math.isfinite(config.latency_weight) and config.latency_weight >= 0):
        raise ValueError(
            f"--latency_weight={config.latency_weight}: λ is 0 or more; a negative λ "
            f"would reward slow networks"
        )
    _check_estimator(config)


def _budgets(texts: list[str]) -> tuple[float, ...]:
    """The numbers of --pareto_ms, in order; raises ValueError."""
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
            f"--estimator=reinforce --latency_control={config.latency_control}: its "
            f"latency stands in the reward, which no other control reaches; give "
            f"--latency_control=fixed or another estimator"
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
