"""Trains one network, evaluates each epoch on held-out data and keeps the best weights.

The last epochs are at the deployment size, and the best of these is delivered. A training is
resumable at any step.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.runs.loop import BEST, TRAIN, Loop, Metrics, Phase, checkpoint_folder
from experiments.runs.prefetch import BatchSizes, Feed, batch_shapes, right_answers
from experiments.runs.run_folder import Workdir
from experiments.runs.step_compilation import compiled_steps, readiness
from experiments.train.training import Training
from jaxnas import data, parallel, train_steps
from jaxnas.checkpoint import Checkpoints
from jaxnas.network import Network
from profiling import command
from profiling.progress import Progress


@dataclasses.dataclass(frozen=True)
class Best:
    """The weights with the best held-out accuracy at the deployment size; the latest if equal.

    Attributes:
      epoch: epoch of the training after which they were evaluated.
      top1: accuracy on the held-out part, as a fraction.
      params, stats: weights and statistics as evaluated: the moving average if there is one.
    """

    epoch: int
    top1: float
    params: train_steps.Tree
    stats: train_steps.Tree


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Result of a finished training.

    Attributes:
      right: bool [examples], whether each example of the test part is classified right at the
        deployment size in JAX.
      held_out: `held_out` of result.json: how the delivered weights were chosen.
    """

    right: np.ndarray
    held_out: dict[str, Any]

    @property
    def top1(self) -> float:
        """Accuracy on the test part, as a fraction."""
        return float(self.right.mean())


def fit(
    training: Training,
    identity: Mapping[str, Any],
    network: Network,
    parts: data.Parts,
    workdir: Workdir,
    progress: Progress,
    first_step: int = 0,
) -> Fitted:
    """Trains a network in place; it then has the weights to deliver.

    Args:
      training, identity, network, parts, workdir, progress, first_step: as for `NetworkTrainer`.

    Raises:
      Stopped, NonFiniteLoss, CheckpointUnreadable, ProcessesDiffer.
    """
    with command.usage_errors():
        trainer = NetworkTrainer(training, identity, network, parts, workdir, progress, first_step)
    trainer.run()
    parallel.check_same("the state after training", trainer.loop.state)
    best = trainer.best()
    right = trainer.test(best)
    trainer.close()
    nnx.update(network, *map(nnx.State, jax.device_get((best.params, best.stats))))
    return Fitted(
        right,
        {
            "top1": best.top1,
            "examples": len(parts.alpha),
            "epoch": best.epoch,
            "epochs": training.epochs,
        },
    )


def has_begun(workdir: Workdir, name: str = TRAIN) -> bool:
    """Returns whether the run's folder has a checkpoint of a network's training, or of `name`."""
    folder = checkpoint_folder(workdir.path, name)
    # A checkpoint is named by its step; what a killed save left has a longer name.
    return parallel.from_process_0(
        lambda: folder.is_dir() and any(file.name.isdigit() for file in folder.iterdir())
    )


