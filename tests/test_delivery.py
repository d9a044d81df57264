"""Files of a trained network: a run on digits, its files in the libraries that read them."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import tarfile
from typing import Any

import depthai
import luxonis_ml.nn_archive as luxonis
import numpy as np
import onnx
import pytest
from flax import nnx
from model_api.models import ClassificationModel
from PIL import Image

from experiments.pages import repeat
from experiments.predict import pixels_of
from experiments.runs import delivery
from experiments.runs.classifier import Normalization, read_classifier
from experiments.runs.delivery import ParityBroken, check_accuracy, check_parity
from experiments.runs.inference import find_model
from experiments.runs.networks import find_architecture
from experiments.runs.run_folder import Workdir
from experiments.train.config import TrainConfig
from experiments.train.fit import fit
from experiments.train.training import Training
from jaxnas import data, export, pixels
from jaxnas.network import Network
from jaxnas.onnxruntime_package import onnxruntime
from profiling.device import Options
from profiling.progress import Progress
from profiling.recording_device import Recording
from profiling.registry import open_device
from tests.programs import run_program
from tests.test_readme import python_block

TEXT, SIZE, SMALL_SIZE = "k5e3 - k3e3 k7e3 -", 64, 32
TRAIN = (
    "experiments.train",
    f"--network={TEXT}",
    "--space=proxyless_tiny",
    f"--image_size={SIZE}",
    f"--train_image_size={SMALL_SIZE}",
    "--epochs=8",
    "--deployment_epochs=4",
    "--batch_size=16",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, myriad) -> pathlib.Path:
    """The folder of a training at two sizes."""
    folder = tmp_path_factory.mktemp("delivery") / "run"
    done = run_program(*TRAIN, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def result(trained) -> dict:
    return json.loads((trained / "result.json").read_text())


@pytest.fixture(scope="module")
def digits_test() -> data.Part:
    return data.load("digits", seed=0, held_out=0).test


@pytest.fixture(scope="module")
def small(trained, tmp_path_factory) -> tuple[Network, float]:
    """A network trained at the small size alone, and its top-1 there."""
    document = json.loads((trained / "config.json").read_text())
    config = TrainConfig(**{key: value for key, value in document.items() if key != "schema"})
    config = dataclasses.replace(
        config,
        image_size=SMALL_SIZE,
        train_image_size=None,
        epochs=4,
        workdir=str(tmp_path_factory.mktemp("small") / "run"),
    )
    network = Network(config.chosen.spec(10), rng=np.random.default_rng(0))
    with Workdir(config) as workdir, Progress() as progress:
        fitted = fit(
            config.training,
            config.identity(),
            network,
            data.load("digits", seed=0),
            workdir,
            progress,
        )
    return network, fitted.top1


def evaluated(*arguments: str) -> dict:
    done = run_program("experiments.evaluate", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def export_to(
    folder: pathlib.Path, network: Network, part: data.Part, names: tuple[str, ...] | None = None
) -> pathlib.Path:
    model = export.to_onnx(network, SIZE)
    export.add_metadata(model, names or part.class_names, 1.0)
    export.save(model, folder / delivery.ONNX, folder / delivery.IR)
    return folder


def test_the_accuracy_of_a_run_is_that_of_its_file(trained, result, digits_test):
    """Counted by ONNX Runtime, with nothing of ours between picture and file but the crop."""
    accuracy = result["accuracy"]
    session = onnxruntime.InferenceSession(
        trained / "model.onnx", providers=["CPUExecutionProvider"]
    )
    names = (trained / "labels.txt").read_text().splitlines()
    correct = 0
    for index in range(len(digits_test)):
        image = digits_test[index]["image"].convert("RGB").resize((SIZE, SIZE), 2)
        (scores,) = session.run(None, {"image": np.asarray(image).transpose(2, 0, 1)[None]})
        correct += int(names[scores.argmax()]) == digits_test[index]["label"]
    assert abs(correct - 359 * accuracy["top1"]) <= 1
    assert accuracy["top1"] > 0.9
    assert accuracy["top1_low"] < accuracy["top1"] < accuracy["top1_high"]
    assert (accuracy["image_size"], accuracy["file"]) == (SIZE, "model.xml")
    assert accuracy["runtime"] == "openvino CPU f32" and accuracy["examples"] == 359
    assert abs(accuracy["jax_top1"] - accuracy["top1"]) <= 1.5 / 359


def test_evaluate_gives_the_run_s_figure_for_each_of_its_files(trained, result):
    whole = evaluated(f"--model={trained}")
    for figure in ("top1", "top1_low", "top1_high", "top5", "runtime", "image_size"):
        assert whole[figure] == result["accuracy"][figure], figure
    for name in ("model.onnx", "model.xml"):
        one = evaluated(f"--model={trained / name}", "--dataset=digits")
        assert abs(one["top1"] - whole["top1"]) <= 1.5 / 359
        assert one["model"] == str(trained / name) and one["images_per_s"] > 0


def test_weights_of_another_size_s_training_are_noticed(small, digits_test, tmp_path):
    network, small_top1 = small
    assert small_top1 > 0.7
    with (
        Progress() as progress,
        pytest.raises(ParityBroken, match="differs from the trained network"),
    ):
        check_accuracy(
            export_to(tmp_path, network, digits_test), digits_test, small_top1, None, progress
        )


def test_another_normalization_is_noticed(small, digits_test, tmp_path, monkeypatch):
    network, _ = small
    for other in (pixels.Normalization(mean=0, scale=256), pixels.Normalization(mean=16)):
        with monkeypatch.context() as patch:
            patch.setattr(network, "spec", dataclasses.replace(network.spec, normalization=other))
            folder = export_to(tmp_path, network, digits_test)
        with pytest.raises(ParityBroken, match="differs from the network in JAX"):
            check_parity(network, folder, digits_test, SIZE)


def test_another_order_of_classes_is_noticed(trained, result, digits_test, tmp_path):
    for name in ("model.xml", "model.bin"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    text = (tmp_path / "model.xml").read_text()
    turned = json.dumps([*"1234567890"]).replace('"', "&quot;")
    assert json.dumps([*"0123456789"]).replace('"', "&quot;") in text
    (tmp_path / "model.xml").write_text(
        text.replace(json.dumps([*"0123456789"]).replace('"', "&quot;"), turned)
    )
    with Progress() as progress, pytest.raises(ParityBroken, match=r"top-1 0\.0.* of model.xml"):
        check_accuracy(tmp_path, digits_test, result["accuracy"]["jax_top1"], None, progress)


def test_a_device_that_runs_networks_is_tested_as_it_is_timed(trained, result, digits_test):
    with Progress() as progress, Recording(open_device("CPU"), store=None) as device:
        accuracy = check_accuracy(
            trained, digits_test, result["accuracy"]["jax_top1"], device, progress
        )
        precision = device.setup.precision.lower().replace("fp", "f")
    assert accuracy["runtime"] == f"openvino CPU {precision}"
    assert accuracy["inference_precision"] is None
    assert accuracy["top1"] == pytest.approx(result["accuracy"]["top1"], abs=0.02)


def test_the_model_api_classifies_from_the_ir_alone(trained, digits_test):
    model = ClassificationModel.create_model(str(trained / "model.xml"))
    right = 0
    for index in range(100):
        picture = np.asarray(digits_test[index]["image"].convert("RGB"))
        answer = model(picture[..., ::-1].copy()).top_labels[0]  # as OpenCV reads it
        right += answer.name == str(digits_test[index]["label"])
    assert right >= 90


def test_a_camera_s_library_reads_the_archive(trained, result):
    file = trained / "model.rvc2.tar.xz"
    archive = depthai.NNArchive(file)
    assert archive.getInputSize() == (SIZE, SIZE)
    blob = archive.getBlob()
    shaves = result["archive"]["shaves"]
    assert (blob.numShaves, blob.numSlices) == (shaves, shaves) == (6, 6)
    ((name, image),) = blob.networkInputs.items()
    assert (name, image.dataType.name, image.dims) == ("image", "U8F", [SIZE, SIZE, 3, 1])
    ((name, scores),) = blob.networkOutputs.items()
    assert (name, scores.dataType.name, scores.dims) == ("logits", "FP16", [10, 1])
    assert luxonis.is_nn_archive(file)
    with tarfile.open(file) as members:
        config = luxonis.Config(**json.load(members.extractfile("config.json")))
    (head,) = config.model.heads
    assert head.metadata.classes == [*"0123456789"] and head.outputs == ["logits"]


def test_predict_names_pictures(trained, digits_test, tmp_path):
    files = []
    for index in range(3):
        files.append(tmp_path / f"{index}.png")
        digits_test[index]["image"].save(files[-1])
    done = run_program("experiments.predict", f"--model={trained}", *map(str, files), "--json")
    assert done.returncode == 0, done.stderr
    predictions = json.loads(done.stdout)["predictions"]
    assert [one["picture"] for one in predictions] == [*map(str, files)]
    right = [
        one["answers"][0]["class"] == str(digits_test[index]["label"])
        for index, one in enumerate(predictions)
    ]
    assert sum(right) >= 2
    for one in predictions:
        assert len(one["answers"]) == 3 and one["answers"][0]["probability"] <= 1
    said = run_program(
        "experiments.predict", f"--model={trained / 'model.onnx'}", "--top=1", str(files[0])
    )
    assert said.returncode == 0, said.stderr
    best = predictions[0]["answers"][0]
    assert f"{best['class']} {best['probability']:.1%}" in said.stdout


FOR_EACH_PICTURE = """
import pathlib, shutil
for index in range(5):
    shutil.copy(f"{index}.png", "picture.png")
    exec(compile(pathlib.Path("code.py").read_text(), "code.py", "exec"), {})
