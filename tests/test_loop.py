"""What the loop calls saved is on disk."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from experiments.runs.config import RunConfig
from experiments.runs.loop import Loop, Phase, checkpoint_folder
from experiments.runs.run_folder import Workdir
from jaxnas.data import UnreadablePicture
from profiling.progress import Progress


class State(NamedTuple):
    step: jax.Array
    weights: jax.Array


class Batches:
    """A feed that the phase's steps do not read."""

    idle = False

    def close(self) -> None:
        pass


def test_a_run_that_a_picture_ends_is_saved_though_a_save_of_its_step_was_being_written(tmp_path):
    config = RunConfig(
        device="CPU",
        shaves=None,
        threads=None,
        worker_prefix=None,
        store=None,
        workdir=str(tmp_path / "run"),
    )
    state = State(jnp.int32(0), jnp.zeros(1 << 25))  # 128 MiB: not written in an instant

    def take(state: State, done: int) -> tuple[State, dict]:
        if done == 2:
            raise UnreadablePicture("3.jpg cannot be decoded")
        return State(state.step + 1, state.weights), {}

    with Workdir(config) as workdir, Progress(quiet=True) as progress:
        loop = Loop(state, {}, workdir, progress, name="train", first_step=0, checkpoint_seconds=0)
        workdir.open_metrics(0)
        with pytest.raises(UnreadablePicture, match="The run is saved at step 2"):
            loop.run(Phase("train", 0, 10, take, [Batches()], epoch_steps=10))
        assert (checkpoint_folder(workdir.path, "train") / "2").is_dir()
        loop.close()
