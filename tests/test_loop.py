"""What the loop calls saved is on disk."""

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from experiments.runs.config import RunConfig
from experiments.runs.loop import Loop, NonFiniteLoss, Phase, checkpoint_folder
from experiments.runs.run_folder import Workdir
from jaxnas.data import UnreadablePicture
from profiling.progress import Progress


class State(NamedTuple):
    step: jax.Array
    weights: jax.Array


class Batches:
    """A feed that the phase's steps do not read."""

    idle = False

    def tell_waiting(self, progress: Progress, step_s: float) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def run(tmp_path) -> Iterator[tuple[Workdir, Progress]]:
    config = RunConfig(
        device="CPU",
        shaves=None,
        threads=None,
        worker_prefix=None,
        store=None,
        workdir=str(tmp_path / "run"),
    )
    with Workdir(config) as workdir, Progress(quiet=True) as progress:
        workdir.open_metrics(0)
        yield workdir, progress


def loop_of(run: tuple[Workdir, Progress], state: State) -> Loop:
    return Loop(state, {}, *run, name="train", first_step=0, checkpoint_seconds=0)


def test_a_run_that_a_picture_ends_is_saved_though_a_save_of_its_step_was_being_written(run):
    state = State(jnp.int32(0), jnp.zeros(1 << 25))  # 128 MiB: not written in an instant

    def take(state: State, done: int) -> tuple[State, dict]:
        if done == 2:
            raise UnreadablePicture("3.jpg cannot be decoded")
        return State(state.step + 1, state.weights), {}

    loop = loop_of(run, state)
    with pytest.raises(UnreadablePicture, match="The run is saved at step 2"):
        loop.run(Phase("train", 0, 10, take, [Batches()], epoch_steps=10))
    assert (checkpoint_folder(run[0].path, "train") / "2").is_dir()
    loop.close()


def of_losses(losses: list[float]) -> Phase[State]:
    """A phase whose steps have these losses; a step is skipped where one is not finite."""
    skipped = [not math.isfinite(loss) for loss in losses]

    def take(state: State, done: int) -> tuple[State, dict]:
        in_a_row = next((i for i, one in enumerate(skipped[done::-1]) if not one), done + 1)
        metrics = {
            "ce": losses[done],
            "skipped": sum(skipped[: done + 1]),
            "skipped_in_a_row": in_a_row,
        }
        return State(state.step + 1, state.weights), metrics

    return Phase("train", 0, len(losses), take, [Batches()], epoch_steps=len(losses))


def test_a_few_losses_that_are_not_finite_are_skipped_and_counted(run):
    """The line of step 10, whose own loss is not finite, is without it."""
    loop = loop_of(run, State(jnp.int32(0), jnp.zeros(2)))
    loop.run(of_losses([1.0] * 8 + [math.nan, math.inf] + [2.0] * 10))
    loop.close()
    lines = [json.loads(line) for line in (run[0].path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line.get("ce"), line["skipped"]) for line in lines] == [
        (10, None, 2),
        (20, 2.0, 2),
    ]


def test_many_in_a_row_end_the_run(run):
    loop = loop_of(run, State(jnp.int32(0), jnp.zeros(2)))
    with pytest.raises(NonFiniteLoss, match="in the last 10 steps up to 18 .* lower the learning"):
        loop.run(of_losses([1.0] * 8 + [math.nan] * 12))
    loop.close()


def test_details_are_asked_for_at_log_lines_alone(run):
    """There processes compare what decides which path they draw."""
    phase = dataclasses.replace(
        of_losses([1.0] * 25), details=lambda state, step: {"twice": 2 * int(state.step)}
    )
    loop = loop_of(run, State(jnp.int32(0), jnp.zeros(2)))
    loop.run(phase)
    loop.close()
    lines = [json.loads(line) for line in (run[0].path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["twice"]) for line in lines] == [(10, 20), (20, 40), (25, 50)]