"""


@pytest.mark.parametrize("word", ["model_api", "onnxruntime"])
def test_code_that_classifies_a_picture_runs_as_printed(trained, digits_test, tmp_path, word):
    for name in ("model.onnx", "model.xml", "model.bin", "labels.txt"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    for index in range(5):
        digits_test[index]["image"].save(tmp_path / f"{index}.png")
    (tmp_path / "code.py").write_text(python_block(word))
    done = subprocess.run(
        [sys.executable, "-c", FOR_EACH_PICTURE],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answers = [int(line.split()[-1]) for line in done.stdout.splitlines()]
    right = np.array(answers) == [digits_test[index]["label"] for index in range(5)]
    assert right.sum() >= 4


# The code leaves the file of labels open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_printed_code_prepares_a_picture_as_predict_does(trained, tmp_path, monkeypatch):
    """One that is not square and lies on its side, for a file that takes a part of it."""
    code = python_block("onnxruntime")
    assert code.strip() == repeat.CODE
    model = onnx.load(trained / "model.onnx")
    for entry in model.metadata_props:
        if entry.key == "crop_fraction":
            entry.value = "0.875"
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "labels.txt").write_text((trained / "labels.txt").read_text())
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (240, 320, 3), np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "picture.png", exif=exif)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    expected = pixels_of(tmp_path / "picture.png", read_classifier(tmp_path / "model.onnx"))
    assert np.abs(names["image"].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "README.md"}, "README.md is not a model file; give a file that ends in"),
        ({"name": "tests"}, "--model=tests has no config.json: give the folder of a search"),
        (
            {"device": "MYRIADX_COMPILER"},
            "give one device that runs networks: MYRIAD, OAK, CPU, GPU",
        ),
        ({"device": "TOASTER"}, "unknown device 'TOASTER'"),
        ({"device": "MYRIAD", "precision": "f16"}, "MYRIAD has only one precision"),
        ({"image_size": 32}, "takes 64 px; leave it out"),
        ({"normalization": Normalization(scale=(1.0, 2.0, 3.0))}, "takes 8-bit pixels"),
    ],
)
def test_refuses_models_that_are_none(trained, changes, message):
    arguments = {
        "name": str(trained),
        "device": None,
        "precision": None,
        "image_size": None,
        "normalization": Normalization(),
        "options": Options(),
    }
    find_model(**arguments)
    with pytest.raises(ValueError, match=message):
        find_model(**{**arguments, **changes})


def test_the_device_of_a_run_s_accuracy_is_that_one_of_several(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    names = ("config", "result")
    config, result = (json.loads((trained / f"{name}.json").read_text()) for name in names)
    config["device"], result["accuracy"]["device"] = "MYRIAD,GPU.1,GPU.0", "GPU"
    for name, document in zip(names, (config, result), strict=True):
        (tmp_path / "run" / f"{name}.json").write_text(json.dumps(document))
    model = find_model(str(tmp_path / "run"), None, None, None, Normalization(), Options())
    assert model.device == "GPU.1"


def test_refuses_a_run_without_files_yet(trained, tmp_path):
    (tmp_path / "config.json").write_text((trained / "config.json").read_text())
    with pytest.raises(ValueError, match="has no result.json: let the run finish"):
        find_model(str(tmp_path), None, None, None, Normalization(), Options())


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        ("evaluate", ["--model={run}/model.onnx"], "--dataset: give one"),
        ("evaluate", ["--model={run}", "--dataset=mnist"], "unknown data set 'mnist'"),
        (
            "evaluate",
            ["--model={run}", "--mean_values=1,2"],
            "--mean_values=1,2: give three numbers",
        ),
        ("predict", ["--model={run}"], "give one picture or more"),
        (
            "predict",
            ["--model={run}", "README.md"],
            "README.md cannot be decoded (it is of no format",
        ),
    ],
)
def test_refuses_bad_input_with_one_line(trained, program, arguments, message):
    done = run_program(f"experiments.{program}", *(a.format(run=trained) for a in arguments))
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert message in last and last.startswith("error: ") and "Traceback" not in done.stderr
    assert not done.stdout


def test_the_training_keeps_the_best_epoch_at_the_deployment_size(trained, result):
    lines = map(json.loads, (trained / "metrics.jsonl").read_text().splitlines())
    epochs = [line for line in lines if line["phase"] == "evaluate"]
    assert [one["image_size"] for one in epochs] == [SMALL_SIZE] * 4 + [SIZE] * 4
    best = max(epochs[4:], key=lambda one: (one["held_out_top1"], one["epoch"]))
    assert result["held_out"]["epoch"] == best["epoch"]
    assert result["held_out"]["top1"] == best["held_out_top1"]


def test_an_architecture_of_a_run_is_found_by_its_folder(trained):
    assert find_architecture(str(trained)).text == TEXT


def test_phases_of_a_training_end_at_the_deployment_size():
    training = Training(
        image_size=224,
        train_image_size=96,
        epochs=7,
        deployment_epochs=2,
        warmup_epochs=0,
        batch_size=8,
        data_workers=0,
        learning_rate=0.02,
        weight_decay=0.0,
        label_smoothing=0.1,
        dropout=0.0,
        ema_decay=0.0,
        precision="f32",
        batch_norm_group=64,
        seed=0,
        checkpoint_seconds=60,
    )
    assert training.phases() == [(96, 5), (224, 2)]
    assert training.recipe(10).steps == 70 and training.recipe(10).last_steps == 20
    whole = dataclasses.replace(training, train_image_size=224)
    assert whole.phases() == [(224, 7)] and whole.recipe(10).last_steps == 0
    last = dataclasses.replace(training, deployment_epochs=7)
    assert last.phases() == [(224, 7)] and last.recipe(10).last_steps == 0


def test_the_network_that_is_trained_keeps_its_weights(small):
    """`fit` leaves the network with what it delivers, in its own variables."""
    kernel = np.asarray(nnx.state(small[0], nnx.Param)["stem"]["kernel"][...])
    fresh = Network(small[0].spec, rng=np.random.default_rng(0))
    assert not np.array_equal(kernel, np.asarray(fresh.stem.kernel[...]))
