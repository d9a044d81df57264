"""Photographs: read from disk, augmented, and by worker processes."""

import io
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from absl import flags
from PIL import Image

from jaxnas import data
from jaxnas.data.augment import ResizedCrop, ShiftZoom, center_crop
from tests.conftest import assert_same, metrics_of, take
from tests.programs import ROOT, run_program
from tests.test_myriad import wait_until_gone


def photograph(seed: int, width: int, height: int, mode: str = "RGB") -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height)).convert(mode)


def encoded(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def prepare_stand_in(directory, name, form, num_classes, splits):
    """A data set of the given name as TFDS leaves it, with `splits` {name: [(bytes, label)]}."""
    with tfds.core.registered.skip_registration():

        class StandIn(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("3.0.2")

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(
                        {
                            "image": tfds.features.Image(encoding_format=form),
                            "label": tfds.features.ClassLabel(num_classes=num_classes),
                        }
                    ),
                )

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split) for split in splits}

            def _generate_examples(self, split):
                for key, (image, label) in enumerate(splits[split]):
                    yield key, {"image": io.BytesIO(image), "label": label}

        StandIn.name = name
        StandIn(data_dir=directory).download_and_prepare(file_format="array_record")


def test_small_photographs_on_disk(tmp_path):
    def images(count):
        return [(encoded(photograph(i, 32, 32), "png"), i % 10) for i in range(count)]

    prepare_stand_in(tmp_path, "cifar10", "png", 10, {"train": images(60), "test": images(10)})
    parts = data.load("cifar10", tmp_path, seed=0, held_out=20)
    assert [len(part) for part in parts] == [40, 20, 10]
    assert np.bincount([parts.alpha[i]["label"] for i in range(20)]).tolist() == [2] * 10
    assert not set(parts.weights.indices) & set(parts.alpha.indices)
    run = take(3, data.batches(parts.weights, batch_size=16, image_size=20, seed=0))
    (again,) = take(1, data.batches(parts.weights, batch_size=16, image_size=20, seed=0,
                                    start_step=2))  # fmt: skip
    assert_same(again, run[2])
    assert run[0]["image"].shape == (16, 20, 20, 3)
    with pytest.raises(ValueError, match="class . of cifar10/train has only 6 examples"):
        data.load("cifar10", tmp_path, seed=0, held_out=70)


def test_large_photographs_on_disk(tmp_path):
    shapes = [(400, 300, "RGB"), (200, 500, "RGB"), (90, 90, "L"), (640, 480, "CMYK")]
    images = [(encoded(photograph(i, *shape), "jpeg"), 999 - i) for i, shape in enumerate(shapes)]
    prepare_stand_in(
        tmp_path, "imagenet2012", "jpeg", 1000, {"train": images, "validation": images}
    )
    parts = data.load("imagenet2012", tmp_path, seed=0, held_out=0)
    (batch,) = take(1, data.batches(parts.weights, batch_size=8, image_size=32, seed=0))
    assert batch["image"].shape == (8, 32, 32, 3)
    (batch,) = list(data.evaluation_batches(parts.test, batch_size=6, image_size=32))
    assert batch["mask"].tolist() == [1, 1, 1, 1, 0, 0]
    for image, label in zip(batch["image"][:4], batch["label"][:4], strict=True):
        original = photograph(999 - label, *shapes[999 - label]).convert("RGB")
        expected = center_crop(original, 32, 0.875) / 255
        # JPEG, decoded at a fraction of its size, is near the original and not equal to it.
        assert np.abs(image / 255 - expected).mean() < 0.03


