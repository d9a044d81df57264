"""A made ImageNet, of the true archives' and features' structure, through every program."""

import io
import json
import pathlib
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxnas import data
from tests.programs import run_program

SYNSETS = tfds.core.tfds_path("datasets/imagenet2012/labels.txt").read_text().split()
VALIDATION = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text().split()
PER_CLASS, TEST, LATER = 2, 128, 300


def picture(label: int, number: int, form: str = "JPEG", mode: str = "RGB") -> bytes:
    """A picture whose color tells its class; sizes differ."""
    rng = np.random.default_rng([label, number])
    height, width = rng.integers(40, 72, 2)
    color = np.array([label % 10, label // 10 % 10, label // 100]) * 25
    pixels = np.clip(color + rng.normal(0, 10, (height, width, 3)), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, format=form)
    return stream.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> pathlib.Path:
    """A folder with the two archives where they are to be put."""
    root = tmp_path_factory.mktemp("tfds")
    manual = root / "downloads" / "manual"
    manual.mkdir(parents=True)
    with tarfile.open(manual / "ILSVRC2012_img_train.tar", "w") as train:
        for label, synset in enumerate(SYNSETS):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as pictures:
                for number in range(PER_CLASS):
                    # As in the true one: a PNG and a CMYK picture among the JPEGs, named as these.
                    odd = {(3, 0): ("PNG", "RGB"), (5, 1): ("JPEG", "CMYK")}
                    form = odd.get((label, number), ("JPEG", "RGB"))
                    add(pictures, f"{synset}_{number}.JPEG", picture(label, number, *form))
            add(train, f"{synset}.tar", inner.getvalue())
    with tarfile.open(manual / "ILSVRC2012_img_val.tar", "w") as validation:
        for number in reversed(range(TEST)):  # the labels go by name, not by place
            label = SYNSETS.index(VALIDATION[LATER + number])
            # In a folder, as in an archive that was made anew, and without the first pictures.
            add(
                validation,
                f"val/ILSVRC2012_val_{LATER + number + 1:08}.JPEG",
                picture(label, number),
            )
    return root


@pytest.fixture(scope="module")
def prepared(data_dir):
    done = run_program("experiments.prepare", "--dataset=imagenet2012", f"--data_dir={data_dir}")
    assert done.returncode == 0, done.stderr
    return data_dir, done


def test_prepare_tells_what_it_made(prepared):
    _, done = prepared
    assert done.stdout == (
        "imagenet2012: 1000 classes, 2000 examples in train, 128 in validation\n"
    )
    assert "2128 of 2128 pictures can be decoded" in done.stderr


@pytest.fixture
def parts(prepared) -> data.Parts:
    return data.load("imagenet2012", prepared[0], seed=0, held_out=1000)


def test_pictures_and_labels_are_those_of_the_archives(prepared, parts):
    info = tfds.builder_from_directory(prepared[0] / "imagenet2012" / "5.1.0").info
    assert info.name == "imagenet2012" and set(info.features) == {"image", "label", "file_name"}
    assert info.splits["train"].num_examples == 2000
    assert sorted(parts.alpha[i]["label"] for i in range(1000)) == list(range(1000))
    for part in parts:
        for index in range(0, len(part), 97):
            example = part[index]
            assert example["image"].format == "JPEG"
            label = example["label"]
            color = np.array([label % 10, label // 10 % 10, label // 100]) * 25
            pixels = np.asarray(example["image"].convert("RGB"), float)
            assert np.abs(pixels.mean((0, 1)) - color).max() < 12


def test_pictures_that_are_no_rgb_jpeg_are_made_so(parts):
    odd = [
        part[i]
        for part in (parts.weights, parts.alpha)
        for i in range(len(part))
        if part[i]["label"] in (3, 5)
    ]
    assert len(odd) == 4
    assert all(one["image"].format == "JPEG" and one["image"].mode == "RGB" for one in odd)


def test_a_prepared_set_is_known_by_its_folder(prepared):
    folder = str(prepared[0] / "imagenet2012" / "5.1.0")
    spec = data.dataset(folder)
    assert (spec.num_classes, spec.train_split, spec.test_split) == (1000, "train", "validation")
    assert spec.held_out == 1000
    assert [len(part) for part in data.load(folder, seed=0)] == [1000, 1000, TEST]
    assert data.make(folder) == folder


def test_a_set_that_nobody_knows_is_refused(tmp_path):
    done = run_program("experiments.prepare", "--dataset=no_such_set", f"--data_dir={tmp_path}")
    assert done.returncode == 2 and "unknown data set 'no_such_set'" in done.stderr


def test_missing_archives_are_named(tmp_path):
    done = run_program("experiments.prepare", "--dataset=imagenet2012", f"--data_dir={tmp_path}")
    assert done.returncode == 2
    for words in (
        "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar",
        "downloads/manual",
        "https://image-net.org/download-images",
    ):
        assert words in done.stderr


def test_it_is_searched_on_and_trained_on(prepared, micro_search, tmp_path):
    dataset = ("--dataset=imagenet2012", f"--data_dir={prepared[0]}", "--held_out=1000")
    search, train = tmp_path / "search", tmp_path / "train"
    done = run_program("experiments.search", *micro_search, *dataset, f"--workdir={search}")
    assert done.returncode == 0, done.stderr
    result = json.loads((search / "result.json").read_text())
    assert result["num_classes"] == 1000 and result["accuracy"]["split"] == "validation"
    assert result["accuracy"]["examples"] == TEST
    done = run_program(
        "experiments.train",
        f"--network={search}",
        *dataset,
        "--epochs=1",
        "--image_size=64",
        f"--workdir={train}",
    )
    assert done.returncode == 0, done.stderr
    trained = json.loads((train / "result.json").read_text())
    assert trained["architecture"] == result["architecture"]
    assert trained["accuracy"]["examples"] == TEST
