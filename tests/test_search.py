"""The main program as a user runs it, on the small published-style space and real digits."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import signal
import xml.etree.ElementTree
from collections.abc import Iterator

import depthai
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runs.run_folder import Workdir
from experiments.search import __main__, config, derivation
from experiments.search.supernet_trainer import Trainer
from jaxnas import data
from jaxnas.latency import LatencyTable
from jaxnas.onnxruntime_package import onnxruntime
from jaxnas.openvino_package import openvino
from jaxnas.space import Space
from profiling import tables
from profiling.command import open_store
from profiling.device import Options
from profiling.progress import Progress
from profiling.recording_device import Recording
from profiling.registry import open_device
from tests.programs import Program, run_program

SHAVES = 6
TARGET_MS = 2.0


def table_for_1000_classes(file: pathlib.Path, space: Space, shaves: int | None) -> str:
    """Writes a table of the compiler's; the digits have 10 classes."""
    device = open_device("MYRIADX_COMPILER", Options(shaves=shaves))
    with open_store(None) as store, Recording(device, store) as recording:
        tables.build(recording, space, 64, 1000, held_out=0).save(file, space)
    return f"--latency_table={file}"


@pytest.fixture(scope="module")
def command(tmp_path_factory, micro_file, micro_space, myriad) -> list[str]:
    """A search by vpu.flags on the micro space, but for its folder.

    So rarely written, checkpoints are of the search's end and of the training's.
    """
    file = tmp_path_factory.mktemp("table") / "table.json"
    return [
        "experiments.search",
        "--flagfile=vpu.flags",
        f"--space={micro_file}",
        "--image_size=64",
        f"--target_ms={TARGET_MS}",
        "--search_image_size=16",
        "--warmup_epochs=3",
        "--search_epochs=3",
        "--train_image_size=32",
        "--train_epochs=3",
        "--deployment_epochs=1",
        "--train_batch_size=16",
        "--train_ema_decay=0",
        f"--shaves={SHAVES}",
        "--checkpoint_seconds=600",
        table_for_1000_classes(file, micro_space, SHAVES),
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, command):
    """An undisturbed run: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("search") / "run"
    done = run_program(*command, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder, done


def result_of(folder: pathlib.Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def config_of(folder: pathlib.Path) -> config.Config:
    document = json.loads((folder / "config.json").read_text())
    return config.Config(**{k: v for k, v in document.items() if k != "schema"})


def as_searched(finished: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """A copy of a finished run as its search left it: derived, its network not trained."""
    shutil.copytree(finished, folder)
    (folder / "result.json").unlink()
    for part in ("train", "best"):
        shutil.rmtree(folder / "checkpoints" / part)
    return folder


@contextlib.contextmanager
def trainer_of(run: config.Config) -> Iterator[Trainer]:
    """The run's trainer, at its newest checkpoint or untrained; nothing compiled."""
    with Workdir(run) as workdir, Progress() as progress:
        trainer = Trainer(run, data.load("digits", seed=0), workdir, progress)
        yield trainer
        trainer.close()


def test_leaves_every_file_of_the_contract(finished):
    folder, _ = finished
    for name in (
        "config.json",
        "metrics.jsonl",
        "latency_table.json",
        "architecture.json",
        "architecture.svg",
        "model.onnx",
        "model.xml",
        "model.bin",
        "labels.txt",
        "model.blob",
        "model.rvc2.tar.xz",
        "result.json",
        "report.html",
        "choices.json",
        "latency.json",
        "answers.json",
        "time.json",
        "checkpoints",
    ):
        assert (folder / name).exists(), name
    xml.etree.ElementTree.parse(folder / "architecture.svg")


