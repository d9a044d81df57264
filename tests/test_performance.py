"""Figures of a benchmark with their bounds, and the page made of its documents."""

import json

import pytest

from experiments.benchmark import figures, growth, performance
from experiments.benchmark.workload import Workload
from tests.programs import run_program


def one(median_ms: float) -> dict:
    return {"median_ms": median_ms, "p10_ms": median_ms - 1, "p90_ms": median_ms + 2, "count": 20}


DOCUMENT = {
    "schema": 1,
    "date": "2026-01-02",
    "command": "python -m experiments.benchmark",
    "settings": {
        "space": "proxyless",
        "batch_size": 16,
        "train_image_size": 96,
        "num_classes": 1000,
        "precision": "f32",
        "steps": 20,
        "paths": 1,
    },
    "machine": {
        "cpu": "A CPU",
        "cores": 2,
        "accelerator": None,
        "load": 0.25,
        "versions": {"jax": "0.10.2"},
    },
    "skipped": {"export": "No module named 'openvino'"},
    "parts": {
        "step": {
            "median_ratio": 1.3,
            "arch": one(60.0),
            "paths": [
                {
                    "architecture": "k3e3",
                    "largest": False,
                    "weight": one(28.0),
                    "static": one(20.0),
                    "ratio": {"ratio": 1.4, "low": 1.3, "high": 1.5},
                },
                {
                    "architecture": "k7e6",
                    "largest": True,
                    "weight": one(48.0),
                    "static": one(40.0),
                    "ratio": {"ratio": 1.2, "low": 1.1, "high": 1.3},
                },
            ],
        },
        "memory": {
            "temp_ratio": 1.05,
            "programs": {
                name: {"temp_mb": mb, "argument_mb": 1.0, "output_mb": 2.0, "aliased_mb": 0.5}
                for name, mb in (("weight", 210.0), ("arch", 300.0), ("static_largest", 200.0))
            },
        },
        "growth": {
            "batch_size": {
                "points": [
                    {
                        "batch_size": size,
                        "weight_ms": size**2.0,
                        "arch_ms": 2.0 * size,
                        "temp_mb": 3.0,
                        "compile_s": 30.0,
                    }
                    for size in (8, 16, 32)
                ],
                "exponents": {"weight_ms": 2.0, "arch_ms": 1.0, "temp_mb": 0.0, "compile_s": 0.0},
            }
        },
    },
}


def test_growth_has_one_axis_at_a_time():
    axes = growth.axes(Workload())
    assert {axis: [getattr(one, axis) for one in some] for axis, some in axes.items()} == {
        "blocks": [6, 11, 16, 21],
        "candidates": [1, 2, 4, 6],
        "batch_size": [8, 16, 32, 64],
        "image_size": [64, 96, 160, 192],
        "devices": [1, 2, 4, 8],
    }
    assert {one.batch_size for one in axes["blocks"]} == {16}
    assert growth.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    assert growth.faster_than_linear(DOCUMENT["parts"]["growth"]) == [
        ("batch_size", "weight_ms", 2.0)
    ]


def test_figures_stand_with_their_bounds():
    by_name = {one.name: one for one in figures.figures(DOCUMENT["parts"])}
    ratio = by_name["weight step ÷ the same path compiled statically, median of paths"]
    assert (ratio.value, ratio.bound, ratio.met) == (
        "1.30 (1.20 to 1.40 over 2 paths)",
        "≤ 1.25",
        False,
    )
    memory = by_name["temporaries of the weight step ÷ the largest static path's"]
    assert (memory.value, memory.bound, memory.met) == ("1.05 (210 MB ÷ 200 MB)", "≤ 1.10", True)
    assert by_name["grows faster than linear (exponent)"].value == (
        "weight step, ms with batch (2.00)"
    )


def test_the_page_is_made_of_the_documents(tmp_path):
    file = tmp_path / "benchmark.json"
    file.write_text(json.dumps(DOCUMENT))
    done = run_program(
        "experiments.benchmark.performance", f"--results={file},{file}", f"--output={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "performance.md").read_text()
    for line in (
        "## A CPU, f32, batch 16, 96 px",
        "Skipped: export, No module named 'openvino'.",
        "| `k7e6` (largest) | 48 ms (47 to 50) | 40 ms (39 to 42) | 1.20 (1.10 to 1.30) |",
        "| static largest | 200 | 1 | 2 | 0.5 |",
        "| 32 | 1024 | 64 | 3 | 30 |",
        "| exponent | 2.00 | 1.00 | 0.00 | 0.00 |",
    ):
        assert line in page.splitlines(), line
    for name in ("performance_growth.png", "performance_growth1.png"):
        assert f"![Growth]({name})" in page
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "text, said",
    [
        ("[]", "is not a benchmark's result"),
        ('{"schema": 9}', "has schema 9, this version reads 1"),
    ],
)
def test_the_page_is_made_of_nothing_else(tmp_path, text, said):
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=said):
        performance.load(file)
