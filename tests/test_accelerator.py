"""Parts of the accelerator's benchmark on the CPU, its figures, and its limit of time."""

import dataclasses
import fcntl
import json
import time

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import accelerator, accelerator_parts, kernels
from experiments.benchmark.steps import Steps
from jaxnas.depthwise import depthwise_xla
from tests.programs import run_program
from tests.test_benchmark import TINY
from tests.test_performance import one


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("k", [3, 5, 7])
def test_space_to_depth_is_the_same_convolution(padding, k):
    rng = np.random.default_rng(k)
    x = rng.normal(size=(2, 16, 12, 5)).astype(np.float32)
    kernel = jnp.asarray(rng.normal(size=(k, k, 5)).astype(np.float32))
    np.testing.assert_allclose(
        kernels.depthwise_space_to_depth(2, padding, x, kernel),
        depthwise_xla(2, padding, x, kernel),
        atol=1e-5,
    )


def test_layers_of_stride_2_are_timed_both_ways():
    rows = kernels.strided_depthwise(TINY, rounds=2)
    assert [(row["size"], row["channels"], row["kernel"]) for row in rows] == [
        (8, 48, 3),
        (8, 48, 7),
    ]
    for row in rows:
        assert row["ours_gradient"]["count"] == row["space_to_depth_gradient"]["count"] == 2
    assert kernels.strided_depthwise(dataclasses.replace(TINY, image_size=18), rounds=2) == []


def test_steps_are_compiled_before_the_turn_and_timed_in_it(monkeypatch):
    happened = []
    monkeypatch.setattr(
        Steps, "time", lambda programs, *given: happened.append(("timed", len(programs._static)))
    )
    parts = accelerator_parts.steps(TINY, 2, lambda: happened.append("turn"))
    assert next(parts) == ("step", None)
    assert happened == ["turn", ("timed", 1)]  # the random path is the largest


def test_a_loop_that_reads_photographs_is_measured(monkeypatch):
    monkeypatch.setattr(accelerator_parts, "_LOOP_STEPS", 4)
    monkeypatch.setattr(accelerator_parts, "_PHOTOGRAPHS", 3)
    measured = dict(accelerator_parts.steps(TINY, 2, lambda: None))
    assert [*measured] == ["step", "profile", "loop"]
    assert (measured["loop"]["dataset"], measured["loop"]["steps"]) == ("imagenet2012", 4)


def test_logits_of_the_same_device_are_the_same():
    small = dataclasses.replace(TINY, image_size=32)
    differences = dict(accelerator_parts.parity(small, 2, lambda: None))
    assert differences == {"proxyless_mobile": 0.0, "mobilenet_v2": 0.0}


def test_figures_are_rates_and_ratios():
    """256 images in 50 ms are 5,120 a second; a static step of 40 ms has 1.25 times that rate."""
    path = {"weight": one(50.0), "static": one(40.0)}
    row = {
        "ours_forward": one(3.0),
        "space_to_depth_forward": one(6.0),
        "ours_gradient": one(4.0),
        "space_to_depth_gradient": one(2.0),
    }
    switch = {"choice_us": 12.0, "nested_us": 20.04}
    parts = {
        "steps": {
            "step": {"paths": [path, path], "median_ratio": 1.25, "arch": one(60.0)},
            "profile": {"weight": {"busy_ms": 30.0, "wall_ms": 52.0}},
            "loop": {"pictures_per_s_in_loop": 4000.4, "waited_share": 0.123},
        },
        "command_buffers": {"switch": switch},
        "kernels": {"switch": switch, "strided": [row, row]},
        "parity": {"mobilenet_v2": 2e-5},
        "mobilenet_v2": {"ours": one(32.0)},
    }
    shown = {figure.name: figure.value for figure in accelerator.figures(parts, 256)}
    assert shown == {
        "weight step, images/s": "5120",
        "rate of the weight step ÷ rate of the static step": "0.80",
        "time of the α step ÷ time of the weight step": "1.20",
        "weight step of the largest path in the profiler: device at work": "30.0 of 52.0 ms",
        "loop of both steps that reads photographs, images/s": "4000, waits 12.3 % of its time",
        "cost of a switch, of a nested one (kernels)": "12.0, 20.0 µs",
        "cost of a switch, of a nested one (command buffers)": "12.0, 20.0 µs",
        "depthwise of stride 2, forward: time by space to depth ÷ ours": "2.00 to 2.00",
        "depthwise of stride 2, gradient: time by space to depth ÷ ours": "0.50 to 0.50",
        "mobilenet_v2: float32 logits against the CPU's": "2.0e-05",
        "MobileNetV2, ours, images/s": "8000",
    }


ARGUMENTS = (f"--workload={json.dumps(dataclasses.asdict(TINY))}", "--rounds=2", "--allow_cpu")


def document() -> dict:
    return {"parts": {}, "skipped": {}, "machine": {}}


def test_what_was_measured_before_a_failure_is_kept(tmp_path):
    """PyTorch or torchvision is missing: our step is measured, and the reason is told."""
    into = document()
    accelerator.run_wave(["mobilenet_v2"], ARGUMENTS, float("inf"), tmp_path, into)
    assert [*into["parts"]["mobilenet_v2"]] == ["ours"]
    assert [*into["skipped"]] == ["mobilenet_v2"]
    assert into["skipped"]["mobilenet_v2"].startswith("ModuleNotFoundError: No module named 'torch")
    assert into["machine"]["accelerator"] is None
    assert not (tmp_path / "mobilenet_v2.json").exists()


def test_a_part_waits_for_its_turn_and_is_stopped_at_the_limit(tmp_path):
    into = document()
    with (tmp_path / ".timing").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        accelerator.run_wave(["parity"], ARGUMENTS, time.monotonic() + 8, tmp_path, into)
    assert into["parts"] == {}
    assert into["skipped"] == {"parity": "not done within the limit of time"}
    with (tmp_path / ".timing").open("w") as lock:  # nobody is left who waits for it
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_without_an_accelerator_a_part_ends_at_once(tmp_path):
    into = document()
    accelerator.run_wave(["kernels"], ARGUMENTS[:2], float("inf"), tmp_path, into)
    reason = "error: no accelerator: install jax[cuda13], or give --allow_cpu and a small size"
    assert into["skipped"] == {"kernels": reason} and into["parts"] == {}


def test_refuses_a_size_that_the_space_does_not_divide(tmp_path):
    arguments = ("--train_image_size=100", f"--output={tmp_path / 'out'}")
    done = run_program("experiments.benchmark.accelerator", *arguments)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert "--train_image_size=100: give a multiple of 32 px" in done.stderr
