"""The benchmark's parts on a search of one block, and its program as run."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from experiments.benchmark import (
    bandwidth,
    figures,
    kernels,
    report,
    timing,
    xla_profile,
)
from experiments.benchmark.pipeline import photographs, pipeline
from experiments.benchmark.start import ProcessFailed, first_step
from experiments.benchmark.steps import Steps
from experiments.benchmark.workload import Workload
from jaxnas import data
from tests.programs import ROOT, run_fresh, run_program
from tests.test_performance import DOCUMENT

TINY = Workload(
    "proxyless_tiny", batch_size=2, image_size=16, num_classes=10, blocks=1, candidates=2
)
RANDOM_PATHS = 4  # the first of another architecture than the largest is the fourth
SUMMARY = {"median_ms", "p10_ms", "p90_ms", "count"}


@pytest.fixture(scope="module")
def tiny_steps() -> Steps:
    return Steps(TINY)


def test_calls_are_timed_in_turn_after_two_rounds():
    called = []
    times_ms = timing.in_turn({name: lambda name=name: called.append(name) for name in "ab"}, 3)
    assert called == ["a", "b"] * 5
    assert {name: times.shape for name, times in times_ms.items()} == {"a": (3,), "b": (3,)}


def test_summary_and_ratio():
    assert timing.summary(np.arange(11.0)) == {
        "median_ms": 5.0,
        "p10_ms": 1.0,
        "p90_ms": 9.0,
        "count": 11,
    }
    base = np.array([1.0, 2.0, 4.0, 8.0])
    assert timing.ratio(base * 3, base)["ratio"] == 3.0
    # Rounds are drawn together: what is three times the base in all rounds is so in every draw
    # whose median is one of the rounds; even draws average two neighbors, alike in both.
    assert timing.ratio(base * 3, base) == {"ratio": 3.0, "low": 3.0, "high": 3.0}
    noisy = timing.ratio(np.array([3.0, 1.0, 5.0, 2.0]), np.full(4, 2.0))
    assert noisy["low"] < noisy["ratio"] < noisy["high"]


def test_a_workload_is_a_space_cut_down():
    space = TINY.search_space
    assert [str(c) for c in space.candidates] == ["k7e3", "k7e6", "-"]
    assert [block.name for block in space.blocks] == ["block00"]
    assert TINY.largest_path.tolist() == [1]
    full = Workload()
    assert " ".join(map(str, full.search_space.arch(full.largest_path))) == (
        " ".join(["k7e6"] * 21)
    )
    with pytest.raises(ValueError, match="--train_image_size=90: give a multiple of 32 px"):
        Workload(image_size=90).check()


def test_step_times_every_path_with_its_static_network(tiny_steps):
    part = tiny_steps.time(RANDOM_PATHS, rounds=3)
    assert [row["architecture"] for row in part["paths"]] == [
        "k7e6",
        "k7e6",
        "k7e6",
        "k7e3",
        "k7e6",
    ]
    assert [row["largest"] for row in part["paths"]] == [True, True, True, False, True]
    for row in part["paths"]:
        assert set(row["weight"]) == set(row["static"]) == SUMMARY
        assert row["weight"]["count"] == 3
        assert row["ratio"]["ratio"] == pytest.approx(
            row["weight"]["median_ms"] / row["static"]["median_ms"]
        )
    assert part["median_ratio"] == pytest.approx(
        np.median([row["ratio"]["ratio"] for row in part["paths"]])
    )
    assert int(tiny_steps.supernet.state.step) == 5 * (timing.WARMUP_ROUNDS + 3)


def test_memory_is_the_programs_own(tiny_steps):
    part = tiny_steps.memory()
    weight = tiny_steps.supernet.weight.memory_analysis()
    assert part["programs"]["weight"]["temp_mb"] == weight.temp_size_in_bytes / 1e6
    assert part["temp_ratio"] == pytest.approx(
        part["programs"]["weight"]["temp_mb"] / part["programs"]["static_largest"]["temp_mb"]
    )
    # The state is given to the step: nearly all of its result lies where the state lay.
    assert part["programs"]["weight"]["aliased_mb"] == pytest.approx(
        part["programs"]["weight"]["output_mb"], rel=0.01
    )


def test_profile_attributes_a_step(tiny_steps):
    part = xla_profile.profile(tiny_steps, TINY, rounds=2)
    for one in part.values():
        assert one["kinds_ms"]["depthwise convolutions"] > 0
        assert one["kinds_ms"]["matrix products"] > 0
        assert one["busy_ms"] == pytest.approx(sum(one["kinds_ms"].values()))
    assert part["weight"]["kinds_ms"]["gather and scatter"] > 0


def test_kinds_of_operations_are_read_from_the_program():
    assert xla_profile.kinds("""\