def test_result_meets_the_target_on_the_device(finished, micro_space):
    result = result_of(finished[0])
    assert result["target_met"] is True and result["target_ms"] == TARGET_MS
    assert result["device"] == "MYRIADX_COMPILER" and result["kind"] == "estimated"
    assert 0.98 * TARGET_MS < result["device_ms"] <= TARGET_MS
    assert result["predicted_ms"] == pytest.approx(result["device_ms"], rel=0.02)
    assert result["parity"]["same_top1"] and result["parity"]["openvino_max_abs"] < 1e-4
    assert result["accuracy"]["dataset"] == "digits" and result["accuracy"]["examples"] == 359
    # Random guessing has 0.10 with a standard deviation of 0.016.
    assert result["accuracy"]["top1"] > 0.2
    assert result["accuracy"]["file"] == "model.xml" and result["accuracy"]["image_size"] == 64
    assert result["archive"] == {"shaves": SHAVES, "estimated_ms": None}  # the blob as measured
    arch = micro_space.parse(result["architecture"])
    table = LatencyTable.load(finished[0] / "latency_table.json", micro_space)
    assert table.num_classes == 10
    assert table.path_ms(micro_space.path(arch)) == pytest.approx(result["predicted_ms"])


def test_summary_tells_a_person(finished):
    out = finished[1].stdout
    for words in (
        "target met",
        "MobileNetV2",
        "ProxylessNAS mobile",
        "Latency by MYRIADX_COMPILER with shaves 6, estimated",
        "top-1",
        "model.blob",
    ):
        assert words in " ".join(out.split()), words


def test_blob_opens_with_the_shaves_asked_for(finished):
    blob = depthai.OpenVINO.Blob(finished[0] / "model.blob")
    assert blob.numShaves == SHAVES and blob.numSlices == SHAVES
    assert list(blob.networkInputs) == ["image"] and list(blob.networkOutputs) == ["logits"]


def test_ir_and_onnx_give_the_same_logits(finished):
    folder, _ = finished
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), np.uint8)
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    compiled = openvino.Core().compile_model(
        folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    np.testing.assert_allclose(
        compiled(image)["logits"], session.run(None, {"image": image})[0], atol=1e-4
    )


def test_metrics_tell_every_phase_in_order(finished):
    lines = [json.loads(x) for x in (finished[0] / "metrics.jsonl").read_text().splitlines()]
    phases = list(dict.fromkeys(line["phase"] for line in lines))
    assert phases == ["warm-up", "search", "derive", "train", "evaluate"]
    searching = [x for x in lines if x["phase"] == "search"][-1]
    assert {
        "ce",
        "top1",
        "learning_rate",
        "arch_ce",
        "expected_ms",
        "latency_term",
        "entropy",
    } <= set(searching)
    assert [x["step"] for x in lines] == sorted(x["step"] for x in lines)


def test_the_same_command_again_shows_the_result(finished, command):
    folder, first = finished
    before = (folder / "result.json").stat().st_mtime_ns
    done = run_program(*command, f"--workdir={folder}", "--require_target")
    assert done.returncode == 0, done.stderr
    assert "this run is done" in done.stderr
    assert done.stdout == first.stdout
    assert (folder / "result.json").stat().st_mtime_ns == before


def test_a_missed_target_fails_where_it_is_required(finished, command, tmp_path):
    shutil.copy(finished[0] / "config.json", tmp_path)
    (tmp_path / "result.json").write_text(
        json.dumps({**result_of(finished[0]), "device_ms": 2.3, "target_met": False})
    )
    done = run_program(*command, f"--workdir={tmp_path}", "--require_target")
    assert done.returncode == 1, done.stderr
    assert "target missed" in " ".join(done.stdout.split())


def test_a_stopped_run_goes_on_to_the_same_end(finished, command, tmp_path):
    """Stopped by Control-C in the search, preempted while the network is trained."""
    folder = tmp_path / "run"
    arguments = [*command, f"--workdir={folder}", "--checkpoint_seconds=1"]
    metrics = folder / "metrics.jsonl"
    for number, after, status in ((signal.SIGINT, "search", 1), (signal.SIGTERM, "train", 0)):
        process = Program(*arguments)
        process.wait_until(
            lambda after=after: metrics.exists() and f'"phase": "{after}"' in metrics.read_text()
        )
        process.send_signal(number)
        assert process.wait(60) == status
        said = process.stderr
        assert "run the same command again to resume" in said and "Traceback" not in said
        json.loads((folder / "config.json").read_text())
        assert not (folder / "result.json").exists()
    done = run_program(*arguments)
    assert done.returncode == 0, done.stderr
    assert "resuming from step" in done.stderr
    mine, theirs = result_of(folder), result_of(finished[0])
    assert mine["architecture"] == theirs["architecture"]
    assert mine["accuracy"] == theirs["accuracy"]
    for name in ("metrics.jsonl", "model.bin"):
        assert (folder / name).read_bytes() == (finished[0] / name).read_bytes(), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device=TOASTER"], "unknown device 'TOASTER', allowed are MYRIADX_COMPILER"),
        (
            ["--target_ms=3"],
            "--target_ms=3: on MYRIADX_COMPILER at 224 px the fastest network of the "
            "proxyless space takes 8.92 ms and the slowest 49.63 ms",
        ),
        (["--worker_prefix='"], 'worker_prefix is "\'"'),
        (["--workdir=README.md"], "--workdir=README.md is a file"),
        (["--no_such_flag=1"], "no_such_flag"),
    ],
)
def test_refuses_bad_input_with_one_line_and_touches_nothing(arguments, message, tmp_path):
    flags = ["--flagfile=vpu.flags", f"--workdir={tmp_path / 'run'}", *arguments]
    done = run_program("experiments.search", *flags)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert message in last and last.startswith("error: ") and "Traceback" not in done.stderr
    assert not done.stdout and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": "proxyless"}, "space micro-[0-9a-f]{8}, this run has proxyless"),
        ({"image_size": 96}, "image size 64, this run has 96"),
        ({"shaves": 8}, "shaves 6, this run has 8"),
    ],
)
def test_refuses_a_table_made_for_something_else(change, message, tmp_path, finished):
    run = dataclasses.replace(config_of(finished[0]), workdir=str(tmp_path / "run"))
    assert __main__.given_table(run).num_classes == 1000
    with pytest.raises(ValueError, match=message):
        __main__.given_table(dataclasses.replace(run, **change))


