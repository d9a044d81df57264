"""Training of the supernet and α: warm-up and search, resumable at any step.

Both are phases of one loop over the same compiled weight step. They differ in the cosine of the
learning rate and in the α steps between the search's weight steps. A study may take a search's α
steps alone instead, on trained weights. With shared initialization the
first half of the warm-up trains the function that a block's candidates share, as the smallest
ones; then all take it over and are trained apart.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.runs.config import RISE_EPOCHS
from experiments.runs.loop import LOG_EVERY, SEARCH, Loop, Metrics, Phase
from experiments.runs.prefetch import BatchSizes, Feed, batch_shapes
from experiments.runs.run_folder import Workdir
from experiments.runs.step_compilation import Step, compiled_steps, readiness
from experiments.search.config import Config
from experiments.search.schedule import Schedule
from experiments.train.fit import has_begun
from experiments.train.published_weights import drawn_examples
from jaxnas import data, parallel, sampling, search_state, search_steps, supernet
from jaxnas.finite import Skipped
from jaxnas.latency import LatencyModel
from jaxnas.network import Network
from jaxnas.space import Space
from profiling.progress import Progress

_SNAPSHOTS = 100  # of α in metrics.jsonl, about: a long search would write 50 MB at every line


class Trainer:
    """Holds the state of a search and takes it through its phases.

    Attributes:
      config: configuration of the search.
      space: search space.
      parts: parts of the data set.
      workdir: folder of the run.
      progress: shows the phases.
      schedule: boundaries of the phases.
      layout: devices of the run.
      sizes: parameters of the weight steps' batches.
      hyper: parameters of the steps.
      steps: steps of the search; compiled steps of a search with the same space, hyper and sizes
        may be assigned.
      loop: training loop, which holds the state.
    """

    def __init__(self, config: Config, parts: data.Parts, workdir: Workdir, progress: Progress):
        """Starts at the newest checkpoint in the workdir, or with a new state.

        Raises:
          ValueError: the checkpoint has another configuration.
          CheckpointUnreadable: all checkpoints are damaged.
        """
        self.config, self.space = config, config.search_space
        self.parts, self.workdir, self.progress = parts, workdir, progress
        self.num_classes = data.dataset(config.dataset).num_classes
        self.schedule = Schedule.of(config, len(parts.weights))
        self.layout = parallel.layout()
        self.sizes = BatchSizes(
            config.batch_size, config.search_image_size, config.data_workers, config.seed
        )
        self._alpha_sizes = dataclasses.replace(self.sizes, batch_size=config.alpha_batch_size)
        hyper = self.hyper = search_state.Hyperparameters(
            weight_decay=config.weight_decay,
            label_smoothing=config.label_smoothing,
            alpha_learning_rate=config.alpha_learning_rate,
            initialisation=config.initialisation,
            estimator=config.estimator,
            gumbel_temperature=config.gumbel_temperature or search_state.GUMBEL_TEMPERATURE,
            latency_control=config.latency_control,
            precision=config.precision,
            batch_norm_group=config.batch_norm_group or None,
        )
        self.steps = search_steps.make_steps(self.space, hyper, self.layout.replicated)
        state = self.layout.replicate(self._initial_state())
        self.loop = Loop(
            state,
            config.identity(),
            workdir,
            progress,
            name=SEARCH,
            first_step=0,
            checkpoint_seconds=config.checkpoint_seconds,
        )
        if not has_begun(workdir):  # keep the lines of the network's training, of later steps
            workdir.open_metrics(self.step)

    def _initial_state(self) -> search_state.SearchState:
        """Returns the state of a new search, with weights that are not fitted if it has begun."""
        config = self.config
        arguments = (self.space, self.num_classes, self.hyper, config.seed)
        if config.initialisation != "pretrained" or has_begun(self.workdir, SEARCH):
            return search_state.init_state(*arguments)
        examples = drawn_examples(self.parts.weights, config.search_image_size, config.seed)
        with self.progress.phase("published weights", total=1.0) as phase:
            state = search_state.init_state(*arguments, examples, phase.update)
            phase.end(f"fitted to {len(examples[0])} examples")
        return state

    @property
    def state(self) -> search_state.SearchState:
        return self.loop.state

    @property
    def step(self) -> int:
        return self.loop.step

    @property
    def is_over(self) -> bool:
        """Whether warm-up and search are finished."""
        return self.step >= self.schedule.end

    @property
    def made_of(self) -> tuple[Space, search_state.Hyperparameters]:
        """Parts that the steps' programs are made of; the name of the space is in none."""
        return dataclasses.replace(self.space, name=""), self.hyper

    def compile(self, latency: LatencyModel | None, scores: bool = False) -> None:
        """Compiles the steps that the run still needs, or loads them from the cache.

        Args:
          latency: latency for the α steps; None if there are none.
          scores: whether paths are scored in any case, and not only if the configuration asks.
        """
        replicated = self.layout.replicated_shapes
        path = replicated(jax.ShapeDtypeStruct((len(self.space.blocks),), jnp.int32))
        scalar = replicated(jax.ShapeDtypeStruct((), jnp.float32))
        draw = replicated(jax.ShapeDtypeStruct((), jnp.int32))
        state = replicated(self.state)
        batch, masked = batch_shapes(self.sizes, self.layout)
        programs: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
            "weight": (self.steps.weight, (state, batch, path, scalar))
        }
        if not self.is_over and latency is not None:
            table, (alpha_batch, _) = (
                replicated(latency),
                batch_shapes(self._alpha_sizes, self.layout),
            )
            programs["arch"] = (
                self.steps.arch,
                (state, alpha_batch, table, scalar, scalar, draw),
            )
        if scores or self.config.finalists > 1 or self.config.pareto_ms:  # which score paths
            active = (state.params, state.stats, path)
            programs["recalibrate"] = (self.steps.recalibrate, (*active, batch, scalar))
            programs["evaluate"] = (self.steps.evaluate, (*active, masked))
        with self.progress.phase("compile", total=1.0) as phase:
            compiled = compiled_steps(programs, self.made_of, phase.update)
            phase.end(readiness(compiled))
        self.steps = dataclasses.replace(self.steps, **compiled)

    def warm_up(self) -> None:
        """Takes the remaining steps of the warm-up; raises as `search`."""
        end = self.schedule.warmup_end
        if self.step < end:
            self.loop.run(self._phase("warm-up", 0, end, self.config.warmup_learning_rate, None))

    def search(self, latency: LatencyModel | None) -> None:
        """Takes the remaining steps of warm-up and search; ends with a checkpoint.

        Args:
          latency: latency for the α steps; None for none, so that paths are drawn evenly.

        Raises:
          Stopped, NonFiniteLoss.
        """
        if self.is_over:
            return
        self.warm_up()
        self._await_arch_step()
        self.loop.run(
            self._phase(
                "search",
                self.schedule.warmup_end,
                self.schedule.end,
                self.config.search_learning_rate,
                None if latency is None else self.layout.replicate(latency),
            )
        )
        self.loop.save(wait=True)

    def learn_alpha(self, latency: LatencyModel) -> None:
        """Takes the α steps of a search without its weight steps; ends with a checkpoint.

        The weights stay as they are at the end of the warm-up, or as `continue_from` gave them.

        Raises:
          Stopped.
        """
        start, config = self.schedule.warmup_end, self.config
        first = start + self.schedule.epoch_steps  # in a search the first epoch has no α steps
        end = start + config.alpha_steps(self.schedule.end) - config.alpha_steps(first)
        self._await_arch_step()
        table = self.layout.replicate(latency)
        constants = self.layout.replicate(
            (np.float32(config.target_ms), np.float32(config.latency_weight))
        )
        feed = Feed(self.parts.alpha, self._alpha_sizes, self.layout, self.step - start)
        zero, one = self.layout.replicate((np.int32(0), np.int32(1)))

        def take(
            state: search_state.SearchState, done: int
        ) -> tuple[search_state.SearchState, Metrics]:
            changes, metrics = self.steps.arch(state, next(feed), table, *constants, zero)
            return dataclasses.replace(state, step=state.step + one, **changes), metrics

        epoch_steps = max(1, len(self.parts.alpha) // config.alpha_batch_size)
        self.loop.run(Phase("α alone", start, end, take, [feed], epoch_steps))
        self.loop.save(wait=True)

    def continue_from(self, other: search_state.SearchState) -> None:
        """Starts at the end of the warm-up with another run's state.

        Args:
          other: state of a run of equal seed, data and warm-up.
        """
        state = jax.tree.map(jnp.copy, other)  # which a step consumes
        start = self.schedule.warmup_end
        self.loop.state = dataclasses.replace(state, step=jnp.full_like(state.step, start))
        self.loop.step = start

    def probabilities(self, alpha: np.ndarray) -> np.ndarray:
        """Returns softmax(α), float32 [blocks, candidates]; 0 where not allowed."""
        return np.asarray(sampling.probabilities(jnp.asarray(alpha), self.space.allowed))

    def extract(self, path: np.ndarray) -> Network:
        """Returns the network of a path, int32 [blocks], with the supernet's weights."""
        return supernet.extract(
            self.space, self.state.params, self.state.stats, path, self.num_classes, name="jaxnas"
        )

    def close(self) -> None:
        """Waits until all checkpoints are written."""
        self.loop.close()

    def _await_arch_step(self) -> None:
        """Waits, with a progress bar, for the α step, which compiles during the warm-up."""
        step = self.steps.arch
        if isinstance(step, Step) and not step.is_ready:  # otherwise no α step is taken
            with self.progress.phase("compile", total=1.0) as phase:
                step.wait(lambda: phase.update(0.0, "the arch step"))
                phase.end("the arch step")

    def _phase(
        self, name: str, start: int, end: int, peak: float, latency: LatencyModel | None
    ) -> Phase[search_state.SearchState]:
        """Returns a phase of weight steps; with `latency` it has α steps after the first epoch."""
        schedule, alpha_steps = self.schedule, self.config.alpha_steps
        rates = self._rates(start, end, peak)
        feeds = [Feed(self.parts.weights, self.sizes, self.layout, self.step)]
        alpha_from = start + schedule.epoch_steps
        if latency is not None:
            taken = max(0, alpha_steps(self.step) - alpha_steps(alpha_from))
            feeds.append(Feed(self.parts.alpha, self._alpha_sizes, self.layout, taken))
        arch_metrics: search_steps.Metrics = {}
        # On the devices before a step is called, which tests/test_transfers.py holds to.
        place = self.layout.replicate
        constants = place(
            (np.float32(self.config.target_ms), np.float32(self.config.latency_weight))
        )

        def take(
            state: search_state.SearchState, done: int
        ) -> tuple[search_state.SearchState, Metrics]:
            rate, step = rates[done], start + done + 1
            takes_alpha = latency is not None and step > alpha_from
            due = alpha_steps(step) - alpha_steps(step - 1) if takes_alpha else 0
            # Before the weight step consumes the state: a picture may be unreadable.
            held_out = [next(feeds[1]) for _ in range(due)]
            batch = next(feeds[0])
            if schedule.shared_end and step == schedule.shared_end + 1:
                state = self.layout.replicate(search_state.share(self.space, state))
            shares = step <= schedule.shared_end
            state, metrics = self.steps.weight(
                state,
                batch,
                self.steps.sample_smallest(state) if shares else self.steps.sample(state),
                place(rate),
            )
            for draw, examples in enumerate(held_out):
                changes, latest = self.steps.arch(
                    state, examples, latency, *constants, place(np.int32(draw))
                )
                metrics |= {name: latest.pop(name) for name in Skipped._fields}  # of all steps
                arch_metrics.update(latest)
                state = dataclasses.replace(state, **changes)
            return state, {"learning_rate": rate, **metrics, **arch_metrics}

        snapshot_every = LOG_EVERY * math.ceil((end - start) / (LOG_EVERY * _SNAPSHOTS))

        def details(state: search_state.SearchState, step: int) -> dict[str, object]:
            if latency is None:
                return {}
            alpha = np.asarray(state.alpha)
            # Processes that draw different paths wait for each other for ever.
            parallel.check_same("α", alpha)
            if step % snapshot_every:
                return {}
            return {"probabilities": self.probabilities(alpha).round(4).tolist()}

        return Phase(name, start, end, take, feeds, schedule.epoch_steps, details=details)

    def _rates(self, start: int, end: int, peak: float) -> np.ndarray:
        """Returns the learning rate of each step of a phase, float32 [steps].

        All at once: a rate computed on the device in each step would wait for the step before.
        """
        steps, scale = jnp.arange(end - start), self.config.batch_scale(self.config.batch_size)
        rates = optax.cosine_decay_schedule(peak * scale, end - start)(steps)
        if scale > 1:
            rise = optax.linear_schedule(1 / scale, 1, RISE_EPOCHS * self.schedule.epoch_steps)
            rates = rates * rise(start + steps)
        return np.asarray(rates)