HloModule jit_weight, is_scheduled=true
  %a.1 = f32[2]{0} fusion(f32[2]{0} %x), metadata={op_name="jit(weight)/jit(_shifted_sum)/add"}
  b = f32[2]{0} custom-call(x), custom_call_target="__cudnn$convForward", feature_group_count=96
  c = f32[2]{0} custom-call(x), custom_call_target="__cudnn$convForward"
  d = f32[2]{0} custom-call(x), metadata={op_name="jit(weight)/dot_general"}
  ROOT %e = (f32[2]{0}, f32[2]{0}) conditional(s32[] %i, f32[2]{0} %x), branch_computations={%f}
""") == {
        "a.1": "depthwise convolutions",
        "b": "depthwise convolutions",
        "c": "dense convolutions",
        "d": "matrix products",
        "e": None,
    }


def test_bandwidth_is_of_what_is_copied():
    part = bandwidth.bandwidth(rounds=3)
    rates = {point["mb"]: point["gb_per_s"] for point in part["points"]}
    assert tuple(rates) == bandwidth.SIZES_MB
    assert all(0.1 < rate < 10_000 for rate in rates.values())
    (figure,) = figures.figures({"bandwidth": part})
    assert f"256 MB {rates[256]:.0f}" in figure.value


def test_kernels_are_those_of_the_space():
    rows = kernels.depthwise(TINY, rounds=2)
    assert [(row["size"], row["channels"], row["stride"], row["kernel"]) for row in rows] == [
        (8, 48, 2, 3),
        (8, 48, 2, 7),
    ]
    for row in rows:
        for name in ("shifted_forward", "xla_forward", "shifted_gradient", "xla_gradient"):
            assert row[name]["count"] == 2
    assert kernels.dense(TINY, rounds=2) == []
    fused = dataclasses.replace(TINY, space="myriadx", image_size=32)
    (row,) = kernels.dense(dataclasses.replace(fused, candidates=1), rounds=2)
    shape = [row[key] for key in ("size", "channels", "out_channels", "stride", "kernel")]
    assert shape == [16, 16, 32, 2, 5]
    assert row["products_gradient"]["count"] == row["shifted_forward"]["count"] == 2
    part = {"depthwise": rows, "dense": [row], "switch": {"choice_us": 1.0}}
    assert "### Dense convolutions, median ms" in report._kernels_table(part)
    assert [figure.name for figure in figures.figures({"kernels": part})][2:4] == [
        "dense forward: XLA ÷ ours",
        "dense gradient: XLA ÷ ours",
    ]


def test_pipeline_counts_its_waiting(tiny_steps):
    part = pipeline(tiny_steps.supernet, TINY, 12, data.load("digits", seed=0).weights)
    assert (part["dataset"], part["batch_size"], part["image_size"]) == ("digits", 2, 16)
    assert 0 < part["waited_share"] < 1
    # Twelve weight steps and six architecture steps of two pictures.
    assert part["pictures_per_s_in_loop"] == pytest.approx(2 * 18 / (12 * part["step_ms"] / 1e3))


def test_photographs_are_timed_as_pillow_s_are():
    part = photographs(count=64, size=64)
    assert part["pixels"] == (500, 375) and part["size"] == 64
    assert 0 < part["pipeline_per_s"] < 10_000 and 0 < part["pillow_per_s"] < 10_000


def test_a_process_tells_its_first_step_over_two_devices():
    workload = Workload("proxyless_tiny", 4, 16, 10, blocks=1, candidates=2, devices=2)
    first, second = first_step(workload, rounds=2)
    assert set(first["programs"]) == {"weight", "arch"}
    told = (
        first["init_s"]
        + first["first_step_s"]
        + first["interpreter_and_imports_s"]
        + sum(seconds for program in first["programs"].values() for seconds in program.values())
    )
    assert first["to_first_step_s"] == pytest.approx(told)
    assert second["weight"]["count"] == 2 and second["weight"]["temp_mb"] > 0


def test_a_start_with_a_cache_loads_what_the_one_before_kept(tmp_path):
    workload = Workload("proxyless_tiny", 4, 16, 10, blocks=1, candidates=2)

    def start() -> dict[str, int]:
        first, second = first_step(workload, cache=str(tmp_path), rounds=1)
        assert first["programs"]["weight"]["load_s"] > 0
        assert second["weight"]["count"] == 1
        return {file.name: file.stat().st_mtime_ns for file in (tmp_path / "steps").glob("*")}

    kept = start()
    assert len(kept) == 2
    assert start() == kept, "nothing was compiled and kept anew"
    # What comes from JAX's own cache cannot be written once more.
    shutil.rmtree(tmp_path / "steps")
    assert start() == {}


def test_a_process_that_fails_is_heard():
    with pytest.raises(ProcessFailed, match="unknown space 'nowhere'"):
        first_step(Workload("nowhere"))


def bare_benchmark(output: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    """The program on a machine that has no more than JAX and Flax and what they need."""
    absent = (
        "grain",
        "tensorflow_datasets",
        "onnx",
        "jax2onnx",
        "onnxruntime",
        "openvino",
        "matplotlib",
        "sklearn",
        "networkx",
    )
    code = (
        f"import sys, runpy\nsys.modules.update(dict.fromkeys({absent}))\n"
        "runpy.run_module('experiments.benchmark', run_name='__main__', alter_sys=True)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, f"--output={output}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_bare_machine_skips_what_it_cannot(tmp_path):
    done = bare_benchmark(tmp_path, "--parts=export,search,pipeline", "--space=proxyless_tiny")
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "benchmark.json").read_text())
    assert document["parts"] == {} and set(document["skipped"]) == {"export", "search", "pipeline"}
    assert document["settings"]["space"] == "proxyless_tiny"
    assert document["machine"]["cores"] >= 1 and "jax" in document["machine"]["versions"]
    for name, reason in document["skipped"].items():
        assert f"Skipped: {name}, {reason}." in done.stdout


def test_wrong_usage_is_one_line():
    done = run_program("experiments.benchmark", "--parts=step,stpe")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --parts: unknown part 'stpe', allowed are compile, start")
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def tpu_compiler() -> dict[str, str]:
    """Environment in which a program finds the TPU's compiler, but looks for no TPU."""
    folder = os.environ.get("LIBTPU_FOLDER")
    if folder is None:
        assert "CI" not in os.environ, "LIBTPU_FOLDER has to name the folder of libtpu's package"
        pytest.skip("LIBTPU_FOLDER does not name the folder of libtpu's package")
    return {"PYTHONPATH": folder, "JAX_PLATFORMS": "cpu"}


