"""A folder of pictures as a data set: labels, parts, batches, refusals."""

import collections
import io
import os
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from jaxnas import data
from jaxnas.data.folder import folder_spec, list_split
from jaxnas.data.pictures import open_picture

COLORS = {"cat": (255, 0, 0), "dog": (0, 255, 0), "emu": (0, 0, 255)}


@pytest.fixture
def pictures(tmp_path):
    """Six pictures a class to train on, two to test on; all of a class in its color."""
    for split, count in (("train", 6), ("val", 2)):
        for name, color in COLORS.items():
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (40, 30 + i), color).save(folder / f"{i}.png")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no picture")
    return tmp_path


def test_labels_follow_the_names_of_the_classes(pictures):
    spec = data.dataset(str(pictures))
    assert (spec.num_classes, spec.train_split, spec.test_split) == (3, "train", "val")
    parts = data.load(str(pictures), seed=0)
    assert [len(part) for part in parts] == [15, 3, 6]  # one of each class is held out
    for part in parts:
        assert part.class_names == ("cat", "dog", "emu")
        for i in range(len(part)):
            color = list(COLORS.values())[part[i]["label"]]
            assert part[i]["image"].convert("RGB").getpixel((5, 5)) == color
    assert sorted(parts.alpha[i]["label"] for i in range(3)) == [0, 1, 2]


def test_batches_are_squares_of_pixels(pictures):
    parts = data.load(str(pictures), seed=0)
    (batch,) = data.evaluation_batches(parts.test, batch_size=6, image_size=16)
    assert batch["image"].shape == (6, 16, 16, 3) and batch["label"].tolist() == [0, 0, 1, 1, 2, 2]
    assert batch["image"].dtype == np.uint8
    np.testing.assert_array_equal(batch["image"][0], np.full((16, 16, 3), COLORS["cat"]))
    iterator = data.batches(parts.weights, batch_size=4, image_size=16, seed=0)
    assert next(iterator)["image"].shape == (4, 16, 16, 3)
    iterator.close()


def test_small_pictures_are_decoded_once_and_large_ones_each_time(tmp_path, monkeypatch):
    """Batches of kept pictures are those of pictures decoded anew, also at half their size."""
    rng = np.random.default_rng(0)
    for split, side in (("train", 64), ("test", 65)):
        for name in COLORS:
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    opened: collections.Counter[str] = collections.Counter()

    def counted(content):
        opened[Image.open(io.BytesIO(content)).size] += 1
        return open_picture(content)

    monkeypatch.setattr("jaxnas.data.folder.open_picture", counted)

    def passes():
        parts = data.load(str(tmp_path), seed=0, held_out=0)
        trained = data.batches(parts.weights, batch_size=6, image_size=32, seed=0, threads=0)
        tested = [
            list(data.evaluation_batches(parts.test, batch_size=6, image_size=32)) for _ in range(3)
        ]
        return [next(trained)["image"] for _ in range(3)], [b["image"] for (b,) in tested]

    kept = passes()
    assert opened == {(64, 64): 6, (65, 65): 18}
    monkeypatch.setattr("jaxnas.data.folder._KEPT_PIXELS", 64 * 64 + 5)
    np.testing.assert_array_equal(kept, passes())
    assert opened == {(64, 64): 6 + 1 + 5 * 3, (65, 65): 36}


def test_listing_is_linear_in_pictures_and_classes(tmp_path, monkeypatch):
    """Every folder of a class is read once, no picture is opened, and calls grow with the files."""
    scanned: collections.Counter[str] = collections.Counter()
    scandir = os.scandir

    def counted(folder):
        scanned[os.fspath(folder)] += 1
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", counted)
    calls = []
    for classes in (40, 80):
        root = tmp_path / str(classes)
        for split in ("train", "test"):
            for name in range(classes):
                folder = root / split / f"{name:03d}"
                folder.mkdir(parents=True)
                for i in range(3):
                    (folder / f"{i}.jpg").touch()
        count = 0

        def count_call(frame, event, argument):
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(count_call)
        try:
            spec = folder_spec(str(root))
        finally:
            sys.setprofile(None)
        assert (spec.num_classes, len(list_split(str(root), "train").pictures)) == (
            classes,
            3 * classes,
        )
        of_classes = {f: n for f, n in scanned.items() if f.startswith(f"{root}/t") and "0" in f}
        assert len(of_classes) == 2 * classes and set(of_classes.values()) == {1}
        calls.append(count)
    assert calls[1] < 2.2 * calls[0]