class NetworkTrainer:
    """Holds the state of a training and takes its steps."""

    def __init__(
        self,
        training: Training,
        identity: Mapping[str, Any],
        network: Network,
        parts: data.Parts,
        workdir: Workdir,
        progress: Progress,
        first_step: int = 0,
    ):
        """Starts at the newest checkpoint in the workdir, or at the network's weights.

        Args:
          training: parameters of the training.
          identity: fields that distinguish two runs.
          network: network to train.
          parts: parts of the data set.
          workdir: folder of the run.
          progress: shows the phases.
          first_step: number of steps of the run before this training.

        Raises:
          ValueError: the checkpoint has another configuration, or the best weights are missing.
          CheckpointUnreadable: all checkpoints are damaged.
        """
        self.parts, self._training, self._progress = parts, training, progress
        self._workdir, self._first_step = workdir, first_step
        self.epoch_steps = training.epoch_steps(len(parts.weights), parts.weights.spec.name)
        recipe = training.recipe(self.epoch_steps)
        self._layout = parallel.layout()
        self._jitted = train_steps.make_steps(network, recipe, self._layout.replicated)
        self._steps = {size: self._jitted for size, _ in training.phases()}
        self._made_of = (network.spec, recipe)
        state = self._layout.replicate(train_steps.init_state(network, recipe, training.seed))
        self.loop = Loop(
            state,
            identity,
            workdir,
            progress,
            name=TRAIN,
            first_step=first_step,
            checkpoint_seconds=training.checkpoint_seconds,
        )
        self._best = Checkpoints(checkpoint_folder(workdir.path, BEST), identity)
        # A run may be killed after the best weights are saved and before its next checkpoint. The
        # steps in between are then repeated, with the same result.
        self._best_top1 = -1.0 if self._best.latest_step() is None else self.best().top1
        workdir.open_metrics(self.loop.step)
        deployment_start = recipe.steps - training.phases()[-1][1] * self.epoch_steps
        taken = self.loop.step - first_step
        if taken >= deployment_start + self.epoch_steps and self._best.latest_step() is None:
            raise ValueError(
                f"{checkpoint_folder(workdir.path, BEST)} is empty, but step {self.loop.step} is "
                f"after the first epoch at the deployment size; start again in an empty folder"
            )

    def run(self) -> None:
        """Takes the remaining steps; ends with a checkpoint.

        Raises:
          Stopped, NonFiniteLoss.
        """
        end, ahead = self._first_step, []
        for image_size, epochs in self._training.phases():
            start, end = end, end + epochs * self.epoch_steps
            if self.loop.step < end:
                ahead.append((image_size, start, end))
        if ahead:
            self._compile([image_size for image_size, _, _ in ahead])
        for phase in ahead:
            self._run_phase(*phase, is_last=phase == ahead[-1])
        self.loop.save(wait=True)

    def best(self) -> Best:
        """Reads the weights to deliver.

        Raises:
          CheckpointUnreadable: their checkpoints are damaged.
        """
        like = {"params": self.loop.state.params, "stats": self.loop.state.stats}
        weights, facts = self._best.restore(like)
        return Best(
            facts["step"] // self.epoch_steps,
            facts["metadata"]["top1"],
            weights["params"],
            weights["stats"],
        )

    def test(self, best: Best) -> np.ndarray:
        """Returns the right answers in JAX on the test part at the deployment size."""
        sizes = self._sizes(self._training.image_size)
        with self._progress.phase("test", total=1) as phase:
            right = self._right(best.params, best.stats, self.parts.test, sizes, phase.update)
            phase.end(
                f"top-1 {right.mean():.4f} in JAX on {len(self.parts.test)} examples, with the "
                f"weights of epoch {best.epoch}"
            )
        return right

    def close(self) -> None:
        """Waits until all checkpoints are written."""
        self.loop.close()
        self._best.close()

    def _sizes(self, image_size: int) -> BatchSizes:
        training = self._training
        return BatchSizes(training.batch_size, image_size, training.data_workers, training.seed)

    def _run_phase(self, image_size: int, start: int, end: int, is_last: bool) -> None:
        """Takes the remaining steps of the epochs at one size."""
        sizes, steps = self._sizes(image_size), self._steps[image_size]
        feed = Feed(self.parts.weights, sizes, self._layout, self.loop.step - self._first_step)

        def take(
            state: train_steps.NetworkState, done: int
        ) -> tuple[train_steps.NetworkState, Metrics]:
            return steps.train(state, next(feed))

        def end_epoch(state: train_steps.NetworkState) -> str:
            step = int(state.step)
            params, stats = steps.delivered(state)
            top1 = float(self._right(params, stats, self.parts.alpha, sizes).mean())
            self._workdir.log(
                self._first_step + step,
                "evaluate",
                epoch=step // self.epoch_steps,
                image_size=image_size,
                held_out_top1=top1,
            )
            if is_last and top1 >= self._best_top1:
                self._keep(step, params, stats, top1)
            return f"held out {top1:.4f} at {image_size} px"

        self.loop.run(Phase("train", start, end, take, [feed], self.epoch_steps, end_epoch))

    def _keep(
        self, step: int, params: train_steps.Tree, stats: train_steps.Tree, top1: float
    ) -> None:
        self._best_top1 = top1
        known = self._best.latest_step()
        if known is None or known < step:
            # Written before the run's next checkpoint, from which this epoch is not repeated.
            self._best.save(step, {"params": params, "stats": stats}, {"top1": top1})
            self._best.wait()

    def _compile(self, image_sizes: Sequence[int]) -> None:
        """Compiles the steps for each size, or loads them from the cache."""
        programs: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {}
        state = self._layout.replicated_shapes(self.loop.state)
        for size in image_sizes:
            batch, masked = batch_shapes(self._sizes(size), self._layout)
            programs[f"train-{size}px"] = self._jitted.train, (state, batch)
            programs[f"evaluate-{size}px"] = (
                self._jitted.evaluate,
                (state.params, state.stats, masked),
            )
        with self._progress.phase("compile", total=1.0) as phase:
            compiled = compiled_steps(programs, self._made_of, phase.update)
            phase.end(readiness(compiled))
        for size in image_sizes:
            self._steps[size] = dataclasses.replace(
                self._jitted,
                train=compiled[f"train-{size}px"],
                evaluate=compiled[f"evaluate-{size}px"],
            )

    def _right(
        self,
        params: train_steps.Tree,
        stats: train_steps.Tree,
        part: data.Part,
        sizes: BatchSizes,
        tick: Callable[[float, str], None] = lambda done, note: None,
    ) -> np.ndarray:
        return right_answers(
            lambda batch: self._steps[sizes.image_size].evaluate(params, stats, batch),
            part,
            sizes,
            self._layout,
            tick,
        )
