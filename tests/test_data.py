"""Data: disjoint balanced parts, batches that depend on the step alone, clear refusals."""

import io
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxnas import data
from jaxnas.data import digits_hard
from jaxnas.data.augment import center_crop
from jaxnas.data.digits import Digits
from tests.conftest import assert_same, take

ROOT = str(pathlib.Path(__file__).parents[1])


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    data.prepare("digits", directory)
    return directory


@pytest.fixture(scope="module")
def parts(data_dir):
    return data.load("digits", data_dir, seed=0)


def labels(part):
    return np.array([part[index]["label"] for index in range(len(part))])


# The builder and its preparation


def test_digits_builder(data_dir):
    info = tfds.builder_from_directory(data.prepare("digits", data_dir)).info
    assert {name: split.num_examples for name, split in info.splits.items()} == {
        "train": 1438,
        "test": 359,
    }
    assert info.file_format.value == "array_record"
    assert info.features["image"].shape == (8, 8, 1)
    assert info.features["label"].num_classes == 10
    assert "Alpaydin" in info.citation and "handwritten" in info.description


def test_digits_are_scikit_learns_own_each_once(parts):
    from sklearn.datasets import load_digits

    expected = load_digits()
    records = [part[index] for part in parts for index in range(len(part))]
    found = {(np.asarray(one["image"]).tobytes(), one["label"]) for one in records}
    pixels = np.round(expected.images * 255 / 16).astype(np.uint8)
    assert len(records) == 1797
    assert found == {
        (image.tobytes(), int(label)) for image, label in zip(pixels, expected.target, strict=True)
    }
    assert np.bincount(labels(parts.test)).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]


def test_hard_digits_are_the_digits_each_drawn_otherwise(tmp_path):
    parts = data.load("digits_hard", tmp_path, seed=0)
    assert [len(part) for part in parts] == [1138, 300, 3590]
    assert np.bincount(labels(parts.test)).tolist() == [
        360, 360, 350, 370, 360, 360, 360, 360, 350, 360]  # fmt: skip
    pixels = np.stack(
        [np.asarray(part[i]["image"]) for part in parts[:2] for i in range(len(part))]
    )
    assert pixels.shape == (1438, 64, 64)
    assert pixels.mean() / 255 == pytest.approx(0.3240, abs=5e-5)
    assert pixels.std() / 255 == pytest.approx(0.2569, abs=5e-5)
    drawings = [np.asarray(parts.test[i]["image"], np.float64) for i in range(10)]
    assert all((a != b).mean() > 0.9 for a, b in zip(drawings, drawings[1:], strict=False))
    # Ink is brighter than its ground: where the plain digit has most, the mean of many has too.
    zeros = np.mean(
        [
            np.asarray(parts.test[i]["image"], np.float64)
            for i in np.flatnonzero(labels(parts.test) == 0)
        ],
        0,
    )
    assert zeros[28:36, 28:36].mean() < zeros[16:48, 16:48].mean()
    again = digits_hard.draw(np.full((8, 8), 255, np.uint8), np.random.default_rng([3, 1]))
    np.testing.assert_array_equal(
        again, digits_hard.draw(np.full((8, 8), 255, np.uint8), np.random.default_rng([3, 1]))
    )


def test_two_processes_may_prepare_at_once(tmp_path):
    code = "import sys; from jaxnas import data; print(data.prepare('digits', sys.argv[1]))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": ROOT},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        # Standard output belongs to the program; TFDS's progress is not on it.
        assert output.strip() == str(tmp_path / "digits" / "1.0.0")
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_losing_the_race_to_prepare_is_no_failure(tmp_path, monkeypatch):
    prepare = Digits.download_and_prepare

    def second(self, **options):
        prepare(Digits(data_dir=tmp_path), **options)
        raise OSError("Directory not empty")

    monkeypatch.setattr(Digits, "download_and_prepare", second)
    assert data.prepare("digits", tmp_path) == tmp_path / "digits" / "1.0.0"


