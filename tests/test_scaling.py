"""docs/scaling.md: estimates by hand, and the page as the program writes it."""

import json
import re
import types

import pytest

from experiments.benchmark import scaling, tpu
from experiments.benchmark.chips import Chip
from tests.programs import run_program

# 10 ms of arithmetic or 20 ms of memory on this chip; 2 ms to send 10 MB.
CHIP = Chip(memory_gb=16, tflops=100, memory_gb_s=500, link_gb_s=10, network_gb_s=1, group=8)
WEIGHT = {"gflops": 1000.0, "gb": 10.0, "collective_mb": 10.0, "collectives": {"all-reduce": 1}}
PART = {
    "topology": "v5e:4x4",
    "chips": 16,
    "batch_size": 64,
    "programs": {
        "weight": WEIGHT,
        "arch": {"gflops": 3000.0, "gb": 1.0, "collective_mb": 0.0, "collectives": {}},
        "train": WEIGHT | {"collective_mb": 0.0},
    },
}
SEARCH = types.SimpleNamespace(
    alpha_batch_size=256,
    alpha_every=5,
    held_out=1_167,
    warmup_epochs=1,
    search_epochs=2,
    train_epochs=4,
)


def test_a_step_takes_its_slower_resource_and_the_ring_s_sum():
    assert scaling.step_ms(WEIGHT, CHIP, 1) == pytest.approx(20)
    assert scaling.step_ms(WEIGHT | {"gflops": 3000.0}, CHIP, 1) == pytest.approx(30)
    # A ring of two sends the gradients once: 10 MB at 10 GB/s take 1 ms; of eight, 2 · 7/8.
    assert scaling.step_ms(WEIGHT, CHIP, 2) == pytest.approx(21)
    assert scaling.step_ms(WEIGHT, CHIP, 8) == pytest.approx(21.75)
    # Sixteen are more than the links connect: eight adapters of 1 GB/s share what a group sends.
    assert scaling.step_ms(WEIGHT, CHIP, 16) == pytest.approx(20 + 2 * 15 / 16 * 10 / 8)


def test_a_search_is_its_steps():
    one = scaling.estimate(PART, SEARCH, CHIP, 1)
    assert one.weight_ms == pytest.approx(20) and one.memory_share == pytest.approx(1)
    assert one.images_per_s == pytest.approx(3200)
    # 256 examples are four batches of 64 on one chip.
    assert one.arch_ms == pytest.approx(4 * 30)
    # 1,280,000 examples: 3 epochs of 20,000 weight steps; α in one epoch, at every fifth of 256.
    hours = (3 * 20_000 * 0.020 + 1_000 * 0.120) / 3600
    assert one.search_hours == pytest.approx(hours)
    assert one.train_hours == pytest.approx(4 * 20_000 * 0.020 / 3600)
    # Eight chips take an eighth of the weight steps, and of an α step 32 examples each.
    eight = scaling.estimate(PART, SEARCH, CHIP, 8)
    assert eight.arch_ms == pytest.approx(15)
    assert eight.search_hours == pytest.approx((3 * 2_500 * 0.02175 + 1_000 * 0.015) / 3600)


def test_collectives_are_as_large_as_their_results():
    assert tpu.collective_mb(
        """
  %fusion.1 = f32[1000]{0:T(1024)} fusion(%all-reduce.3), kind=kLoop
  %all-reduce.3 = (f32[1000,2]{1,0:T(8,128)}, bf16[50]{0}, f32[]) all-reduce(%a, %b, %c)
  %s = (f32[8]{0}, f32[64]{0}) all-gather-start(%x), dimensions={0}
  %g = f32[64]{0:T(128)S(1)} all-gather-done(%s)
"""
    ) == pytest.approx((4 * 2000 + 2 * 50 + 4 + 4 * 64) / 1e6)


def benchmark(parts: dict) -> dict:
    return {
        "schema": 1,
        "date": "2026-11-30",
        "command": "python -m experiments.benchmark --parts=tpu --output=elsewhere",
        "settings": {
            "space": "proxyless",
            "train_image_size": 224,
            "num_classes": 1000,
            "precision": "bf16",
        },
        "machine": {"cpu": "A CPU", "versions": {"jax": "0.10.2"}},
        "parts": parts,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one["settings"].update(precision="f32"), "has precision f32, not bf16; run"),
        (lambda one: one["settings"].update(train_image_size=96), "has train_image_size 96, not 2"),
        (
            lambda one: one["parts"]["tpu"]["programs"]["arch"].pop("collective_mb"),
            "step arch of part tpu is of another version, or has collectives beside all-reduce",
        ),
        (
            lambda one: one["parts"]["tpu"]["programs"]["train"]["collectives"].update(x=1),
            "step train of part tpu is of another version, or has collectives beside all-reduce",
        ),
    ],
)
def test_refuses_results_of_another_size(change, message, tmp_path):
    search, file = types.SimpleNamespace(search_image_size=224), tmp_path / "benchmark.json"

    def found(document: dict) -> dict:
        file.write_text(json.dumps(document))
        return scaling.with_parts([str(file)], ["tpu"], search)

    document = json.loads(json.dumps(benchmark({"tpu": PART})))
    assert found(document)["tpu"] == document
    change(document)
    with pytest.raises(ValueError, match=re.escape(message)):
        found(document)


def test_the_page_is_made_of_a_benchmark_and_the_flags_of_a_search(tmp_path):
    file = tmp_path / "benchmark.json"
    arguments = (
        "experiments.benchmark.scaling",
        "--flagfile=vpu.flags",
        "--flagfile=imagenet.flags",
        f"--results={file}",
        f"--output={tmp_path}",
    )
    file.write_text(json.dumps(benchmark({"tpu": PART})))
    done = run_program(*(one for one in arguments if "imagenet" not in one))
    assert done.returncode == 2
    assert "--dataset=digits: the estimate is of a search on ImageNet; give" in done.stderr
    done = run_program(*arguments)
    assert done.returncode == 2
    assert f"--results={file} lacks the part photographs; run" in done.stderr
    photographs = {"pipeline_per_s": 250.0, "pillow_per_s": 900.0, "size": 224}
    other = tmp_path / "other.json"
    other.write_text(json.dumps(benchmark({"photographs": photographs})))
    done = run_program(*arguments, f"--results={file},{other}")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "scaling.md").read_text()
    assert "40 epochs of warm-up and 120 of search, with 50,000 examples held out" in page
    assert "`python -m experiments.benchmark --parts=tpu`, 2026-11-30, jax 0.10.2" in page
    # 10 GB at 819 GB/s.
    (row,) = [line for line in page.splitlines() if line.startswith("| v5e | 1 |")]
    assert row.startswith("| v5e | 1 | 12.2 | 100% | 60.9 | 5,242 | 21 |")
    assert len([line for line in page.splitlines() if line.startswith("| H100 |")]) == 4
