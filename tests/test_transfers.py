"""No step of a loop waits: what it is given is on the devices, and what it returns stays there."""

import contextlib
import dataclasses
import json

import jax
import numpy as np
import pytest
from jax._src.array import ArrayImpl

from experiments.runs.loop import Loop
from experiments.runs.run_folder import Workdir
from experiments.train.fit import NetworkTrainer
from jaxnas import data
from jaxnas.latency import LatencyModel
from jaxnas.network import Network, network_of
from profiling.progress import Progress
from tests.conftest import MICRO, random_table
from tests.test_search import config_of, trainer_of

COUNTED = 50  # steps
FIRST = 12  # steps in which programs are still compiled, whose constants cross


class Watched:
    """Takes the steps of loops without implicit transfers, and notes those that fetch.

    Attributes:
      steps: number of steps watched.
      fetching: phase and number of each fetch's step.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.steps = 0
        self.fetching: list[tuple[str, int]] = []
        self.inside: tuple[str, int] | None = None
        take, fetch = Loop._take, ArrayImpl._value.fget
        assert fetch is not None

        def watched(loop, phase, done):
            guard = jax.transfer_guard("disallow") if done >= FIRST else contextlib.nullcontext()
            self.inside = (phase.name, done) if done >= FIRST else None
            self.steps += done >= FIRST
            with guard:
                taken = take(loop, phase, done)
            self.inside = None
            return taken

        def value(array):
            self.fetching += [self.inside] if self.inside else []
            return fetch(array)

        monkeypatch.setattr(Loop, "_take", watched)
        monkeypatch.setattr(ArrayImpl, "_value", property(value))


@pytest.fixture
def watched(monkeypatch) -> Watched:
    return Watched(monkeypatch)


def test_the_watch_sees_a_transfer_and_a_fetch(watched):
    watched.inside = ("warm-up", 1)
    assert float(jax.device_put(np.float32(2))) == 2 and watched.fetching == [("warm-up", 1)]
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="host-to-device"):
        jax.jit(lambda x: x)(np.float32(2))


def test_no_step_of_a_search_transfers_or_fetches(watched, micro_searched, tmp_path):
    # Two choices in one block of the two: the loop is the same, and little is to be compiled.
    small = {**MICRO, "counts": [2], "kernels": [3]}
    (tmp_path / "small.json").write_text(json.dumps(small))
    run = dataclasses.replace(
        config_of(micro_searched),
        space=str(tmp_path / "small.json"),
        workdir=str(tmp_path / "run"),
        warmup_epochs=2,
        search_epochs=3,
    )
    latency = LatencyModel.of(random_table(run.search_space, 0))
    with trainer_of(run) as trainer:
        trainer.compile(latency)
        trainer.search(latency)
        # But for the one before which all candidates take over the function that they share.
        assert set(watched.fetching) == {("warm-up", trainer.schedule.shared_end)}
    assert watched.steps >= COUNTED


def test_no_step_of_a_training_transfers_or_fetches(watched, micro_searched, tmp_path):
    run = dataclasses.replace(
        config_of(micro_searched), workdir=str(tmp_path / "run"), train_epochs=4, image_size=32
    )
    space = run.search_space
    spec = network_of(space, space.parse("k3e2 - - -"), 10)
    with Workdir(run) as workdir, Progress() as progress:
        trainer = NetworkTrainer(
            run.training,
            run.identity(),
            Network(spec, rng=np.random.default_rng(0)),
            data.load("digits", seed=0),
            workdir,
            progress,
        )
        trainer.run()
        trainer.close()
    assert watched.steps >= COUNTED and not watched.fetching