def test_failure_to_prepare_is_not_hidden(tmp_path):
    (tmp_path / "digits").write_text("a file where a folder belongs")
    with pytest.raises(data.DatasetNotPrepared, match="Not a directory.*name a folder that can be"):
        data.prepare("digits", tmp_path)


def test_default_folder_is_that_of_tfds(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(data.DatasetNotPrepared, match=f"not prepared in {tmp_path}"):
        data.prepare("cifar10")


def test_unknown_data_set():
    with pytest.raises(ValueError, match="'mnist'; known are cifar10, digits, digits_hard, "):
        data.load("mnist", seed=0)


@pytest.mark.parametrize("name", ["imagenet2012", "cifar10"])
def test_what_is_not_prepared_is_refused_at_once_with_the_way_to_do_it(name, tmp_path, monkeypatch):
    def no_network(*_):
        raise AssertionError("the network was tried")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    start = time.monotonic()
    with pytest.raises(data.DatasetNotPrepared) as caught:
        data.load(name, tmp_path, seed=0)
    assert time.monotonic() - start < 2
    assert not list(tmp_path.iterdir())
    message = str(caught.value)
    command = f"python -m experiments.prepare --dataset={name} --data_dir={tmp_path}"
    assert f"'{name}' is not prepared in {tmp_path}" in message and command in message
    if name == "imagenet2012":
        assert f"{tmp_path}/downloads/manual" in message
        assert "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar" in message


def test_another_file_format_is_refused(data_dir, tmp_path):
    prepared = tmp_path / "digits" / "1.0.0"
    prepared.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json"):
        text = (data_dir / "digits" / "1.0.0" / name).read_text()
        (prepared / name).write_text(text.replace("array_record", "tfrecord"))
    with pytest.raises(data.DatasetNotPrepared, match="file format tfrecord.*convert_format"):
        data.prepare("digits", tmp_path)


class Contest(tfds.core.GeneratorBasedBuilder):
    """Pictures of `classes` classes, whose labels of the split `test` are secret, as -1 says."""

    VERSION = tfds.core.Version("1.0.0")
    MODULE_PATH = pathlib.Path(__file__)
    classes, splits = 2, ("train", "test", "validation")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(8, 8, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=self.classes),
        }
        return tfds.core.DatasetInfo(
            builder=self, description="", features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.splits}

    def _generate_examples(self, split):
        stream = io.BytesIO()
        Image.new("RGB", (8, 8)).save(stream, "PNG")
        for number in range(20):
            label = -1 if split == "test" else number % self.classes
            yield number, {"image": io.BytesIO(stream.getvalue()), "label": label}


@pytest.fixture
def prepared_contest(tmp_path, monkeypatch):
    def prepared(**attributes) -> str:
        for name, value in attributes.items():
            monkeypatch.setattr(Contest, name, value)
        builder = Contest(data_dir=tmp_path / str(len([*tmp_path.iterdir()])))
        builder.download_and_prepare(file_format="array_record")
        return str(builder.data_dir)

    return prepared


def test_a_split_without_labels_is_no_test(prepared_contest):
    name = prepared_contest()
    assert data.dataset(name).test_split == "validation"
    assert [len(part) for part in data.load(name, seed=0)] == [18, 2, 20]
    with pytest.raises(ValueError, match="splits train, test, of which test without labels"):
        data.dataset(prepared_contest(splits=("train", "test")))


def test_one_class_is_too_few(prepared_contest):
    with pytest.raises(ValueError, match="has 1 class; two or more are needed"):
        data.dataset(prepared_contest(classes=1))


def test_a_known_name_is_no_folder(data_dir, tmp_path, monkeypatch):
    for split in ("train", "val"):
        for one in "ab":
            (tmp_path / "digits" / split / one).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "digits" / split / one / "0.png")
            Image.new("RGB", (8, 8)).save(tmp_path / "digits" / split / one / "1.png")
    monkeypatch.chdir(tmp_path)
    assert len(data.load("digits", data_dir, seed=0).weights) == 1138
    assert len(data.load("./digits", seed=0).weights) == 2