def test_a_tpus_compiler_finds_one_collective_in_a_step(tmp_path, tpu_compiler):
    space = tmp_path / "space.json"
    space.write_text(
        '{"stem": 8, "first": 8, "head": 16, "widths": [8], "counts": [1], "strides": [2], '
        '"kernels": [3], "expansions": [3]}'
    )
    done = run_fresh(
        "experiments.benchmark",
        "--parts=tpu",
        "--topology=v5e:2x2",
        f"--space={space}",
        "--batch_size=64",
        "--train_image_size=16",
        "--num_classes=10",
        f"--output={tmp_path}",
        **tpu_compiler,
    )
    assert done.returncode == 0, done.stderr
    part = json.loads((tmp_path / "benchmark.json").read_text())["parts"]["tpu"]
    assert (part["chips"], part["batch_size"]) == (4, 64)
    assert set(part["programs"]) == {"weight", "arch", "train"}
    for row in part["programs"].values():
        assert row["collectives"] == {"all-reduce": 1}
        assert row["conditionals"] == 0  # the space has a single candidate
        assert row["temp_mb"] > 0 and row["gflops"] > 0
        assert row["largest_batch"]["v4"] > row["largest_batch"]["v5e"] > 64
    assert "4 chips with 64 images each" in "\n".join(report.section(as_document(part), None))


def test_a_slice_that_no_tpu_has_is_refused(tpu_compiler):
    done = run_fresh("experiments.benchmark", "--parts=tpu", "--topology=v9:2x2", **tpu_compiler)
    assert done.returncode == 2
    assert "--topology=v9:2x2: " in done.stderr
    assert "give a generation and a shape, such as v5e:4x4" in done.stderr


def as_document(part: dict) -> dict:
    return DOCUMENT | {"parts": {"tpu": part}}
