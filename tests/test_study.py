"""The study: its statistics by hand, the Pixel 1's table, and a tiny study as a user runs it."""

import dataclasses
import fcntl
import json
import pathlib

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments.search.config import config_from_flags
from experiments.study import comparison, device_preferences, results, rivals
from experiments.study.config import MOBILE_TABLE, REFERENCE
from experiments.study.random_networks import draw_within_budget
from experiments.study.study_runs import Runs
from jaxnas import zoo
from jaxnas.builtin_spaces import PROXYLESS, PROXYLESS_TINY
from jaxnas.latency import LatencyTable
from jaxnas.network import count_macs, count_parameters
from jaxnas.space import Space
from jaxnas.space_file import find_space
from profiling import tables
from profiling.device import Options
from profiling.progress import Progress
from tests.conftest import SMALL, make_table, random_table
from tests.programs import UNOPTIMIZED, Program, run_program

# Three blocks of the poster's candidates.
SPACE = {
    "stem": 8,
    "first": 8,
    "head": 16,
    "widths": [8],
    "counts": [3],
    "strides": [2],
    "kernels": [3, 5, 7],
    "expansions": [3, 6],
}
# Latencies in ms of kernels 3, 5, 7, each with expansions 3 and 6, and of the fixed layers. Within
# the budgets are 48 networks on the first device and 21 on the second.
DEVICES = {
    "MYRIADX_COMPILER": ([1, 1.5, 1, 1.5, 1.5, 2, 0], 0.7),
    "PIXEL_1": ([1.5, 1, 1.5, 1, 1, 2, 0], 0.61),
}
TARGET_MS = 4.2


@pytest.fixture(scope="module")
def space_file(tmp_path_factory) -> pathlib.Path:
    file = tmp_path_factory.mktemp("space") / "three.json"
    file.write_text(json.dumps(SPACE))
    return file


@pytest.fixture(scope="module")
def space(space_file) -> Space:
    return find_space(str(space_file))


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, space_file, space) -> list[str]:
    """A study of 6 searches and 8 trainings of a few steps."""
    folder = tmp_path_factory.mktemp("tables")
    # Another space by its name, with the same programs to compile.
    other_file, other_table = folder / "other.json", folder / "other_table.json"
    other_file.write_text(json.dumps(SPACE))
    other = find_space(str(other_file))
    table = make_table(other, np.array([[1.5, 1, 1.5, 1, 1, 2, 0]] * len(other.blocks)), 0.7)
    dataclasses.replace(table, device="MYRIADX_COMPILER", image_size=32, num_classes=10).save(
        other_table, other
    )
    for device, (ms, fixed_ms) in DEVICES.items():
        table = make_table(space, np.array([ms] * len(space.blocks)), fixed_ms)
        dataclasses.replace(table, device=device, image_size=32, num_classes=10).save(
            folder / f"{device}.json", space
        )
    return [
        "experiments.study",
        f"--space={space_file}",
        "--image_size=32",
        f"--target_ms={TARGET_MS}",
        f"--latency_table={folder / 'MYRIADX_COMPILER.json'}",
        f"--mobile_table={folder / 'PIXEL_1.json'}",
        "--reference=k3e3 k3e3 -",
        "--seeds=0,1",
        "--trainings=1",
        "--random_networks=2",
        "--warmup_epochs=1",
        "--search_epochs=2",
        "--train_epochs=1",
        "--batch_size=256",
        "--search_image_size=8",
        f"--other_spaces={other_file}:{other_table}",
        "--rivals=resnet_18:0.1:4.1",
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, arguments) -> pathlib.Path:
    """An undisturbed study's folder."""
    folder = tmp_path_factory.mktemp("study") / "run"
    done = run_program(*arguments, f"--workdir={folder}", XLA_FLAGS=UNOPTIMIZED)
    assert done.returncode == 0, done.stderr
    return folder


def study_of(folder: pathlib.Path) -> dict:
    return json.loads((folder / "study.json").read_text())


def test_a_study_says_what_each_device_likes(finished, space):
    document = study_of(finished)
    first, second = document["affinities"]["devices"]
    assert (first["device"], second["device"]) == ("MYRIADX_COMPILER", "PIXEL_1")
    assert first["target_ms"] == TARGET_MS
    assert second["target_ms"] / second["reference_ms"] == pytest.approx(
        first["target_ms"] / first["reference_ms"]
    )
    for device in (first, second):
        assert [n["seed"] for n in device["networks"]] == [0, 1]
        for network in device["networks"]:
            assert 0.99 * device["target_ms"] <= network["predicted_ms"] <= device["target_ms"]
            path = space.path(space.parse(network["architecture"]))
            assert network["statistics"] == device_preferences.statistics(space, path)
        assert device["chance"]["networks"] == 200
        assert device["chance"]["statistics"]["blocks"]["count"] == 200
    assert [s["statistic"] for s in document["affinities"]["statements"]] == ["blocks", "e6", "k7"]


