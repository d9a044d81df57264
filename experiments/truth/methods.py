"""The methods of one seed: what each supernet scores and chooses, and how true that is."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import stats

from experiments.runs.run_folder import Workdir
from experiments.search import derivation
from experiments.search.config import Config
from experiments.search.path_scores import inherited_top1
from experiments.search.supernet_trainer import Trainer
from experiments.truth.config import ALONE, EVEN, Truth
from experiments.truth.nas_bench_macro import LEAST_FRACTION, SPACE, macs_table, name_of
from jaxnas import data
from jaxnas.evolution import best, evolve
from jaxnas.latency import LatencyModel
from jaxnas.search_state import SearchState
from profiling.progress import Progress

WARM_UP = "warmup"
DERIVED, EVOLUTION, BEST_OF = "most probable", "evolution", "best of random"


def scored_networks(truth: Truth) -> np.ndarray:
    """Returns the random networks whose scores are compared with the truth, indices by seed."""
    rng = np.random.default_rng(truth.config.seed)
    return rng.choice(len(truth.benchmark.paths), truth.networks, replace=False)


def seed_document(
    truth: Truth, seed: int, parts: data.Parts, progress: Progress, workdir: Workdir
) -> dict[str, Any]:
    """Returns the results of all methods with one seed.

    All continue one warm-up, or the supernet of `even`. A resumed run does not repeat what is done.

    Args:
      truth: configuration of the study.
      seed: seed of the supernets.
      parts: parts of the data set, by this seed.
      progress: shows the phases.
      workdir: folder of the seed; each supernet has a folder in it.

    Returns:
      {"seed": seed, "runs": [...]}, an entry for each run: method; budget in millions (None for
      `even`); tau, Kendall's τ of its scores and the truth (None where they are not computed);
      chosen, by rule and budget the network and its true top1.

    Raises:
      Stopped, NonFiniteLoss, CheckpointUnreadable.
    """
    one = _Seed(truth, seed, parts, workdir.path, progress)
    runs = []
    for method in truth.methods:
        if method == EVEN:
            runs.append(one.run(EVEN, None, one.even))
            continue
        for budget in truth.budgets:
            choose = functools.partial(one.searched, method, budget)
            runs.append(one.run(method, budget, choose))
    return {"seed": seed, "runs": runs}


@dataclasses.dataclass
class _Seed:
    """One seed's supernets; states that several start from, and scores with `even`'s weights."""

    truth: Truth
    seed: int
    parts: data.Parts
    folder: pathlib.Path
    progress: Progress
    states: dict[str, SearchState] = dataclasses.field(default_factory=dict)
    scores: dict[str, float] = dataclasses.field(default_factory=dict)

    def run(
        self, method: str, budget: float | None, choose: Callable[[Trainer], dict[str, Any]]
    ) -> dict[str, Any]:
        """Returns a supernet's entry, from its folder if it is there.

        Another choice of scored networks or budgets scores the trained supernet again.
        """
        name = method if budget is None else f"{method}-{budget:g}"
        config, file = self._config(name, method, budget), f"chosen-{self.truth.key}.json"
        with Workdir(config) as workdir:
            document = workdir.read_json(file)
            if document is None:
                self.progress.print(f"seed {self.seed}, {name}", "bold")
                trainer = Trainer(config, self.parts, workdir, self.progress)
                latency = None if budget is None else LatencyModel.of(macs_table())
                self._train(trainer, method, latency)
                document = {"method": method, "budget": budget, **choose(trainer)}
                trainer.close()
                workdir.write_json(file, document)
        return document

    def even(self, trainer: Trainer) -> dict[str, Any]:
        """Scores the random networks; chooses by evolution and by best of random."""
        truth, score = self.truth, _cached(functools.partial(inherited_top1, trainer), self.scores)
        chosen: dict[str, Any] = {EVOLUTION: {}, BEST_OF: {}}
        for budget in truth.budgets:
            rng = np.random.default_rng(self.seed)
            drawn = rng.permutation(truth.benchmark.within(budget))[: truth.evaluations]
            paths = truth.benchmark.paths[drawn]
            start = paths[: max(1, len(paths) // 2)]
            chosen[BEST_OF][f"{budget:g}"] = self._truth_of(max(paths, key=score))
            chosen[EVOLUTION][f"{budget:g}"] = self._truth_of(self._evolved(score, start, budget))
        return {"tau": self._tau(score), "chosen": chosen}

    def searched(self, method: str, budget: float, trainer: Trainer) -> dict[str, Any]:
        """Derives from α by its probabilities, and by evolution from its most probable paths."""
        is_alone, budgets = method.startswith(ALONE), self.truth.budgets
        score = _cached(functools.partial(inherited_top1, trainer), self.scores if is_alone else {})
        rule = dataclasses.replace(
            trainer.config,
            finalists=max(1, self.truth.evaluations // 2),
            tolerance=2 * (1 - LEAST_FRACTION),
        )
        alpha = np.asarray(trainer.state.alpha)
        compared = budget == budgets[len(budgets) // 2] and not is_alone
        paths = derivation.candidate_paths(rule, alpha, macs_table(), SPACE.allowed)
        chosen = {DERIVED: paths[0], EVOLUTION: self._evolved(score, paths, budget)}
        return {
            "tau": self._tau(score) if compared else None,
            "chosen": {
                name: {f"{budget:g}": self._truth_of(path)} for name, path in chosen.items()
            },
        }

    def _evolved(
        self, score: Callable[[np.ndarray], float], start: np.ndarray, budget: float
    ) -> np.ndarray:
        benchmark = self.truth.benchmark
        allowed = {name_of(path) for path in benchmark.paths[benchmark.within(budget)]}
        return best(
            evolve(
                score,
                [*start],
                lambda path: name_of(path) in allowed,
                SPACE,
                self.truth.evaluations,
                self.seed,
            )
        )

    def _tau(self, score: Callable[[np.ndarray], float]) -> float:
        """Returns Kendall's τ of the scores and the true accuracies of the random networks."""
        index = scored_networks(self.truth)
        scores = []
        with self.progress.phase("score", total=len(index)) as phase:
            for path in self.truth.benchmark.paths[index]:
                scores.append(score(path))
                phase.update(len(scores))
        return float(stats.kendalltau(scores, self.truth.benchmark.top1[index]).statistic)

    def _truth_of(self, path: np.ndarray) -> dict[str, Any]:
        return {"network": name_of(path), "true_top1": self.truth.benchmark.top1_of(path)}

    def _train(self, trainer: Trainer, method: str, latency: LatencyModel | None) -> None:
        """Takes the remaining steps of a method's run."""
        is_alone = method.startswith(ALONE)
        if is_alone and not trainer.loop.resumed:
            trainer.continue_from(self._state(EVEN))
        elif trainer.step < trainer.schedule.warmup_end:
            trainer.continue_from(self._state(WARM_UP))
        trainer.compile(latency, scores=True)
        if latency is not None and is_alone:
            trainer.learn_alpha(latency)
        else:
            trainer.search(latency)

    def _state(self, name: str) -> SearchState:
        """Returns the state at the end of the warm-up or of `even`, trained, or read, once."""
        if name not in self.states:
            config = self._config(name, EVEN, None)
            with Workdir(config) as workdir:
                trainer = Trainer(config, self.parts, workdir, self.progress)
                if name == EVEN and not trainer.is_over:
                    self._train(trainer, EVEN, None)
                elif trainer.step < trainer.schedule.warmup_end:
                    trainer.compile(None, scores=True)
                    trainer.warm_up()
                    trainer.loop.save(wait=True)
                trainer.close()
                self.states[name] = trainer.state
        return self.states[name]

    def _config(self, name: str, method: str, budget: float | None) -> Config:
        estimator = method.removeprefix(ALONE)
        changes: Mapping[str, Any] = {} if method == EVEN else {"estimator": estimator}
        if estimator == "reinforce":  # which has the latency in its reward
            changes = {**changes, "latency_control": "fixed"}
        return dataclasses.replace(
            self.truth.config,
            seed=self.seed,
            target_ms=self.truth.config.target_ms if budget is None else budget,
            workdir=str(self.folder / name),
            **changes,
        )


def _cached(
    score: Callable[[np.ndarray], float], scores: dict[str, float]
) -> Callable[[np.ndarray], float]:
    """Returns a score that is computed once for each path and kept by name in `scores`."""

    def cached(path: np.ndarray) -> float:
        name = name_of(path)
        if name not in scores:
            scores[name] = score(path)
        return scores[name]

    return cached
