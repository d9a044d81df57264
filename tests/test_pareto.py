"""One search, every budget: a run with `--pareto_ms` on the small space, and its figure."""

import dataclasses
import json
import pathlib
import shutil
import xml.etree.ElementTree

import matplotlib.image
import pytest

from experiments.search import pareto
from jaxnas.latency import LatencyTable
from tests.programs import run_program
from tests.test_search import as_searched, config_of, table_for_1000_classes, trainer_of

TARGET_MS = 1.9
BUDGETS_MS = (1.81, TARGET_MS, 2.0)
ENTRY = {
    "target_ms": 14.0,
    "architecture": "k5e6 -",
    "predicted_ms": 13.9,
    "device_ms": 13.8,
    "kind": "estimated",
    "device": "MYRIADX_COMPILER",
    "inherited_top1": 0.75,
    "split": "held out of train for α",
    "examples": 300,
}
DOCUMENT = {
    "schema": 1,
    "space": "proxyless",
    "dataset": "digits",
    "image_size": 224,
    "search_image_size": 32,
    "settings": {"shaves": None},
    "networks": [
        {
            **ENTRY,
            "target_ms": 12.0,
            "predicted_ms": 11.9,
            "device_ms": 11.95,
            "inherited_top1": 0.5,
        },
        ENTRY,
    ],
}
REFERENCES = {"mobilenet_v2": {"device_ms": 19.5}, "proxyless_mobile": {"device_ms": 22.8}}