def test_a_study_trains_all_networks_alike(finished):
    part = study_of(finished)["worth"]
    other_name = part["groups"][2]["name"].removeprefix("found in ")
    assert other_name.startswith("other")
    names = [n["name"] for n in part["networks"]]
    found, random, others = (
        [f"{name}{number}" for number in ("0", "1")]
        for name in ("found", "random0", f"{other_name}-found")
    )
    assert names == [*found, *random, *others, "resnet_18"]
    for network in part["networks"]:
        seeds = [0, 1] if network["name"] == "resnet_18" else [int(network["name"][-1])]
        assert [run["seed"] for run in network["runs"]] == seeds
        assert network["top1"] == pytest.approx(np.mean([r["top1"] for r in network["runs"]]))
        assert network["latency_ms"] <= TARGET_MS
    same = (
        "epochs",
        "learning_rate",
        "weight_decay",
        "label_smoothing",
        "dropout",
        "ema_decay",
        "precision",
        "dataset",
        "batch_size",
        "image_size",
        "held_out",
        "start",
    )
    configs = [
        json.loads((folder / "config.json").read_text()) for folder in finished.glob("train-*")
    ]
    assert all({k: c[k] for k in same} == {k: configs[0][k] for k in same} for c in configs)
    assert configs[0]["epochs"] == 1 and configs[0]["learning_rate"] == 0.05
    first, *groups = part["groups"]
    assert first["networks"] == 2 and "difference" not in first
    assert [group["name"] for group in groups] == ["random", f"found in {other_name}", names[-1]]
    top1 = {n["name"]: n["top1"] for n in part["networks"]}
    for group, of_group in zip(groups, (random, others, names[-1:]), strict=True):
        assert group["top1"]["mean"] == pytest.approx(np.mean([top1[n] for n in of_group]))
        difference = first["top1"]["mean"] - group["top1"]["mean"]
        assert group["difference"]["mean"] == pytest.approx(difference)
        assert group["holm_p"] >= group["difference"]["p"]
    for file in finished.glob("train-*/trained.json"):
        run = json.loads(file.read_text())
        assert sum(map(int, f"{int(run['right'], 16):b}")) == round(359 * run["top1"])


def test_rivals_are_published_networks_of_any_width():
    spec = rivals.scaled(zoo.find_network("repvgg_a0"), 1.25)
    assert [b.out_channels for b in spec.blocks[:3]] == [64, 64, 120] and spec.head_channels is None
    assert spec.blocks[-1].out_channels == 1600 and spec.blocks[0].kind == "plain"
    assert str(rivals.parse("mobileone_s0:1.25:17.1")) == "mobileone_s0:1.25:17.100"
    for text, message in (
        ("mobileone", "unknown network 'mobileone'"),
        ("mobileone_s0:1.2", "give NAME, or NAME:WIDTH:MS"),
        ("mobileone_s0:-1:2", "give NAME, or NAME:WIDTH:MS"),
        ("mobileone_s0:x:nan", "give NAME, or NAME:WIDTH:MS"),
    ):
        with pytest.raises(ValueError, match=message):
            rivals.parse_all([text], 17.2)
    with pytest.raises(ValueError, match="names a network twice"):
        rivals.parse_all(["resnet_18", "resnet_18:0.9:17"], 17.2)
    with pytest.raises(ValueError, match="resnet_18:1:20.000 takes more than --target_ms=17.2"):
        rivals.parse_all(["resnet_18:1:20"], 17.2)


def test_the_document_is_made_from_study_json_alone(finished, tmp_path):
    document = study_of(finished)
    files = results.write(document, tmp_path)
    assert set(files) == {f.name for f in tmp_path.iterdir()} and len(files) == 8
    text = (tmp_path / "results.md").read_text()
    assert text == (finished / "results.md").read_text()
    assert text.startswith("# Device preferences, and found networks versus others\n")
    part = results.markdown({**document, "affinities": None})
    assert part.startswith("# Found networks versus others\n")
    for name in ("study_affinities.png", "study_networks.png", "study_worth.png"):
        assert f"]({name})" in text
    for statement in document["affinities"]["statements"]:
        assert f"“{statement['statement']}”: **{statement['verdict']}**" in text


