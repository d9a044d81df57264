"""The supernet's training: warm-up, search and fine-tuning, resumable at any step.

All three are one loop over the same compiled weight step. What differs is where the path comes
from (drawn from α, or the derived one), the learning rate's cosine, and whether architecture steps
fall in between. A batch depends on seed and step alone, so a run goes on from its step number.
"""

import dataclasses
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.compilation import Step, compiled_steps, readiness
from experiments.config import Config
from experiments.feeding import Feed, evaluation
from experiments.stopping import Stopped, agreed, stop_requests
from experiments.workdir import Workdir
from jaxnas import data, parallel, steps
from jaxnas.checkpoint import Checkpoints
from jaxnas.latency import LatencyModel
from profiling.progress import Phase, Progress

Tree = Any  # nested dicts of arrays
LOG_EVERY = 10


class NonFiniteLoss(RuntimeError):
    """The loss is not a number any more."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Where the phases of a run lie, in weight steps."""

    steps_an_epoch: int
    warmup: int
    search: int
    finetune: int

    @classmethod
    def of(cls, config: Config, examples: int) -> "Schedule":
        """Raises ValueError where the batch is larger than the part for the weights."""
        if config.batch_size > examples:
            raise ValueError(f"--batch_size={config.batch_size}: {config.dataset} has {examples} "
                             f"examples for the weights; give at most that many")
        epoch = examples // config.batch_size
        return cls(epoch, config.warmup_epochs * epoch, config.search_epochs * epoch,
                   config.finetune_epochs * epoch)


