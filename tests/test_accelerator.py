"""What is measured on an accelerator, on the CPU: its parts, its figures, and its limit of time."""

import contextlib
import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import accelerator_parts, kernels
from experiments.benchmark.accelerator import figures
from experiments.benchmark.pipeline import photographs_part
from jaxnas.depthwise import depthwise_xla
from tests.programs import run_program
from tests.test_benchmark import TINY


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
    assert all(row[f"{name}_gradient"]["count"] == 2 for row in rows for name in IMPLEMENTATIONS)
    assert kernels.strided_depthwise(dataclasses.replace(TINY, image_size=18), rounds=2) == []


IMPLEMENTATIONS = ("ours", "space_to_depth")


def test_steps_are_timed_only_while_no_other_part_times():
    entered = []

    @contextlib.contextmanager
    def alone():
        entered.append("in")
        yield
        entered.append("out")

    part = accelerator_parts.steps_alone(TINY, 2, alone)
    assert entered == ["in", "out"]
    assert [row["weight"]["count"] for row in part["step"]["paths"]] == [2, 2]
    assert part["step"]["arch"]["count"] == 2


def test_photographs_are_as_many_as_asked_for():
    part = photographs_part(3)
    assert len(part) == 3 and part[2]["image"].size == (500, 375)
    assert part.spec.name == "imagenet2012"


def one(median_ms: float) -> dict:
    return {"median_ms": median_ms, "p10_ms": median_ms, "p90_ms": median_ms, "count": 20}


def test_figures_are_rates_with_their_goals():
    """256 images in 50 ms are 5,120 a second; a static step of 40 ms has the rate 1.25 of that."""
    path = {"weight": one(50.0), "static": one(40.0)}
    step = {"paths": [path, path], "median_ratio": 1.25, "arch": one(60.0)}
    parts = {
        "command buffers": {"step": step},
        "parity": {"max_difference": {"mobilenet_v2": 2e-5}},
        "MobileNetV2": {"ours": one(32.0), "torch": one(64.0)},
    }
    shown = {figure.name: figure for figure in figures(parts, 256)}
    rate = shown["weight step with command buffers, images/s"]
    assert (rate.value, rate.bound, rate.met) == ("5120", "≥ 4000", True)
    share = shown["its rate with command buffers ÷ the static step's"]
    assert (share.value, share.bound, share.met) == ("0.80", "≥ 0.85", False)
    ratio = shown["α step with command buffers ÷ weight step"]
    assert (ratio.value, ratio.met) == ("1.20", False)
    assert shown["mobilenet_v2: float32 logits − the CPU's"].met
    assert shown["MobileNetV2, images/s: ours, PyTorch"].value == "8000, 4000"
    assert len(shown) == 5


def test_logits_of_the_same_device_are_the_same():
    small = dataclasses.replace(TINY, image_size=32)
    differences = accelerator_parts.parity(small, 2, contextlib.nullcontext)["max_difference"]
    assert differences == {"proxyless_mobile": 0.0, "mobilenet_v2": 0.0}


def test_parts_are_stopped_at_the_limit(tmp_path):
    done = run_program(
        "experiments.benchmark.accelerator",
        "--space=proxyless_tiny",
        "--train_image_size=32",
        "--limit_s=1",
        f"--output={tmp_path}",
    )
    assert done.returncode == 1
    document = json.loads((tmp_path / "accelerator.json").read_text())
    assert document["parts"] == {} and len(document["skipped"]) == 5
    assert "Skipped: steps, not done after 1 s." in done.stdout
    assert document["machine"]["accelerator"] is None


def test_refuses_a_size_that_the_space_does_not_divide():
    done = run_program("experiments.benchmark.accelerator", "--train_image_size=100")
    assert done.returncode == 2
    assert "--train_image_size=100: give a multiple of 32 px" in done.stderr


def test_a_part_prints_what_it_measured_and_the_device(tmp_path):
    done = run_program(
        "experiments.benchmark.accelerator_parts",
        "--part=kernels",
        f"--workload={json.dumps(dataclasses.asdict(TINY))}",
        "--rounds=2",
        f"--lock={tmp_path / 'lock'}",
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["accelerator"] is None
    assert set(document["measured"]) == {"switch", "strided"}
    assert set(document["measured"]["switch"]) >= {"choice_us", "nested_us"}
