"""What a search refuses before any work."""

import dataclasses

import pytest
from absl import flags

from experiments import config
from experiments.workdir import check_workdir
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def default() -> config.Config:
    config.define_flags()
    flags.FLAGS(["search", f"--flagfile={ROOT / 'vpu.flags'}"])
    return config.config_from_flags()


def test_the_run_is_named_after_what_it_is(default):
    assert default.workdir == "runs/proxyless-digits-myriadx_compiler-17.2ms-seed0"
    assert default.target_ms == 17.2 and default.derive == "budget"


@pytest.mark.parametrize(("change", "message"), [
    ({"device": "TOASTER"}, "unknown device 'TOASTER', allowed are MYRIADX_COMPILER"),
    ({"space": "darts"}, "unknown space 'darts', allowed are proxyless"),
    ({"dataset": "mnist"}, "unknown data set 'mnist'"),
    ({"target_ms": float("nan")}, "--target_ms=nan"),
    ({"target_ms": -1.0}, "--target_ms=-1"),
    ({"latency_weight": -0.1}, "--latency_weight=-0.1: λ is 0 or more"),
    ({"train_image_size": 40}, "--train_image_size=40: give a multiple of 32"),
    ({"image_size": 100}, "--image_size=100: give a multiple of 32"),
    ({"held_out": 101}, "--held_out=101: give a multiple of the 10 classes"),
])
def test_refuses_what_cannot_work(default, change, message):
    with pytest.raises(ValueError, match=message):
        config.check(dataclasses.replace(default, **change))


def test_refuses_a_folder_of_something_else(default, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match="--workdir=jaxnas holds files of something else"):
        check_workdir(dataclasses.replace(default, workdir="jaxnas"))


def test_what_changes_nothing_of_a_run_is_not_its_identity(default):
    moved = dataclasses.replace(default, workdir="elsewhere", store="other.sqlite",
                                worker_prefix="ssh lab-pi", data_dir="data", require_target=True)
    assert moved.identity() == default.identity()
    assert dataclasses.replace(default, seed=1).identity() != default.identity()