def test_a_wrong_table_is_rescaled_by_what_the_device_says(tmp_path, finished, micro_space):
    """Entries half too high: the first network is too fast, the last spends the budget."""
    run = dataclasses.replace(config_of(finished[0]), workdir=str(tmp_path / "run"))
    right = LatencyTable.load(finished[0] / "latency_table.json", micro_space)
    wrong = dataclasses.replace(right, candidate_ms=1.5 * right.candidate_ms)
    with open_device(run.device, run.options) as device, trainer_of(run) as trainer:
        derived = derivation.derive(trainer, wrong, device)
    first, *_, last = derived.rounds
    assert first["device_ms"] < 0.95 * first["predicted_ms"]
    assert last["table_scale"] < 0.95
    assert first["device_ms"] < last["device_ms"] <= run.target_ms
    assert derived.architecture == last["architecture"]
    assert derived.predicted_ms == pytest.approx(last["device_ms"], rel=0.02)


def test_argmax_takes_each_block_s_likeliest_candidate_and_may_miss_the_target(
    tmp_path, finished, micro_space
):
    run = dataclasses.replace(
        config_of(finished[0]), derive="argmax", target_ms=1.8, workdir=str(tmp_path / "run")
    )
    table = LatencyTable.load(finished[0] / "latency_table.json", micro_space)
    path = micro_space.path(micro_space.parse("k5e2 k3e2 k5e2 k3e2"))
    with open_device(run.device, run.options) as device, trainer_of(run) as trainer:
        alpha = trainer.state.alpha.at[jnp.arange(len(path)), path].add(1)
        trainer.loop.state = dataclasses.replace(trainer.state, alpha=alpha)
        derived = derivation.derive(trainer, table, device)
    assert derived.architecture == "k5e2 k3e2 k5e2 k3e2"
    assert derived.rounds[-1]["device_ms"] > 1.8


def test_help_lists_every_flag_with_its_unit():
    done = run_program("experiments.search", "--help")
    assert done.returncode == 0
    for words in ("--target_ms: LAT_T, the latency budget in ms", "--image_size", "--flagfile"):
        assert words in " ".join(done.stdout.split()), words


def test_refuses_a_folder_that_holds_another_run(finished, command):
    folder, _ = finished
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*") if f.is_file()}
    done = run_program(*command, f"--workdir={folder}", "--latency_weight=0.2")
    assert done.returncode == 2
    assert "holds another run (--latency_weight=0.1 there, 0.2 now)" in done.stderr
    assert {f: f.stat().st_mtime_ns for f in folder.rglob("*") if f.is_file()} == before
