"""The runs of a study: searches and trainings, each in a folder of its own, none done twice.

Several processes may work in one study: a run that another process is at is left to it.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.runs.folder import Workdir, WorkdirHeld, check_workdir
from experiments.search import derivation
from experiments.search.config import Config
from experiments.search.trainer import Trainer
from experiments.study.affinities import Found, expected_statistics
from experiments.study.worth import Contender, Trained
from experiments.train.config import TrainConfig
from experiments.train.fit import fit
from jaxnas import data, sampling
from jaxnas.latency import LatencyModel, LatencyTable
from jaxnas.network import Network
from jaxnas.search_steps import Steps
from profiling import command
from profiling.progress import Progress


class Runs:
    """Runs in folders of the study's --workdir.

    Attributes:
      missing: names of the runs that another process was at, in the order they were asked for.
    """

    def __init__(self, config: Config, progress: Progress):
        """A study's runs.

        Args:
          config: of the study; searches differ from it in device, target, seed and folder.
        """
        self.missing: list[str] = []
        self._config, self._progress = config, progress
        self._parts: dict[int, data.Parts] = {}
        self._search_steps: Steps | None = None  # compiled once: all searches take the same

    def search(self, table: LatencyTable, target_ms: float, seed: int) -> Found | None:
        """What a search with this table found; None where another process is at it.

        Raises:
          Stopped, NonFiniteLoss, CheckpointUnreadable.
        """
        name = f"{table.device.lower()}-seed{seed}"
        config = dataclasses.replace(
            self._config,
            device=table.device,
            latency_table=None,
            target_ms=target_ms,
            seed=seed,
            workdir=str(pathlib.Path(self._config.workdir, name)),
        )
        document = self._once(
            name, config, "searched.json", lambda workdir: self._searched(config, table, workdir)
        )
        if document is None:
            return None
        found = Found(**document)
        space = config.search_space
        now_ms = table.path_ms(space.path(space.parse(found.architecture)))
        if abs(now_ms - found.predicted_ms) > 1e-6:
            with command.usage_errors():
                raise ValueError(
                    f"{config.workdir} was searched with another latency table of "
                    f"{table.device}: its network took {found.predicted_ms:.3f} ms "
                    f"there and takes {now_ms:.3f} ms now; name a new --workdir"
                )
        return found

    def train(self, contender: Contender, seed: int) -> Trained | None:
        """What a training from scratch came to; None where another process is at it.

        Raises:
          Stopped, NonFiniteLoss, CheckpointUnreadable.
        """
        name = f"train-{contender.name}-seed{seed}"
        study = self._config
        config = TrainConfig(
            network=contender.name,
            architecture=contender.architecture,
            space=contender.space,
            start="scratch",
            seed=seed,
            workdir=str(pathlib.Path(study.workdir, name)),
            image_size=training_size(study),
            train_image_size=None,
            **recipe(study),
            **{
                field: getattr(study, field)
                for field in (
                    "device",
                    "shaves",
                    "threads",
                    "worker_prefix",
                    "store",
                    "dataset",
                    "data_dir",
                    "held_out",
                    "deployment_epochs",
                    "batch_size",
                    "data_workers",
                    "checkpoint_seconds",
                )
            },
        )
        document = self._once(
            name, config, "trained.json", lambda workdir: self._trained(config, contender, workdir)
        )
        return None if document is None else Trained(**document)

    def _once(
        self,
        name: str,
        config: Config | TrainConfig,
        file: str,
        work: Callable[[Workdir], dict[str, Any]],
    ) -> dict[str, Any] | None:
        """What `work` gives, kept in the run's folder, or gave before."""
        with command.usage_errors():
            check_workdir(config)
        done = pathlib.Path(config.workdir, file)
        if done.exists():
            return json.loads(done.read_text())
        try:
            workdir = Workdir(config)
        except WorkdirHeld:
            self._progress.print(f"{name} is left to the process that is at it", "yellow")
            self.missing.append(name)
            return None
        with workdir:
            document = workdir.read_json(file)  # that process may have ended just now
            if document is None:
                self._progress.print(name, "bold")
                document = work(workdir)
                workdir.write_json(file, document)
        return document

    def _searched(self, config: Config, table: LatencyTable, workdir: Workdir) -> dict[str, Any]:
        table.save(workdir.path / "latency_table.json", config.search_space)
        latency = LatencyModel.of(table)
        trainer = Trainer(config, self._parts_of(config.seed), workdir, self._progress)
        if self._search_steps is not None:
            trainer.steps = self._search_steps
        elif not trainer.is_over:  # one that is over has no steps to take
            trainer.compile(latency)
            self._search_steps = trainer.steps
        trainer.search(latency)
        derived = derivation.derive(trainer, table, None)
        allowed = config.search_space.allowed
        expected = expected_statistics(
            config.search_space, np.asarray(sampling.probabilities(trainer.state.alpha, allowed))
        )
        trainer.close()
        return dataclasses.asdict(
            Found(config.seed, derived.architecture, derived.predicted_ms, expected)
        )

    def _trained(
        self, config: TrainConfig, contender: Contender, workdir: Workdir
    ) -> dict[str, Any]:
        num_classes = data.dataset(config.dataset).num_classes
        network = Network(
            dataclasses.replace(contender.spec, num_classes=num_classes),
            rng=np.random.default_rng(config.seed),
        )
        fitted = fit(
            config.training,
            config.identity(),
            network,
            self._parts_of(config.seed),
            workdir,
            self._progress,
        )
        return dataclasses.asdict(
            Trained(config.seed, fitted.top1, fitted.held_out["top1"], fitted.held_out["epoch"])
        )

    def _parts_of(self, seed: int) -> data.Parts:
        """The data as this seed divides it, as a run of its own would have them."""
        if seed not in self._parts:
            self._parts[seed] = data.load(
                self._config.dataset,
                self._config.data_dir,
                seed=seed,
                held_out=self._config.held_out,
            )
        return self._parts[seed]


def training_size(config: Config) -> int:
    """The size in px at which every network of a study is trained and tested."""
    return config.train_image_size or config.image_size


def recipe(config: Config) -> dict[str, Any]:
    """How every network of a study is trained: as experiments.train does by default, but for what
    the study's flags say: epochs, weight decay, label smoothing and precision."""
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