# Parts


def test_parts_are_disjoint_balanced_and_complete(parts):
    assert [len(part) for part in parts] == [1138, 300, 359]
    weights, alpha = set(parts.weights.indices), set(parts.alpha.indices)
    assert not weights & alpha
    assert weights | alpha == set(range(1438))
    assert np.bincount(labels(parts.alpha)).tolist() == [30] * 10
    assert parts.test.indices.tolist() == list(range(359))


def test_every_part_names_its_classes(parts):
    assert [part.class_names for part in parts] == [tuple("0123456789")] * 3


def test_the_seed_fixes_what_is_held_out(parts, data_dir):
    same = data.load("digits", data_dir, seed=0)
    other = data.load("digits", data_dir, seed=1)
    np.testing.assert_array_equal(same.alpha.indices, parts.alpha.indices)
    assert set(other.alpha.indices) != set(parts.alpha.indices)


def test_held_out_count(parts, data_dir):
    assert [len(part) for part in data.load("digits", data_dir, seed=0, held_out=50)] == [
        1388,
        50,
        359,
    ]
    nothing = data.load("digits", data_dir, seed=0, held_out=0)
    assert [len(part) for part in nothing] == [1438, 0, 359]
    with pytest.raises(ValueError, match="'alpha' of digits is empty; .* held_out"):
        data.batches(nothing.alpha, batch_size=4, image_size=8, seed=0)
    with pytest.raises(ValueError, match="held_out is 55; .* multiple of the 10 classes"):
        data.load("digits", data_dir, seed=0, held_out=55)
    with pytest.raises(ValueError, match="has only 1.. examples; .* ask for 150 of each"):
        data.load("digits", data_dir, seed=0, held_out=1500)
    most = min(np.bincount([parts.weights[i]["label"] for i in range(len(parts.weights))]))
    most = int(most) + 30 - 1  # of the smallest class, 30 are held out, and one remains
    left = data.load("digits", data_dir, seed=0, held_out=10 * most)
    labels_left = [left.weights[i]["label"] for i in range(len(left.weights))]
    assert min(np.bincount(labels_left, minlength=10)) == 1
    with pytest.raises(ValueError, match="and one must remain to train on; ask for fewer"):
        data.load("digits", data_dir, seed=0, held_out=10 * (most + 1))