def test_a_search_does_not_take_the_steps_of_one_with_other_parameters(search_flags, tmp_path):
    """After one that keeps the batch statistics, a search finds what it finds alone."""
    file = tmp_path / "space.json"
    file.write_text(json.dumps({**SPACE, "counts": [2], "kernels": [3, 5], "expansions": [2]}))
    given = ["search", f"--space={file}", "--image_size=32", "--search_image_size=8"]
    given += ["--warmup_epochs=0", "--search_epochs=2", "--batch_size=64"]
    with flagsaver.flagsaver():
        flags.FLAGS(given)
        config = config_from_flags()
    table = random_table(config.search_space, 0)
    folders = [dataclasses.replace(config, workdir=str(tmp_path / name)) for name in ("a", "b")]
    with Progress(quiet=True) as progress:
        both, alone = (Runs(folder, progress) for folder in folders)
        target_ms = float(np.mean(table.range_ms))
        both.search(dataclasses.replace(folders[0], batch_norm_group=0), table, target_ms, 0)
        found = [
            runs.search(folder, table, target_ms, 1)
            for runs, folder in zip((both, alone), folders, strict=True)
        ]
    assert found[0] == found[1]


def test_a_killed_study_goes_on_to_the_same_end(finished, tmp_path, arguments):
    """Killed among the trainings, then gone on with while another process is at one of them."""
    folder = tmp_path / "run"
    command = [*arguments, f"--workdir={folder}"]
    process = Program(*command, environment={"XLA_FLAGS": UNOPTIMIZED})
    process.wait_until((folder / "train-found0-seed0/metrics.jsonl").exists)
    process.kill()
    assert not (folder / "study.json").exists()
    done_before = {f: f.stat().st_mtime_ns for f in folder.glob("*/*ed.json")}
    assert len(done_before) >= 4

    (folder / "train-random01-seed1").mkdir()
    with (folder / "train-random01-seed1/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run_program(*command, XLA_FLAGS=UNOPTIMIZED)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "1 runs are held by other processes: train-random01-seed1" in done.stderr
    assert not (folder / "study.json").exists()

    done = run_program(*command, XLA_FLAGS=UNOPTIMIZED)
    assert done.returncode == 0, done.stderr
    assert {f: f.stat().st_mtime_ns for f in done_before} == done_before
    assert study_of(folder) == study_of(finished)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seeds=0,0"], "--seeds=0,0 names a seed twice"),
        (["--seeds=0,1", "--trainings=3"], "--trainings=3: give at most the 2 seeds"),
        (["--other_spaces=proxyless"], "names a space twice"),
        (["--train_examples=101"], "--train_examples=101: give a multiple of the 10 classes"),
        (["--space={micro}"], "has no k3e6 k5e6"),
        (["--target_ms=5"], "0 of 200 random networks of the proxyless space that take 4.950 to"),
    ],
)
def test_refuses_bad_input_before_any_run(change, message, tmp_path, micro_file):
    done = run_program(
        "experiments.study",
        f"--workdir={tmp_path / 'run'}",
        f"--output={tmp_path}",
        *(text.format(micro=micro_file) for text in change),
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_statistics_count_blocks_and_shares():
    path = PROXYLESS.path(PROXYLESS.parse(REFERENCE))
    assert device_preferences.statistics(PROXYLESS, path) == pytest.approx(
        {"blocks": 19, "e6": 5 / 19, "k3": 2 / 19, "k5": 10 / 19, "k7": 7 / 19}
    )
    # Each of 7 (or 6) candidates alike: 15 blocks are there with 6/7; half is wide, a third 7×7.
    even = PROXYLESS.allowed / PROXYLESS.allowed.sum(1, keepdims=True)
    assert device_preferences.expected_statistics(PROXYLESS, even) == pytest.approx(
        {"blocks": 6 + 15 * 6 / 7, "e6": 1 / 2, "k3": 1 / 3, "k5": 1 / 3, "k7": 1 / 3}
    )


def test_reasons_of_a_table_known_by_hand():
    """A table: k ms for expansion 3, 1.5 times that for 6; two of five blocks cannot be skipped."""
    ms = np.array(
        [[c.kernel * (1.5 if c.expansion == 6 else 1) for c in PROXYLESS_TINY.candidates]] * 5
    )
    table = make_table(PROXYLESS_TINY, ms, fixed_ms=2.0)
    path = PROXYLESS_TINY.path(PROXYLESS_TINY.parse("k3e3 - k5e3 k7e3 k5e3"))
    assert device_preferences.table_reasons(PROXYLESS_TINY, table, path) == pytest.approx(
        {
            "k7_over_k3_e6": 7 / 3,
            "k7_over_k3_e3": 7 / 3,
            "e6_over_two_e3": 0.75,
            "least_over_most": 3 / 10.5,
            "fixed_share": 2 / 22,
            "skippable_share": 12 / 22,
        }
    )


@pytest.mark.parametrize(
    ("blocks", "e6", "k7", "verdicts"),
    [
        ((-5, -4), (0.85, 1.0), (0.1, 0.3), ["reproduces"] * 3),
        ((1, 3), (0.2, 0.5), (-0.3, -0.1), ["does not reproduce"] * 3),
        ((-3, 1), (0.6, 1.0), (-0.1, 0.1), ["undecided"] * 3),
        ((None, None), (None, None), (None, None), ["undecided"] * 3),
    ],
)
def test_verdicts_follow_the_intervals(blocks, e6, k7, verdicts):
    def of(low, high):
        return {"mean": 0.0, "low": low, "high": high, "count": 3}

    found = device_preferences.statements({"e6": of(*e6)}, {"blocks": of(*blocks), "k7": of(*k7)})
    assert [s["verdict"] for s in found] == verdicts


def test_random_networks_are_drawn_evenly_from_those_that_spend_the_budget():
    """Against all paths of a small space, counted."""
    table = random_table(SMALL, 3)
    every = np.stack(np.meshgrid(*[np.flatnonzero(row) for row in SMALL.allowed]), -1)
    every = every.reshape(-1, len(SMALL.blocks))
    ms = np.array([table.path_ms(path) for path in every])
    low, high = np.quantile(ms, [0.4, 0.41])
    within = every[(ms >= low) & (ms <= high)]
    draw = draw_within_budget(SMALL, table, low, high, 20 * len(within), seed=0)
    counts = {path.tobytes(): 0 for path in within.astype(np.int32)}
    for path in draw.paths:
        counts[path.tobytes()] += 1  # a KeyError for a path of another latency
    # Poisson of 20 each: six standard deviations.
    assert max(counts.values()) < 47 and min(counts.values()) > 0
    assert draw.accepted / draw.drawn == pytest.approx(len(within) / len(every), rel=0.05)
    again = draw_within_budget(SMALL, table, low, high, 5, seed=0)
    np.testing.assert_array_equal(again.paths, draw.paths[:5])
    with pytest.raises(ValueError, match="0 of 1 random networks of the small space"):
        draw_within_budget(SMALL, table, 90, 91, 1, seed=0)


def test_a_rank_is_among_the_others():
    assert comparison.rank(0.9, [0.8, 0.7]) == 1
    assert comparison.rank(0.7, [0.8, 0.7, 0.6]) == 2
    assert comparison.rank(0.1, [0.8, 0.7]) == 3


def test_mobilenet_v2_of_other_widths():
    assert rivals.scaled(zoo.mobilenet_v2(), 1.0) == zoo.mobilenet_v2(1000)
    # Published (Sandler et al., the authors' checkpoints): 0.75 has 2.61 M and 209 M, 1.4 6.06 M
    # and 582 M.
    for width, parameters, macs in ((0.75, 2.61e6, 209e6), (1.4, 6.06e6, 582e6)):
        spec = rivals.scaled(zoo.mobilenet_v2(), width)
        assert count_parameters(spec) == pytest.approx(parameters, rel=0.02)
        assert count_macs(spec, 224) == pytest.approx(macs, rel=0.01)
    assert [b.out_channels for b in rivals.scaled(zoo.mobilenet_v2(), 0.35).blocks][:4] == [
        8,
        8,
        8,
        16,
    ]


def test_the_pixel_1_table_holds_the_published_entries():
    table = LatencyTable.load(MOBILE_TABLE, PROXYLESS)
    assert (table.device, table.kind, table.precision) == ("PIXEL_1", "measured", "FP32")
    at = {str(c): i for i, c in enumerate(PROXYLESS.candidates)}
    assert table.fixed_ms["stem"] == 4.083755600814664
    assert table.fixed_ms["first"] == 3.8821352201257864
    assert table.candidate_ms[0, at["k3e6"]] == 16.766225433526014
    assert table.candidate_ms[9, at["k7e3"]] == 2.500315662650602  # 14×14, 80 channels
    assert table.candidate_ms[20, at["k5e6"]] == 5.264772727272727  # 7×7, 192 to 320 channels
    path = PROXYLESS.path(PROXYLESS.parse(REFERENCE))
    assert table.path_ms(path) == pytest.approx(82.52386, abs=1e-5)


def test_the_pixel_1_is_no_device_that_can_be_asked_for():
    with pytest.raises(ValueError, match="unknown device 'PIXEL_1'"):
        tables.shipped("PIXEL_1", PROXYLESS, 224, Options())