@pytest.fixture(scope="module")
def command(tmp_path_factory, micro_search, micro_space):
    """A run with budgets, but for its folder.

    At the default rates, made for longer schedules, all its networks would be equally accurate.
    """
    file = tmp_path_factory.mktemp("table") / "table.json"
    return [
        "experiments.search",
        *micro_search,
        table_for_1000_classes(file, micro_space, None),
        f"--target_ms={TARGET_MS}",
        "--pareto_ms=2,1.81,1.9",
        "--finalists=3",
        "--warmup_epochs=3",
        "--warmup_learning_rate=0.2",
        "--search_learning_rate=0.1",
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, command):
    """An undisturbed run: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("pareto") / "run"
    done = run_program(*command, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder, done


def read(folder: pathlib.Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


def test_every_budget_has_a_network_that_spends_it(finished, micro_space):
    networks = read(finished[0], "pareto.json")["networks"]
    assert [one["target_ms"] for one in networks] == list(BUDGETS_MS)
    table = LatencyTable.load(finished[0] / "latency_table.json", micro_space)
    for one in networks:
        assert set(one) == set(ENTRY)
        assert 0.97 * one["target_ms"] < one["device_ms"] <= one["target_ms"]
        assert one["device"] == "MYRIADX_COMPILER" and one["kind"] == "estimated"
        path = micro_space.path(micro_space.parse(one["architecture"]))
        assert table.path_ms(path) == pytest.approx(one["predicted_ms"], rel=0.02)
        assert one["split"] == "held out of train for α" and one["examples"] == 300
        assert 0 <= one["inherited_top1"] <= 1
        assert round(one["inherited_top1"] * 300, 6).is_integer()
    assert len({one["architecture"] for one in networks}) == 3


def test_the_run_s_own_budget_gives_its_own_network(finished):
    result = read(finished[0], "result.json")
    same = read(finished[0], "pareto.json")["networks"][1]
    for field in ("target_ms", "architecture", "predicted_ms"):
        assert same[field] == result[field], field


def test_files_and_summary(finished):
    folder, done = finished
    assert read(folder, "result.json")["files"]["pareto"] == "pareto.json"
    files = read(folder, "pareto.json")["files"]
    xml.etree.ElementTree.parse(folder / files["figure"])
    assert matplotlib.image.imread(folder / files["figure_png"]).shape[:2] == (600, 960)
    said = " ".join(done.stdout.split())
    device_ms = {
        one["target_ms"]: one["device_ms"] for one in read(folder, "pareto.json")["networks"]
    }
    assert "top-1 is for choosing: inherited weights, 16 px, 300 examples held out of" in said
    for ms in BUDGETS_MS:
        assert f" {ms:g} ms {device_ms[ms]:.2f} ms " in said
    assert "pareto.json" in said


def test_of_the_finalists_the_most_accurate_on_held_out_data_is_derived(finished):
    (derived,) = read(finished[0], "architecture.json")["rounds"]
    finalists = derived["finalists"]
    assert len({one["architecture"] for one in finalists}) == 3
    assert all(0.98 * TARGET_MS < one["predicted_ms"] <= TARGET_MS for one in finalists)
    networks = read(finished[0], "pareto.json")["networks"]
    assert len({one["inherited_top1"] for one in [*finalists, *networks]}) > 1
    # Of equals the first, the likeliest.
    best = max(finalists, key=lambda one: one["inherited_top1"])
    assert derived["architecture"] == best["architecture"]
    # The budget's own derivation scored the same network from the same weights.
    assert networks[1]["inherited_top1"] == best["inherited_top1"]


def test_training_is_the_same_to_the_bit_where_the_budgets_were_done_before(
    finished, tmp_path, command
):
    folder = as_searched(finished[0], tmp_path / "run")
    document = read(folder, "pareto.json")
    document["networks"][0]["inherited_top1"] = 0.123
    (folder / "pareto.json").write_text(json.dumps(document))
    done = run_program(*command, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    assert "resuming from step" in done.stderr and "pareto" not in done.stderr
    assert read(folder, "pareto.json") == document and "12.30%" in done.stdout
    for name in ("metrics.jsonl", "model.bin"):
        assert (folder / name).read_bytes() == (finished[0] / name).read_bytes(), name
    assert read(folder, "result.json") == read(finished[0], "result.json")


def test_without_the_device_its_table_still_gives_every_network(finished, command, tmp_path):
    """No CPython 3.8 or 3.9 since the search ended: it goes on by the table, and says so."""
    nowhere = tmp_path / "empty"
    nowhere.mkdir()
    folder = as_searched(finished[0], tmp_path / "run")
    for name in ("latency_table.json", "architecture.json", "pareto.json", "model.blob"):
        (folder / name).unlink()
    done = run_program(
        *command,
        f"--workdir={folder}",
        "--require_target",
        JAXNAS_MYRIAD_ENV=str(tmp_path / "env"),
        PATH=str(nowhere),
        PYENV_ROOT=str(nowhere),
        HOME=str(nowhere),
    )
    assert done.returncode == 1, done.stderr
    assert "the device is not available" in done.stderr
    assert "the table's classifier has 1000 outputs, this network has 10" in done.stderr
    result = read(folder, "result.json")
    assert result["device_ms"] is None and result["kind"] is None
    assert result["target_met"] is None and result["predicted_ms"] <= TARGET_MS
    assert "was not available; nothing was checked" in " ".join(done.stdout.split())
    assert (folder / "model.onnx").exists() and not (folder / "model.blob").exists()
    networks = read(folder, "pareto.json")["networks"]
    assert [one["target_ms"] for one in networks] == list(BUDGETS_MS)
    for one in networks:
        assert one["device_ms"] is None and one["kind"] is None
        assert one["device"] == "MYRIADX_COMPILER"
        assert 0.98 * one["target_ms"] < one["predicted_ms"] <= one["target_ms"]


def test_budgets_are_done_again_where_their_file_is_gone(finished, tmp_path, micro_space):
    """After the training, too: the supernet stays as its search left it."""
    run = dataclasses.replace(config_of(finished[0]), workdir=str(tmp_path / "run"))
    table = LatencyTable.load(finished[0] / "latency_table.json", micro_space)
    shutil.copytree(finished[0], run.workdir)
    (tmp_path / "run" / "pareto.json").unlink()
    with trainer_of(run) as trainer:
        pareto.trace_front(trainer, table, None)
    before, again = (
        read(folder, "pareto.json")["networks"] for folder in (finished[0], tmp_path / "run")
    )
    for figure in ("architecture", "inherited_top1"):
        assert [one[figure] for one in again] == [one[figure] for one in before]


def test_figure_shows_device_latency_against_accuracy_and_the_published_networks():
    fig = pareto.figure(DOCUMENT, REFERENCES)
    axes = fig.axes[0]
    points, *lines = axes.lines
    assert points.get_xydata().tolist() == [[11.95, 50.0], [13.8, 75.0]]
    assert [list(line.get_xdata()) for line in lines] == [[19.5, 19.5], [22.8, 22.8]]
    assert [text.get_text() for text in axes.texts] == [
        "≤ 12 ms",
        "≤ 14 ms",
        "MobileNetV2, 19.5 ms",
        "ProxylessNAS mobile, 22.8 ms",
    ]
    assert axes.get_xlabel() == "latency at 224 px, batch 1, ms (MYRIADX_COMPILER, estimated)"
    assert axes.get_ylabel() == (
        "top-1 for choosing, % (300 examples held out of train for α, 32 px)"
    )
    fig.canvas.draw()
    extents = [text.get_window_extent() for text in (*axes.texts, axes.title)]
    for extent in extents:
        assert fig.bbox.x0 <= extent.x0 and extent.x1 <= fig.bbox.x1
        assert fig.bbox.y0 <= extent.y0 and extent.y1 <= fig.bbox.y1
    assert not any(a.overlaps(b) for i, a in enumerate(extents) for b in extents[:i])


def test_figure_without_the_device_shows_what_the_table_predicts_and_says_so():
    document = {
        **DOCUMENT,
        "networks": [{**one, "device_ms": None, "kind": None} for one in DOCUMENT["networks"]],
    }
    axes = pareto.figure(document, {}).axes[0]
    assert axes.lines[0].get_xdata().tolist() == [11.9, 13.9] and len(axes.lines) == 1
    assert "the table of MYRIADX_COMPILER, not checked on the device" in axes.get_xlabel()