def test_refuses_folders_that_are_laid_out_otherwise(pictures):
    name = str(pictures)

    def refused(message):
        folder_spec.cache_clear()
        list_split.cache_clear()
        with pytest.raises(ValueError, match=message):
            data.dataset(name)

    (pictures / "val" / "fox").mkdir()
    refused("val/fox is of a class that .*train does not have")
    (pictures / "val" / "fox").rmdir()
    for i in range(1, 6):
        (pictures / "train" / "dog" / f"{i}.png").unlink()
    refused("train/dog has 1 pictures that Pillow reads; each class needs two or more")
    (pictures / "val").rename(pictures / "later")
    refused("has no folder test or validation or val beside train")


@pytest.mark.parametrize("name", [b"fen\xeatre", b"two\nlines", "a\u2028b".encode()])
def test_refuses_a_class_whose_name_is_no_line_of_text(pictures, name):
    """labels.txt has the names in UTF-8, one on a line."""
    (pictures / "train" / "dog").rename(pictures / "train" / os.fsdecode(name))
    (pictures / "val" / "dog").rename(pictures / "val" / os.fsdecode(name))
    with pytest.raises(ValueError, match="whose name is more than a line or not in UTF-8") as told:
        data.dataset(str(pictures))
    assert str(told.value).isascii()


def test_class_names_of_any_script_are_taken(pictures):
    (pictures / "train" / "dog").rename(pictures / "train" / "собака\u200d 犬")
    (pictures / "val" / "dog").rename(pictures / "val" / "собака\u200d 犬")
    assert data.load(str(pictures), seed=0).test.class_names[-1] == "собака\u200d 犬"


def test_files_are_taken_where_pillow_reads_them_and_counted_elsewhere(pictures, caplog):
    cat = pictures / "train" / "cat"
    for name in ("a.tif", "b.jfif", "c.JPG", "deeper/still/d.gif"):
        (cat / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(cat / name, "JPEG" if name[0] in "bc" else None)
    for name in ("._a.jpg", ".ipynb_checkpoints/e.png", "e.heic", "Makefile"):
        (cat / name).parent.mkdir(exist_ok=True)
        (cat / name).write_bytes(b"-")
    (pictures / "train" / ".hidden").mkdir()
    (pictures / "train" / "__MACOSX").mkdir()
    parts = data.load(str(pictures), seed=0, held_out=0)
    assert parts.weights.class_names == ("cat", "dog", "emu")
    found = [
        pathlib.Path(path).name
        for path, label in list_split(str(pictures), "train").pictures
        if label == 0
    ]
    assert found == [
        "0.png",
        "1.png",
        "2.png",
        "3.png",
        "4.png",
        "5.png",
        "a.tif",
        "b.jfif",
        "c.JPG",
        "d.gif",
    ]
    assert (
        f"{pictures}/train: 5 files are ignored, as they are not pictures: 1 .heic, 1 .txt, "
        f"2 hidden, 1 without a suffix"
    ) in caplog.text
    (cat / "x.jpg").mkdir()
    list_split.cache_clear()
    with pytest.raises(ValueError, match="cat/x.jpg is a folder with a picture's name; rename"):
        list_split(str(pictures), "train")


def test_a_link_that_leads_into_itself_is_refused(pictures):
    (pictures / "train" / "cat" / "again").symlink_to(pictures / "train", target_is_directory=True)
    with pytest.raises(ValueError, match="cat/again is a link to a folder that contains it"):
        list_split(str(pictures), "train")


def test_the_fingerprint_is_of_names_and_sizes(pictures):
    def now():
        folder_spec.cache_clear()
        list_split.cache_clear()
        return data.fingerprint(str(pictures))

    first, file = now(), pictures / "val" / "dog" / "1.png"
    content = file.read_bytes()
    assert now() == first
    file.write_bytes(content + b" ")
    longer = now()
    file.unlink()
    without = now()
    file.with_name("2.png").write_bytes(content)
    renamed = now()
    assert len({first, longer, without, renamed}) == 4
    file.with_name("2.png").rename(file)
    assert now() == first
    file.with_name("3.png").symlink_to(pictures / "nowhere.png")
    with pytest.raises(data.UnreadablePicture, match="dog/3.png cannot be decoded .No such file"):
        now()


def test_unknown_names_say_how_a_folder_looks():
    with pytest.raises(
        ValueError,
        match=r"'nowhere'; known are .*, folders of pictures with "
        r"train/CLASS/\*.jpg and test/CLASS/\*.jpg",
    ):
        data.dataset("nowhere")
