"""One network's training: epochs, evaluation on held-out data, the best kept; resumable anywhere.

A batch depends on seed and step alone, so a run goes on from its step number. An epoch's last step
is followed by its evaluation before anything is saved, so a checkpoint never lies between the two.
"""

import dataclasses
import math
import time

import jax
import jax.numpy as jnp

from experiments.compilation import compiled_steps, readiness
from experiments.feeding import Feed, evaluation
from experiments.stopping import Stopped, agreed, stop_requests
from experiments.train_config import TrainConfig
from experiments.training import NonFiniteLoss
from experiments.workdir import Workdir
from jaxnas import data, network_steps, parallel
from jaxnas.checkpoint import Checkpoints
from jaxnas.network import Network
from profiling.progress import Progress

LOG_EVERY = 10


@dataclasses.dataclass(frozen=True)
class Best:
    """The weights that did best on held-out data; of equals the later.

    Attributes:
      step: when they were evaluated.
      top1: on the held-out part, a fraction.
      params, stats: as they were evaluated, the average's where one is kept.
    """

    step: int
    top1: float
    params: network_steps.Tree
    stats: network_steps.Tree


def steps_an_epoch(config: TrainConfig, examples: int) -> int:
    """Raises ValueError where the batch is larger than the part that is trained on."""
    if config.batch_size > examples:
        raise ValueError(f"--batch_size={config.batch_size}: {config.dataset} has {examples} "
                         f"examples to train on; give at most that many")
    return examples // config.batch_size