class Trainer:
    """Holds the state of a run and takes it through its phases.

    Attributes:
      steps: of the run; compiled ones of an equal configuration may take their place.
    """

    def __init__(self, config: Config, parts: data.Parts, workdir: Workdir, progress: Progress):
        """Starts at the workdir's newest checkpoint, or afresh.

        Raises:
          ValueError: a checkpoint of another configuration.
        """
        self.config, self.space = config, config.search_space
        self.parts, self.workdir, self.progress = parts, workdir, progress
        self.num_classes = data.dataset(config.dataset).num_classes
        self.schedule = Schedule.of(config, len(parts.weights))
        self._layout = parallel.layout()
        hyper = self._hyper = steps.Hyperparameters(
            weight_decay=config.weight_decay, label_smoothing=config.label_smoothing,
            alpha_learning_rate=config.alpha_learning_rate,
            initialisation=config.initialisation, estimator=config.estimator,
            gumbel_temperature=config.gumbel_temperature or steps.GUMBEL_TEMPERATURE,
            latency_control=config.latency_control, precision=config.precision)
        self.steps = steps.make_steps(self.space, hyper, self._layout.replicated)
        self.state = self._layout.replicate(
            steps.init_state(self.space, self.num_classes, hyper, config.seed))
        self._checkpoints = Checkpoints(workdir.path / "checkpoints", config.identity())
        self.path: np.ndarray | None = None  # int32 [blocks], once it is derived
        if self._checkpoints.latest_step() is not None:
            self.state, _ = self._checkpoints.restore(self.state)
            progress.print(f"going on from step {int(self.state.step)} in {workdir.path}")
        self.step = int(self.state.step)
        workdir.open_metrics(self.step)
        self._saved_at = time.monotonic()

    @property
    def finetuning(self) -> bool:
        """Whether warm-up and search are over."""
        return self.step >= self.schedule.warmup + self.schedule.search

    def may_keep(self, device_ms: float | None, device: object | None) -> bool:
        """Whether an architecture derived before stands: its search is over, and where nobody has
        measured it though the device is there now, its fine-tuning has begun."""
        end = self.schedule.warmup + self.schedule.search
        return self.step >= end and (device_ms is not None or device is None or self.step > end)

    def compile(self, latency: LatencyModel) -> None:
        """Compiles the steps that are still to be taken, or loads them where they are kept."""
        whole = self._layout.replicated_shapes
        path = whole(jax.ShapeDtypeStruct((len(self.space.blocks),), jnp.int32))
        scalar = whole(jax.ShapeDtypeStruct((), jnp.float32))
        state, latency, batch = whole(self.state), whole(latency), self._batch_shapes()
        programs = {"weight": (self.steps.weight, (state, batch, path, scalar, scalar))}
        if not self.finetuning:
            programs["arch"] = (self.steps.arch, (state, batch, latency, scalar, scalar))
        masked = self._batch_shapes(mask=True)
        programs["evaluate"] = (self.steps.evaluate, (state.params, state.stats, path, masked))
        with self.progress.phase("compile", total=1.0) as phase:
            compiled = compiled_steps(programs, (self.space, self._hyper), phase.update)
            phase.end(readiness(compiled))
        self.steps = dataclasses.replace(self.steps, **compiled)

    def search(self, latency: LatencyModel) -> None:
        """Warm-up, then weight steps with architecture steps between; ends with a checkpoint.

        Raises:
          Stopped, NonFiniteLoss.
        """
        schedule, config = self.schedule, self.config
        self._run("warm-up", 0, schedule.warmup, config.warmup_learning_rate, None)
        self._await_arch_step()
        alpha_from = schedule.warmup + schedule.steps_an_epoch  # no α step in the first epoch
        self._run("search", schedule.warmup, schedule.search, config.search_learning_rate,
                  (self._layout.replicate(latency), alpha_from))
        if self.step == schedule.warmup + schedule.search:
            self.save(wait=True)

    def finetune(self) -> None:
        """Recalibrates the derived path's statistics, trains it, and recalibrates again.

        Raises:
          Stopped, NonFiniteLoss.
        """
        start = self.schedule.warmup + self.schedule.search
        if self.step == start:
            self._calibrate()
        self._run("fine-tune", start, self.schedule.finetune, self.config.finetune_learning_rate,
                  None)
        self.save(wait=True)
        self._calibrate()

    def test(self) -> float:
        """Top-1 of the derived path on the test part, running statistics; a fraction."""
        with self.progress.phase("test", total=1.0) as phase:
            top1 = self._top1(phase, self.parts.test, self.path, self.state.stats)
            phase.end(f"top-1 {top1:.4f} on {len(self.parts.test)} examples")
        return top1

    def inherited_top1(self, path: np.ndarray) -> float:
        """Top-1, a fraction, of a path with the weights as they stand on the part held out for α.

        Its batch statistics are its own, recalibrated; the trainer's state stays as it is.

        Args:
          path: int32 [blocks].
        """
        stats = self._calibrated_stats(path)
        with self.progress.phase("held out", total=1.0) as phase:
            return self._top1(phase, self.parts.alpha, path, stats)

    def save(self, wait: bool = False) -> None:
        """Writes a checkpoint, unless one of this step is there."""
        if self._checkpoints.latest_step() != self.step:
            self._checkpoints.save(self.step, self.state, wait=wait)
        self._saved_at = time.monotonic()

    def close(self) -> None:
        """Waits for what is being written."""
        self._checkpoints.close()

    def _await_arch_step(self) -> None:
        """Says so where it is still being compiled, which it is beside the warm-up."""
        step = self.steps.arch
        if isinstance(step, Step) and not step.is_ready:
            with self.progress.phase("compile", total=1.0) as phase:
                step.wait(lambda: phase.update(0.0, "the arch step"))
                phase.end("the arch step")

    def _batch_shapes(self, mask: bool = False) -> dict[str, jax.ShapeDtypeStruct]:
        size, batch = self.config.train_image_size, self.config.batch_size
        shapes = {"image": jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32),
                  "label": jax.ShapeDtypeStruct((batch,), jnp.int32)}
        if mask:
            shapes["mask"] = jax.ShapeDtypeStruct((batch,), jnp.float32)
        return self._layout.divided_shapes(shapes)

    def _feed(self, part: data.Part, start_step: int) -> Feed:
        return Feed(part, self.config, self._layout, start_step)

    def _run(self, name: str, start: int, length: int, peak: float,
             arch: tuple[LatencyModel, int] | None) -> None:
        """Takes the phase's steps that are still to be taken."""
        end = start + length
        if self.step >= end:
            return
        every = self.config.alpha_every
        learning_rate = optax.cosine_decay_schedule(peak, length)
        feeds = [self._feed(self.parts.weights, self.step)]
        if arch is not None:
            taken = max(0, self.step // every - arch[1] // every)
            feeds.append(self._feed(self.parts.alpha, taken))
        begun = time.monotonic(), self.step
        values: dict[str, float] = {}
        arch_metrics: steps.Metrics = {}
        with (self.progress.phase(name, length, self.step - start) as phase,
              stop_requests() as asked):
            while self.step < end:
                path = (self.steps.sample(self.state) if self.path is None
                        else np.int32(self.path))
                rate = np.float32(learning_rate(self.step - start))
                self.state, metrics = self.steps.weight(
                    self.state, next(feeds[0]), path, rate,
                    np.float32(steps.STATISTICS_MOMENTUM))
                self.step += 1
                if arch is not None and self.step > arch[1] and self.step % every == 0:
                    arch_metrics = self._arch_step(arch[0], next(feeds[1]))
                noted = feeds[0].idle = self.step % LOG_EVERY == 0 or self.step == end
                due = time.monotonic() - self._saved_at > self.config.checkpoint_seconds
                stop, due = agreed(asked, due, noted)
                if noted:
                    values = self._finite(metrics | arch_metrics)
                    self.workdir.log(self.step, name, learning_rate=float(rate), **values)
                    phase.update(self.step - start, _note(values))
                elif due or stop:
                    self._finite(metrics | arch_metrics)  # what is saved must be worth it
                if stop:
                    self.save(wait=True)
                    raise Stopped(f"stopped at step {self.step}", asked.preempted)
                if due:
                    self.save()
            phase.end(_note(values))
        feeds[0].tell_waiting(self.progress, (time.monotonic() - begun[0]) / (end - begun[1]))
        for feed in feeds:
            feed.close()

    def _arch_step(self, latency: LatencyModel, batch: data.Batch) -> steps.Metrics:
        changes, metrics = self.steps.arch(
            self.state, batch, latency, np.float32(self.config.target_ms),
            np.float32(self.config.latency_weight))
        self.state = dataclasses.replace(self.state, **changes)
        return metrics

    def _top1(self, phase: Phase, part: data.Part, path: np.ndarray, stats: Tree) -> float:
        """Top-1 of a path on a part, a fraction; the phase's total is 1."""
        correct = count = 0.0
        for batch in evaluation(part, self.config, self._layout):
            sums = self.steps.evaluate(self.state.params, stats, np.int32(path), batch)
            correct, count = correct + float(sums["correct"]), count + float(sums["count"])
            phase.update(count / len(part), f"top-1 {correct / count:.4f}")
        return correct / count

    def _calibrate(self) -> None:
        """Gives the derived path statistics of its own and a momentum that begins at 0."""
        self.state = dataclasses.replace(
            self.state, stats=self._calibrated_stats(self.path),
            momentum=self._layout.replicate(jax.tree.map(
                lambda leaf: np.zeros(leaf.shape, leaf.dtype), self.state.momentum)))

    def _calibrated_stats(self, path: np.ndarray) -> Tree:
        """Running statistics with a path's set to the mean over batches of what its batches have.

        These are no training steps: of the state they give nothing but the statistics is kept.
        """
        batches = self._feed(self.parts.weights, 0)
        moving = jax.tree.map(jnp.copy, self.state)  # a weight step consumes what it is given
        with self.progress.phase("calibrate", self.config.calibration_batches) as phase:
            for i in range(self.config.calibration_batches):
                moving, _ = self.steps.weight(
                    moving, next(batches), np.int32(path), np.float32(0), np.float32(i / (i + 1)))
                phase.update(i + 1)
        batches.close()
        return moving.stats

    def _finite(self, metrics: steps.Metrics) -> dict[str, float]:
        values = {key: float(value) for key, value in metrics.items()}
        if not all(map(math.isfinite, values.values())):
            raise NonFiniteLoss(f"by step {self.step} the loss is no number any more ({values}): "
                                f"lower the learning rate; the checkpoint before is kept")
        return values


def _note(values: dict[str, float]) -> str:
    parts = []
    for key, text in (("ce", "loss {:.3f}"), ("top1", "top-1 {:.2f}"),
                      ("expected_ms", "E[LAT] {:.2f} ms"), ("entropy", "entropy {:.2f}")):
        if key in values:
            parts.append(text.format(values[key]))
    return "  ".join(parts)