def test_missing_split_and_damaged_image(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    image = encoded(Image.fromarray(noise), "jpeg")
    broken = {"train": [(image[: len(image) // 2], 5)]}
    prepare_stand_in(tmp_path / "a", "imagenet2012", "jpeg", 1000, broken)
    with pytest.raises(data.DatasetNotPrepared, match=r"lacks \['validation'\]"):
        data.prepare("imagenet2012", tmp_path / "a")
    broken["validation"] = [(encoded(photograph(0, 64, 64), "jpeg"), 5)]
    prepare_stand_in(tmp_path / "b", "imagenet2012", "jpeg", 1000, broken)
    parts = data.load("imagenet2012", tmp_path / "b", seed=0, held_out=0)
    with pytest.raises(ValueError, match="record 0 of imagenet2012/train cannot be decoded"):
        take(1, data.batches(parts.weights, batch_size=1, image_size=32, seed=0))


# Worker processes


@pytest.fixture(autouse=True)
def parsed_flags():
    flags.FLAGS(["test"])


def photographs(folder: pathlib.Path) -> data.Parts:
    """Photographs of ten classes in a folder."""
    for split, count in (("train", 40), ("test", 10)):
        for number in range(count):
            file = folder / split / f"class{number % 10}" / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(photograph(number, 60 + number, 90 - number), "jpeg"))
    return data.load(str(folder), seed=0)


def test_workers_make_the_same_batches(tmp_path):
    parts, workers = photographs(tmp_path), 2
    for part in (parts.weights, parts.alpha):
        options = {"batch_size": 8, "image_size": 24, "seed": 1, "start_step": 3}
        ours = take(7, data.batches(part, **options, workers=workers))
        for left, right in zip(ours, take(7, data.batches(part, **options)), strict=True):
            assert_same(left, right)
    options = {"batch_size": 4, "image_size": 24}
    ours = list(data.evaluation_batches(parts.test, **options, workers=workers))
    threads = list(data.evaluation_batches(parts.test, **options))
    assert len(ours) == len(threads) == 3
    for left, right in zip(ours, threads, strict=True):
        assert_same(left, right)


def test_what_a_worker_cannot_decode_is_named(tmp_path):
    parts = photographs(tmp_path)
    file = tmp_path / "test" / "class4" / "4.jpg"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"4\.jpg cannot be decoded"):
        list(data.evaluation_batches(parts.test, batch_size=4, image_size=24, workers=2))


def test_too_little_shared_memory_is_said_before(tmp_path):
    with pytest.raises(OSError, match=r"take \d+ MB of shared memory.* give fewer --data_workers"):
        data.batches(
            photographs(tmp_path).weights, batch_size=1 << 20, image_size=224, seed=0, workers=64
        )


TAKING = """
import multiprocessing, sys
from absl import flags
from jaxnas import data

if __name__ == "__main__":
    flags.FLAGS(["taking"])
    parts = data.load(sys.argv[1], seed=0)
    batches = data.batches(parts.weights, batch_size=8, image_size=24, seed=0, workers=2)
    for batch in batches:
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        if sys.stdin.readline() == "":
            break
"""


def shared_pieces() -> set[pathlib.Path]:
    """Pieces of shared memory of Python's, on this machine."""
    return set(pathlib.Path("/dev/shm").glob("psm_*"))


def test_workers_outlive_signals_and_not_the_program(tmp_path):
    photographs(tmp_path / "pictures")
    script = tmp_path / "taking.py"
    script.write_text(TAKING)
    before = shared_pieces()
    program = subprocess.Popen(
        [sys.executable, script, tmp_path / "pictures"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    workers = [int(pid) for pid in program.stdout.readline().split()]
    assert len(workers) == 2
    for step in range(24):
        if step == 4:  # both have made batches, and 20 are more than are ready
            for pid in workers:
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGINT)
        program.stdin.write("another\n")
        program.stdin.flush()
        assert [int(pid) for pid in program.stdout.readline().split()] == workers
    program.kill()
    program.communicate()
    for pid in workers:
        wait_until_gone(pid)
    for _ in range(100):  # what watches over shared memory outlives the program for a moment
        if shared_pieces() <= before:
            return
        time.sleep(0.1)
    pytest.fail(f"{shared_pieces() - before} stay in shared memory")


def test_a_search_with_workers_is_the_same_search(tmp_path, micro_search, micro_searched):
    done = run_program(
        "experiments.search", *micro_search, "--data_workers=1", f"--workdir={tmp_path / 'run'}"
    )
    assert done.returncode == 0, done.stderr
    assert "leaked" not in done.stderr
    assert metrics_of(tmp_path / "run") == metrics_of(micro_searched)
    name = "architecture.json"
    assert (tmp_path / "run" / name).read_bytes() == (micro_searched / name).read_bytes()


# Augmentation


def test_shift_zoom_stays_within_its_bounds():
    bright = Image.new("L", (8, 8), 255)
    rng = np.random.default_rng(0)
    fractions = [
        ShiftZoom(zoom=(0.85, 1.15), shift=0.1)(bright, 64, rng).mean() / 255 for _ in range(200)
    ]
    # A window of 1.15 sides, shifted by 0.1, sees at least (1 + 0.575 - 0.6)² / 1.15² of the image.
    assert 0.7 < min(fractions) < 0.9 and max(fractions) > 0.99
    identity = ShiftZoom(zoom=(1.0, 1.0), shift=0.0)(photograph(1, 8, 8), 32, rng)
    np.testing.assert_array_equal(identity, center_crop(photograph(1, 8, 8), 32, 1.0))


def test_resized_crop_mirrors_half_and_jitters_mildly():
    image = photograph(2, 32, 32)
    rng = np.random.default_rng(0)
    whole = ResizedCrop(area=(1.0, 1.0), aspect=(1.0, 1.0))
    plain = np.asarray(image)
    drawn = [whole(image, 32, rng) for _ in range(100)]
    kept = sum(np.array_equal(one, plain) for one in drawn)
    mirrored = sum(np.array_equal(one, plain[:, ::-1]) for one in drawn)
    assert kept + mirrored == 100 and 30 < mirrored < 70

    gray = Image.new("RGB", (32, 32), (100, 100, 100))
    jittered = ResizedCrop(area=(1.0, 1.0), brightness=32 / 255, saturation=0.5)
    levels = np.array([jittered(gray, 8, rng) for _ in range(200)])
    # Saturation leaves gray alone; brightness is within ±12.5 %.
    assert 87 <= levels.min() < 90 and 110 < levels.max() <= 113
    assert (levels == levels[:, :1, :1, :1]).all()


def test_jitter_is_brightness_and_saturation_written_out():
    image = photograph(3, 16, 16)
    jittered = ResizedCrop(area=(1.0, 1.0), aspect=(1.0, 1.0), brightness=0.2, saturation=0.5)
    for seed in range(20):
        drawn = np.random.default_rng(seed).random(7)
        pixels = np.asarray(image, np.float64) * (1 + 0.2 * (2 * drawn[5] - 1))
        gray = (pixels @ [0.299, 0.587, 0.114])[..., None]
        expected = (gray + (1 + 0.5 * (2 * drawn[6] - 1)) * (pixels - gray)).clip(0, 255)
        got = jittered(image, 16, np.random.default_rng(seed)).astype(float)
        got = got[:, ::-1] if drawn[4] < 0.5 else got
        np.testing.assert_allclose(got, expected, atol=0.51)


def test_resized_crop_takes_the_area_asked_for():
    ramp = Image.fromarray(
        np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3)).copy()
    )
    rng = np.random.default_rng(0)
    crop = ResizedCrop(area=(0.25, 0.25), aspect=(1.0, 1.0))
    spans = [np.ptp(crop(ramp, 128, rng)[..., 0].astype(int)) for _ in range(20)]
    assert all(125 <= span <= 128 for span in spans)
