"""The training program as a user runs it: tiny networks, real digits, real devices and kills."""

import dataclasses
import fcntl
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from experiments.runs.networks import Architecture, find_architecture
from experiments.train import config as train_config
from experiments.train import page
from experiments.train.config import TrainConfig
from experiments.train.supernet_weights import check_split, from_supernet
from jaxnas import search_state, supernet
from jaxnas.builtin_spaces import PROXYLESS_TINY
from jaxnas.onnxruntime_package import onnxruntime
from tests.browser import open_page
from tests.programs import ROOT, Program, run_program

TEXT = "k5e3 - k3e3 k7e3 -"
TRAIN = (
    "experiments.train",
    f"--network={TEXT}",
    "--space=proxyless_tiny",
    "--image_size=64",
    "--epochs=5",
    "--warmup_epochs=1",
    "--ema_decay=0.9",
    "--precision=bf16",
    "--checkpoint_seconds=1",
)

# A search's folder as it stands after its derivation, without the minutes that it takes.
MAKE_SEARCH = """
import sys
from absl import flags
from experiments.runs.run_folder import Workdir
from experiments.search import config
from jaxnas import search_state
from jaxnas.checkpoint import Checkpoints
config.define_flags()
flags.FLAGS(["search", "--space=proxyless_tiny", "--image_size=64", f"--workdir={sys.argv[1]}"])
run = config.config_from_flags()
with Workdir(run) as workdir:
    state = search_state.init_state(run.search_space, 10, search_state.Hyperparameters(), seed=5)
    checkpoints = Checkpoints(workdir.path / "checkpoints" / "search", run.identity())
    checkpoints.save(7, state)
    checkpoints.close()
    workdir.write_json("architecture.json", {"schema": 1, "space": run.space,
                                             "architecture": sys.argv[2]})
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("searched") / "run"
    subprocess.run([sys.executable, "-c", MAKE_SEARCH, str(folder), TEXT], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, myriad):
    """An undisturbed run: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("train") / "run"
    done = run_program(*TRAIN, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder, done


def result_of(folder: pathlib.Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def metrics_of(folder: pathlib.Path, phase: str) -> list[dict]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["phase"] == phase]


def test_result_says_what_was_trained_and_how_good_it_is(finished):
    folder, done = finished
    result = result_of(folder)
    assert result["architecture"] == TEXT and result["space"] == "proxyless_tiny"
    assert result["device"] == "MYRIADX_COMPILER" and result["kind"] == "estimated"
    assert 1 < result["device_ms"] < 3
    assert result["accuracy"]["dataset"] == "digits" and result["accuracy"]["examples"] == 359
    # Random guessing has 0.10 with a standard deviation of 0.016.
    assert result["accuracy"]["top1"] > 0.2
    assert result["parity"]["same_top1"]
    assert set(result["files"].values()) == {
        "report.html",
        "model.onnx",
        "model.xml",
        "labels.txt",
        "model.blob",
        "model.rvc2.tar.xz",
        "architecture.svg",
    }
    assert all((folder / name).stat().st_size for name in result["files"].values())
    for words in (
        TEXT,
        "Latency by MYRIADX_COMPILER, estimated",
        "of 5, the best on held-out data",
        "model.blob",
    ):
        assert words in " ".join(done.stdout.split()), words


def test_a_browser_shows_the_training(finished):
    folder, _ = finished
    opened = open_page(folder / "report.html")
    assert opened.console == []
    for name in ("networks", "training", "milliseconds"):
        assert opened.dom.count(f'<figure id="figure-{name}"><div class="scroll"><svg') == 1, name
    text = " ".join(re.sub(r"<[^>]*>", " ", opened.dom).split())
    result = result_of(folder)
    assert f"{result['accuracy']['top1']:.2%}" in text and "held out, 64 px" in text
    assert f"--network='{TEXT}'" in text or f"'--network={TEXT}'" in text
    before = (folder / "report.html").read_bytes()
    page.write(folder)
    assert (folder / "report.html").read_bytes() == before


def test_every_epoch_is_evaluated_and_the_best_one_delivered(finished):
    folder, _ = finished
    lines = metrics_of(folder, "evaluate")
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    best = max(line["held_out_top1"] for line in lines)
    result = result_of(folder)
    assert result["held_out"]["top1"] == best and result["held_out"]["examples"] == 300
    assert result["held_out"]["epoch"] == max(
        line["epoch"] for line in lines if line["held_out_top1"] == best
    )


def test_the_learning_rate_warms_up_and_falls(finished):
    rates = [line["learning_rate"] for line in metrics_of(finished[0], "train")]
    # 17 steps an epoch, logged every tenth and at the epoch's end.
    assert rates[0] == pytest.approx(0.05 * 10 / 18) and rates[1] == pytest.approx(0.05 * 17 / 18)
    assert rates[2:] == sorted(rates[2:], reverse=True) and rates[-1] < 0.001


def test_the_onnx_file_has_the_shapes_of_the_deployment(finished):
    session = onnxruntime.InferenceSession(
        finished[0] / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(None, {"image": np.zeros((1, 3, 64, 64), np.uint8)})
    assert logits.shape == (1, 10)


def test_the_same_command_again_shows_the_result(finished):
    folder, first = finished
    before = (folder / "result.json").stat().st_mtime_ns
    done = run_program(*TRAIN, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    assert "this run is done" in done.stderr and done.stdout == first.stdout
    assert (folder / "result.json").stat().st_mtime_ns == before


def test_a_killed_and_a_stopped_run_go_on_to_the_same_end(finished, tmp_path):
    folder = tmp_path / "run"
    arguments = [*TRAIN, f"--workdir={folder}"]
    metrics = folder / "metrics.jsonl"
    for number, after in ((signal.SIGKILL, '"epoch": 2'), (signal.SIGINT, '"epoch": 3')):
        process = Program(*arguments)
        process.wait_until(lambda after=after: metrics.exists() and after in metrics.read_text())
        process.send_signal(number)
        process.wait(60)
        said = process.stderr
        if number == signal.SIGINT:
            assert process.returncode == 1
            assert "run the same command again to resume" in said and "Traceback" not in said
        assert not (folder / "result.json").exists()
    done = run_program(*arguments)
    assert done.returncode == 0, done.stderr
    assert "resuming from step" in done.stderr
    assert metrics.read_text() == (finished[0] / "metrics.jsonl").read_text()
    mine, theirs = result_of(folder), result_of(finished[0])
    assert mine["accuracy"] == theirs["accuracy"] and mine["held_out"] == theirs["held_out"]
    assert (folder / "model.onnx").read_bytes() == (finished[0] / "model.onnx").read_bytes()


@pytest.mark.parametrize("text", [None, "k3e6 - k7e3 k5e3 -"])
def test_a_network_starts_with_the_supernet_s_weights(searched, text):
    network = from_supernet(searched, 10, text)
    state = search_state.init_state(PROXYLESS_TINY, 10, search_state.Hyperparameters(), seed=5)
    path = PROXYLESS_TINY.path(PROXYLESS_TINY.parse(text or TEXT))
    expected = supernet.extract(PROXYLESS_TINY, state.params, state.stats, path, 10)
    network.eval()
    expected.eval()
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(network(images), expected(images))


def changed(folder: pathlib.Path, copy: pathlib.Path, name: str, **changes) -> pathlib.Path:
    """A copy of a run's folder with fields of one of its JSON files changed."""
    shutil.copytree(folder, copy)
    document = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps({**document, **changes}))
    return copy


def test_refuses_a_supernet_that_does_not_fit(searched, tmp_path):
    with pytest.raises(ValueError, match="trained on digits with 10 classes, this data set has 7"):
        from_supernet(searched, 7)
    other = changed(searched, tmp_path / "seed", "config.json", seed=1)
    with pytest.raises(ValueError, match=r"another configuration: seed \(saved: 0, now: 1\)"):
        from_supernet(other, 10)
    wide = changed(searched, tmp_path / "space", "config.json", space="proxyless")
    with pytest.raises(ValueError, match="of the space proxyless_tiny, the supernet of proxyless"):
        from_supernet(wide, 10)
    shutil.rmtree(tmp_path / "space" / "checkpoints")
    shutil.copy(searched / "config.json", tmp_path / "space")
    with pytest.raises(ValueError, match="has no checkpoints"):
        from_supernet(tmp_path / "space", 10)


def train_config_of(folder: pathlib.Path) -> TrainConfig:
    document = json.loads((folder / "config.json").read_text())
    del document["schema"]
    return TrainConfig(**document)


def test_a_training_holds_out_what_the_search_of_its_supernet_held_out(searched, finished):
    config = train_config_of(finished[0])
    for held_out in (None, 300):  # the digits' default
        check_split(searched, dataclasses.replace(config, held_out=held_out))
    other = dataclasses.replace(config, held_out=100, seed=1, train_examples=500)
    with pytest.raises(
        ValueError,
        match="held out other pictures; give --seed=0, give --held_out=300, leave --train_examples",
    ):
        check_split(searched, other)


def test_the_supernet_that_weights_come_from_belongs_to_a_training(finished):
    config = train_config_of(finished[0])
    other = dataclasses.replace(config, network="runs/other")
    assert other.identity() == config.identity()
    config, other = (dataclasses.replace(one, start="supernet") for one in (config, other))
    assert other.identity() != config.identity()


def test_leaves_a_search_at_work_alone(searched):
    with (searched / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process is using it"):
            from_supernet(searched, 10)


def test_refuses_a_training_s_folder_as_a_supernet(finished):
    with pytest.raises(ValueError, match="holds no supernet"):
        from_supernet(finished[0], 10)


def test_networks_are_known_by_name_text_and_folder(searched, finished):
    assert find_architecture("mobilenet_v2") == Architecture("mobilenet_v2", None)
    tiny = Architecture(TEXT, "proxyless_tiny")
    assert find_architecture(f" {TEXT}  ", "proxyless_tiny") == tiny
    assert find_architecture(str(searched)) == tiny
    assert find_architecture(str(finished[0])) == tiny
    fused = Architecture("f1e1 k3e3 f1e1 - - f1e1 - k5e6", "nas_bench_macro")
    assert find_architecture(fused.text, fused.space) == fused


@pytest.mark.parametrize(
    ("text", "space", "message"),
    [
        ("mobilenet_v3", None, "unknown network 'mobilenet_v3': give one of mobilenet_v2, "),
        ("", None, "unknown network ''"),
        (
            "mobilenet_v2",
            "proxyless",
            "--space=proxyless: the published network mobilenet_v2 has no",
        ),
        (TEXT, None, "architecture has 5 tokens, the proxyless space has 21 blocks"),
        ("- - k3e3 k7e3 -", "proxyless_tiny", "block00: skip is not allowed"),
        ("k9e3 - k3e3 k7e3 -", "proxyless_tiny", "block00: unknown token 'k9e3'"),
        (TEXT, "darts", "unknown space 'darts'"),
        (str(ROOT), None, "is not the folder of a run"),
    ],
)
def test_refuses_what_names_no_network(text, space, message):
    with pytest.raises(ValueError, match=message):
        find_architecture(text, space)


def test_refuses_a_folder_whose_network_does_not_fit(searched, tmp_path):
    cut = changed(searched, tmp_path / "cut", "architecture.json", architecture="k3e3")
    with pytest.raises(ValueError, match="is invalid: architecture has 1 tokens"):
        find_architecture(str(cut))
    (cut / "architecture.json").write_text("{")
    with pytest.raises(ValueError, match="architecture.json cannot be read"):
        find_architecture(str(cut))
    other = changed(searched, tmp_path / "other", "config.json", space_name="proxyless_tiny-0123")
    with pytest.raises(ValueError, match="proxyless_tiny, has changed since the run; restore it"):
        find_architecture(str(other))
    (cut / "architecture.json").unlink()
    with pytest.raises(ValueError, match="has no network yet"):
        find_architecture(str(cut))
    with pytest.raises(
        ValueError, match="--space=proxyless: the network in .* belongs to proxyless_tiny"
    ):
        find_architecture(str(searched), "proxyless")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "TOASTER"}, "unknown device 'TOASTER'"),
        ({"dataset": "mnist"}, "unknown data set 'mnist'"),
        ({"start": "supernet"}, "is not a folder; give the folder of a search"),
        ({"warmup_epochs": 5}, "--warmup_epochs=5: give fewer than the 5 of --epochs"),
        ({"train_image_size": 36}, "--train_image_size=36: give a multiple of 8"),
        ({"image_size": 100}, "--image_size=100: give a multiple of 8"),
        ({"held_out": 101}, "--held_out=101: give a multiple of the 10 classes"),
    ],
)
def test_refuses_what_cannot_work(finished, change, message):
    document = json.loads((finished[0] / "config.json").read_text())
    del document["schema"]
    config = TrainConfig(**document)
    train_config.check(config)
    with pytest.raises(ValueError, match=message):
        train_config.check(dataclasses.replace(config, **change))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network=resnet"], "unknown network 'resnet'"),
        (["--batch_size=5000"], "--batch_size=5000: digits has 1138 examples to train on"),
        (["--precision=f16"], "precision"),
    ],
)
def test_refuses_bad_input_with_one_line_and_touches_nothing(arguments, message, tmp_path):
    done = run_program(*TRAIN, f"--workdir={tmp_path / 'run'}", *arguments)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert message in last and last.startswith("error: ") and "Traceback" not in done.stderr
    assert not done.stdout and not (tmp_path / "run").exists()


def test_says_what_network_may_be_given_where_none_is(tmp_path):
    done = run_program("experiments.train", "--dataset=digits", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --network is missing: give one of ")


def test_refuses_a_folder_that_holds_another_run(finished):
    folder, _ = finished
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*") if f.is_file()}
    done = run_program(*TRAIN, f"--workdir={folder}", "--dropout=0.3")
    assert done.returncode == 2
    assert "holds another run (--dropout=0.1 there, 0.3 now)" in done.stderr
    assert {f: f.stat().st_mtime_ns for f in folder.rglob("*") if f.is_file()} == before