def test_training_examples_are_balanced_nested_and_not_held_out(parts, data_dir):
    """More examples contain the fewer; what is held out does not depend on them."""

    def indices(examples: int, seed: int = 0) -> set[int]:
        some = data.load("digits", data_dir, seed=seed, train_examples=examples)
        np.testing.assert_array_equal(some.alpha.indices, data.load(*same, seed=seed).alpha.indices)
        labels = [some.weights[i]["label"] for i in range(examples)]
        assert np.bincount(labels).tolist() == [examples // 10] * 10
        return set(some.weights.indices)

    same = ("digits", data_dir)
    few, more = indices(30), indices(500)
    assert few < more < set(parts.weights.indices) and few != indices(30, seed=1)
    with pytest.raises(ValueError, match="train_examples is 35; .* multiple of the 10 classes"):
        data.load("digits", data_dir, seed=0, train_examples=35)
    with pytest.raises(ValueError, match="has only 1.. examples; .* ask for 180 of each"):
        data.load("digits", data_dir, seed=0, train_examples=1500)


# Batches


@pytest.mark.parametrize("name", ["weights", "alpha"])
def test_batches_have_the_promised_form(parts, name):
    (batch,) = take(1, data.batches(getattr(parts, name), batch_size=16, image_size=24, seed=0))
    assert set(batch) == {"image", "label"}
    assert batch["image"].shape == (16, 24, 24, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (16,) and batch["label"].dtype == np.int32
    assert batch["label"].min() >= 0 and batch["label"].max() <= 9
    assert batch["image"].min() == 0 and batch["image"].max() > 200
    np.testing.assert_array_equal(batch["image"][..., 0], batch["image"][..., 2])


@pytest.mark.parametrize("name", ["weights", "alpha"])
@pytest.mark.parametrize("threads", [0, 2])
def test_a_batch_depends_on_the_step_alone(parts, name, threads):
    part = getattr(parts, name)
    options = {"batch_size": 100, "image_size": 16, "seed": 7}
    # 20 steps are more than one pass over either part.
    run = take(20, data.batches(part, threads=threads, **options))
    for step in (1, 13, 19):
        (resumed,) = take(1, data.batches(part, start_step=step, **options))
        assert_same(resumed, run[step])
    assert not np.array_equal(run[0]["label"], run[1]["label"])


def test_seeds_and_parts_have_their_own_batches(parts):
    def first(part, seed):
        return take(1, data.batches(part, batch_size=64, image_size=8, seed=seed))[0]["label"]

    drawn = [first(part, seed) for part in parts[:2] for seed in (0, 1)]
    assert len({batch.tobytes() for batch in drawn}) == 4


def test_a_pass_has_every_example_once_and_the_next_another_order(parts):
    drawn = take(6, data.batches(parts.alpha, batch_size=100, image_size=8, seed=0))
    images = [one.tobytes() for batch in drawn for one in batch["image"]]
    assert len(set(images[:300])) == 300
    assert set(images[:300]) == set(images[300:]) and images[:300] != images[300:]


def test_only_the_weights_part_is_augmented(parts):
    def centerd(part):
        crops = [center_crop(part[index]["image"], 16, 1.0) for index in range(len(part))]
        return {crop.tobytes() for crop in crops}

    def seen(part):
        (batch,) = take(1, data.batches(part, batch_size=64, image_size=16, seed=0))
        return {one.tobytes() for one in batch["image"]}

    assert seen(parts.alpha) <= centerd(parts.alpha)
    assert not seen(parts.weights) & centerd(parts.weights)


def test_shards_make_up_the_same_batch(parts):
    options = {"batch_size": 12, "image_size": 8, "seed": 3, "start_step": 90}
    (whole,) = take(1, data.batches(parts.weights, **options))
    shards = [
        take(1, data.batches(parts.weights, shard_index=index, shard_count=3, **options))[0]
        for index in range(3)
    ]
    for index, shard in enumerate(shards):
        assert_same(shard, {name: values[index::3] for name, values in whole.items()})


def test_evaluation_has_every_example_once_in_order(parts):
    batches = list(data.evaluation_batches(parts.test, batch_size=64, image_size=8))
    assert [batch["image"].shape for batch in batches] == [(64, 8, 8, 3)] * 6
    mask = np.concatenate([batch["mask"] for batch in batches])
    assert mask.dtype == np.float32 and mask.tolist() == [1.0] * 359 + [0.0] * 25
    image = np.concatenate([batch["image"] for batch in batches])[:359]
    expected = np.stack([np.asarray(parts.test[index]["image"]) for index in range(359)])
    np.testing.assert_array_equal(image[..., 0], expected.reshape(359, 8, 8))
    label = np.concatenate([batch["label"] for batch in batches])[:359]
    np.testing.assert_array_equal(label, labels(parts.test))


def test_evaluation_shards_cover_the_part(parts):
    shards = [
        list(
            data.evaluation_batches(
                parts.test, batch_size=50, image_size=8, shard_index=index, shard_count=2
            )
        )
        for index in range(2)
    ]
    assert [len(shard) for shard in shards] == [8, 8]
    assert sum(batch["mask"].sum() for shard in shards for batch in shard) == 359


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"image_size": 0}, "image_size 0"),
        ({"start_step": -1}, "start_step is -1"),
        ({"shard_count": 3}, "batch_size 4 does not divide among 3 shards"),
        ({"shard_index": 2, "shard_count": 2}, "shard_index is 2 of shard_count 2"),
    ],
)
def test_arguments_out_of_range(parts, options, message):
    with pytest.raises(ValueError, match=message):
        data.batches(parts.weights, **{"batch_size": 4, "image_size": 8, "seed": 0, **options})