class NetworkTrainer:
    """Holds the state of a training and takes it to its end."""

    def __init__(self, config: TrainConfig, network: Network, parts: data.Parts, workdir: Workdir,
                 progress: Progress):
        """Starts at the workdir's newest checkpoint, or at the network's weights.

        Raises:
          ValueError: a checkpoint of another configuration, or one that is not there any more.
          CheckpointUnreadable: all checkpoints are damaged.
        """
        self.config, self.parts = config, parts
        self.workdir, self.progress = workdir, progress
        self.epoch_steps = steps_an_epoch(config, len(parts.weights))
        recipe = config.recipe(self.epoch_steps)
        self.end = recipe.steps
        self._layout = parallel.layout()
        self.steps = network_steps.make_steps(network, recipe, self._layout.replicated)
        self._made_of = (network.spec, recipe)
        self.state = self._layout.replicate(
            network_steps.init_state(network, recipe, config.seed))
        self._checkpoints = Checkpoints(workdir.path / "checkpoints", config.identity())
        self._best = Checkpoints(workdir.path / "best", config.identity())
        if self._checkpoints.latest_step() is not None:
            self.state, _ = self._checkpoints.restore(self.state)
            progress.print(f"going on from step {int(self.state.step)} in {workdir.path}")
        self.step = int(self.state.step)
        # A kill may have come between the best and its run's checkpoint. The steps up to it are
        # then taken again, to the same weights.
        self._best_top1 = -1.0 if self._best.latest_step() is None else self.best().top1
        if self.step >= self.epoch_steps and self._best.latest_step() is None:
            raise ValueError(f"{workdir.path / 'best'} is empty, though step {self.step} is past "
                             f"the first epoch; begin again in an empty folder")
        workdir.open_metrics(self.step)
        self._saved_at = time.monotonic()

    def compile(self) -> None:
        """Compiles the steps."""
        size, batch_size = self.config.train_image_size, self.config.batch_size
        batch = {"image": jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.float32),
                 "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32)}
        mask = {"mask": jax.ShapeDtypeStruct((batch_size,), jnp.float32)}
        batch, masked = map(self._layout.divided_shapes, (batch, batch | mask))
        state = self._layout.replicated_shapes(self.state)
        programs = {"train": (self.steps.train, (state, batch)),
                    "evaluate": (self.steps.evaluate, (state.params, state.stats, masked))}
        with self.progress.phase("compile", total=1.0) as phase:
            compiled = compiled_steps(programs, self._made_of, phase.update)
            phase.end(readiness(compiled))
        self.steps = dataclasses.replace(self.steps, **compiled)

    def run(self) -> None:
        """Takes the steps that are still to be taken; ends with a checkpoint.

        Raises:
          Stopped, NonFiniteLoss.
        """
        if self.step == self.end:
            return
        config = self.config
        batches = Feed(self.parts.weights, config, self._layout, self.step)
        begun, note = (time.monotonic(), self.step), ""
        with self.progress.phase("train", self.end, self.step) as phase, stop_requests() as asked:
            while self.step < self.end:
                self.state, metrics = self.steps.train(self.state, next(batches))
                self.step += 1
                epoch_ends = self.step % self.epoch_steps == 0
                noted = batches.idle = self.step % LOG_EVERY == 0 or epoch_ends
                due = time.monotonic() - self._saved_at > config.checkpoint_seconds
                stop, due = agreed(asked, due, noted)
                if noted:
                    values = self._finite(metrics)
                    self.workdir.log(self.step, "train", **values)
                    note = f"loss {values['ce']:.3f}  top-1 {values['top1']:.2f}"
                elif due or stop:
                    self._finite(metrics)  # what is saved must be worth it
                if epoch_ends:
                    self._evaluate_epoch()
                phase.update(self.step, f"{note}  held-out best {max(0, self._best_top1):.4f}")
                if stop:
                    self._save(wait=True)
                    raise Stopped(f"stopped at step {self.step}", asked.preempted)
                if due:
                    self._save()
            phase.end(f"{note}  held-out best {self._best_top1:.4f}")
        batches.tell_waiting(self.progress, (time.monotonic() - begun[0]) / (self.end - begun[1]))
        batches.close()
        self._save(wait=True)

    def best(self) -> Best:
        """The weights that are delivered.

        Raises:
          CheckpointUnreadable: all that was kept of them is damaged.
        """
        like = {"params": self.state.params, "stats": self.state.stats}
        weights, facts = self._best.restore(like)
        return Best(facts["step"], facts["metadata"]["top1"], weights["params"],
                    weights["stats"])

    def test(self, best: Best) -> float:
        """Top-1 on the test part, a fraction."""
        with self.progress.phase("test", total=1) as phase:
            top1 = self._top1(best.params, best.stats, self.parts.test)
            phase.end(f"top-1 {top1:.4f} on {len(self.parts.test)} examples, with the weights of "
                      f"step {best.step}")
        return top1

    def close(self) -> None:
        """Waits for what is being written."""
        self._checkpoints.close()
        self._best.close()

    def _evaluate_epoch(self) -> None:
        params, stats = self.steps.delivered(self.state)
        top1 = self._top1(params, stats, self.parts.alpha)
        self.workdir.log(self.step, "evaluate", epoch=self.step // self.epoch_steps,
                         held_out_top1=top1)
        if top1 < self._best_top1:
            return
        self._best_top1 = top1
        known = self._best.latest_step()
        if known is None or known < self.step:
            # On disk before any checkpoint of the run can be: it is not evaluated again from there.
            self._best.save(self.step, {"params": params, "stats": stats}, {"top1": top1},
                            wait=True)

    def _top1(self, params: network_steps.Tree, stats: network_steps.Tree,
              part: data.Part) -> float:
        correct = count = 0.0
        for batch in evaluation(part, self.config, self._layout):
            sums = self.steps.evaluate(params, stats, batch)
            correct, count = correct + float(sums["correct"]), count + float(sums["count"])
        return correct / count

    def _save(self, wait: bool = False) -> None:
        if self._checkpoints.latest_step() != self.step:
            self._checkpoints.save(self.step, self.state, wait=wait)
        self._saved_at = time.monotonic()

    def _finite(self, metrics: dict[str, jax.Array]) -> dict[str, float]:
        values = {key: float(value) for key, value in metrics.items()}
        if not all(map(math.isfinite, values.values())):
            raise NonFiniteLoss(f"by step {self.step} the loss is no number any more ({values}): "
                                f"lower --learning_rate; the checkpoint before is kept")
        return values
