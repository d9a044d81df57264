"""Runs of a study: searches and trainings, each in its own folder, none done twice.

Several processes may work on one study: each leaves out the runs that another process holds.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.runs.run_folder import Workdir, WorkdirHeld, check_workdir
from experiments.search import derivation
from experiments.search.config import Config
from experiments.search.supernet_trainer import Trainer
from experiments.study import official_search
from experiments.study.comparison import Contender, Trained
from experiments.study.device_preferences import Found, expected_statistics
from experiments.study.training_recipe import recipe, training_size
from experiments.train.config import TrainConfig
from experiments.train.fit import fit
from experiments.train.training import Training
from jaxnas import budget, data, sampling
from jaxnas.latency import LatencyModel, LatencyTable
from jaxnas.network import Network
from jaxnas.search_state import Hyperparameters
from jaxnas.search_steps import Steps
from jaxnas.space import Space, format_arch
from jaxnas.space_file import find_space
from profiling import command
from profiling.progress import Progress

PROVENANCE = "official_code.json"  # what code made a search


class Runs:
    """Runs in folders of the study's --workdir.

    Attributes:
      missing: names of the runs that another process held, in the order of the calls.
    """

    def __init__(self, config: Config, progress: Progress):
        """Prepares a study's runs.

        Args:
          config: configuration of the study, whose recipe and folder all runs have.
          progress: shows the runs.
        """
        self.missing: list[str] = []
        self._config, self._progress = config, progress
        self._parts: dict[int, data.Parts] = {}
        # Compiled once, and used by all searches of the same space and parameters.
        self._search_steps: dict[tuple[Space, Hyperparameters], Steps] = {}

    def search(
        self, config: Config, table: LatencyTable, target_ms: float, seed: int
    ) -> Found | None:
        """Returns the result of a search with this table; None where another process holds it.

        Args:
          config: configuration of the study or of one of its other spaces; device, target, seed
            and folder are replaced.

        Raises:
          Stopped, NonFiniteLoss, CheckpointUnreadable: as a search or training on its own.
        """
        folder = self.search_folder(config, table, seed)
        config = _search_config(config, table, target_ms, seed, folder)
        return self._found(config, table, lambda workdir: self._searched(config, table, workdir))

    def official_search(self, code: pathlib.Path, table: LatencyTable, seed: int) -> Found | None:
        """Returns the result of a search by the official code; None as `search`.

        A path within the budget is derived from its α as it is from ours.

        Args:
          code: folder `search` of the code's clone.
          table: latency table of the study's device.
          seed: seed of the search.

        A search that another commit or another version of PyTorch made is refused.

        Raises:
          NonFiniteLoss: α has become infinite or not a number.
        """
        study, provenance = self._config, official_search.provenance(code)
        folder = pathlib.Path(study.workdir, f"official-{table.device.lower()}-seed{seed}")
        config = _search_config(study, table, study.target_ms, seed, folder)

        def searched(workdir: Workdir) -> dict[str, Any]:
            workdir.write_json(PROVENANCE, provenance)
            alpha = official_search.learned_alpha(
                code, config, self.parts_of(seed), table, workdir.path
            )
            path = derivation.candidate_paths(config, alpha, table, config.search_space.allowed)[0]
            return _found_document(config, table, alpha, path)

        found = self._found(config, table, searched)
        made_by = folder / PROVENANCE  # missing in a folder of an earlier version
        if found is not None and made_by.exists():
            made = json.loads(made_by.read_text())
            if made != provenance:
                with command.usage_errors():
                    raise ValueError(
                        f"--official_code={code}: {folder} was searched by {_of_code(made)}, and "
                        f"this is {_of_code(provenance)}; give that code, or a new --workdir"
                    )
        return found

    def _found(
        self, config: Config, table: LatencyTable, work: Callable[[Workdir], dict[str, Any]]
    ) -> Found | None:
        name, space = pathlib.Path(config.workdir).name, config.search_space
        document = self.once(name, config, "searched.json", work)
        if document is None:
            return None
        found = Found(**document)
        now_ms = table.path_ms(space.path(space.parse(found.architecture)))
        if abs(now_ms - found.predicted_ms) > 1e-6:
            with command.usage_errors():
                raise ValueError(
                    f"{config.workdir} was searched with another latency table of "
                    f"{table.device}: its network took {found.predicted_ms:.3f} ms by that "
                    f"table and takes {now_ms:.3f} ms by this one; name a new --workdir"
                )
        return found

    def search_folder(self, config: Config, table: LatencyTable, seed: int) -> pathlib.Path:
        """Returns the folder of a search; the arguments are those of `search`."""
        name = f"{config.search_space.name}-{table.device.lower()}-seed{seed}"
        if config.initialisation != self._config.initialisation:
            name = f"{config.initialisation}-{name}"
        return pathlib.Path(self._config.workdir, name)

    def train(self, contender: Contender, seed: int) -> Trained | None:
        """Returns the result of a training from scratch; None where another process holds it.

        Raises:
          Stopped, NonFiniteLoss, CheckpointUnreadable: as a search or training on its own.
        """
        study = self._config
        config = self._training(
            contender,
            seed,
            start="scratch",
            image_size=training_size(study),
            train_image_size=None,
            batch_size=study.batch_size,
            **recipe(study),
        )

        def network() -> Network:
            spec = dataclasses.replace(contender.spec, num_classes=self._num_classes)
            return Network(spec, rng=np.random.default_rng(seed))

        return self._fitted(config, network)

    def tune(
        self, contender: Contender, start: Callable[[int], Network], seed: int, training: Training
    ) -> Trained | None:
        """Returns the result of a training from weights that exist; None as `train`.

        Args:
          contender: the network.
          start: returns the network with its initial weights for a number of classes.
          seed: seed of the training.
          training: parameters of the training but for its seed.

        Raises:
          ValueError: there are no such weights.
          Stopped, NonFiniteLoss, CheckpointUnreadable: as a search or training on its own.
        """
        values = dataclasses.asdict(training)
        del values["seed"]
        config = self._training(contender, seed, start="supernet", **values)
        return self._fitted(config, lambda: start(self._num_classes))

    @property
    def _num_classes(self) -> int:
        return data.dataset(self._config.dataset).num_classes

    def _training(self, contender: Contender, seed: int, **values: Any) -> TrainConfig:
        """Returns the configuration of a training with the study's device and data."""
        study = self._config
        return TrainConfig(
            network=contender.name,
            architecture=contender.architecture,
            space=contender.space,
            space_name=None if contender.space is None else find_space(contender.space).name,
            seed=seed,
            workdir=str(pathlib.Path(study.workdir, f"train-{contender.name}-seed{seed}")),
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
                    "train_examples",
                    "deployment_epochs",
                    "data_workers",
                    "checkpoint_seconds",
                )
            }
            | values,
        )

    def _fitted(self, config: TrainConfig, network: Callable[[], Network]) -> Trained | None:
        name = pathlib.Path(config.workdir).name
        document = self.once(
            name, config, "trained.json", lambda workdir: self._trained(config, network(), workdir)
        )
        return None if document is None else Trained(**document)

    def once(
        self,
        name: str,
        config: Config | TrainConfig,
        file: str,
        work: Callable[[Workdir], dict[str, Any]],
    ) -> dict[str, Any] | None:
        """Returns the document that `work` returns, or returned before: `file` keeps it."""
        with command.usage_errors():
            check_workdir(config)
        done = pathlib.Path(config.workdir, file)
        if done.exists():
            return json.loads(done.read_text())
        try:
            workdir = Workdir(config)
        except WorkdirHeld:
            self._progress.print(f"{name} is left to the process that holds it", "yellow")
            self.missing.append(name)
            return None
        with workdir:
            document = workdir.read_json(file)  # another process may have just written it
            if document is None:
                self._progress.print(name, "bold")
                document = work(workdir)
                workdir.write_json(file, document)
        return document

    def _searched(self, config: Config, table: LatencyTable, workdir: Workdir) -> dict[str, Any]:
        table.save(workdir.path / "latency_table.json", config.search_space)
        latency = LatencyModel.of(table)
        trainer = Trainer(config, self.parts_of(config.seed), workdir, self._progress)
        made_of = trainer.made_of
        if made_of in self._search_steps:
            trainer.steps = self._search_steps[made_of]
        elif not trainer.is_over:  # a finished search takes no more steps
            trainer.compile(latency)
            self._search_steps[made_of] = trainer.steps
        trainer.search(latency)
        derived = derivation.derive(trainer, table, None)
        alpha = np.asarray(trainer.state.alpha)
        trainer.close()
        space = config.search_space
        return _found_document(config, table, alpha, space.path(space.parse(derived.architecture)))

    def _trained(self, config: TrainConfig, network: Network, workdir: Workdir) -> dict[str, Any]:
        fitted = fit(
            config.training,
            config.identity(),
            network,
            self.parts_of(config.seed),
            workdir,
            self._progress,
        )
        return dataclasses.asdict(
            Trained(
                config.seed,
                fitted.top1,
                fitted.held_out["top1"],
                fitted.held_out["epoch"],
                np.packbits(fitted.right).tobytes().hex(),
            )
        )

    def parts_of(self, seed: int) -> data.Parts:
        """Returns the data split by this seed, as in a separate run with this seed."""
        if seed not in self._parts:
            self._parts[seed] = dataclasses.replace(self._config, seed=seed).parts()
        return self._parts[seed]


def _of_code(provenance: Mapping[str, str]) -> str:
    return f"commit {provenance['commit']} with PyTorch {provenance['pytorch']}"


def _search_config(
    config: Config, table: LatencyTable, target_ms: float, seed: int, folder: pathlib.Path
) -> Config:
    return dataclasses.replace(
        config,
        device=table.device,
        latency_table=None,
        target_ms=target_ms,
        seed=seed,
        workdir=str(folder),
    )


def _found_document(
    config: Config, table: LatencyTable, alpha: np.ndarray, path: np.ndarray
) -> dict[str, Any]:
    space = config.search_space
    probabilities = np.asarray(sampling.probabilities(jnp.asarray(alpha), space.allowed))
    return dataclasses.asdict(
        Found(
            config.seed,
            format_arch(space.arch(path)),
            table.path_ms(path),
            expected_statistics(space, probabilities),
            table.path_ms(budget.most_probable_path(alpha, space.allowed)),
        )
    )
