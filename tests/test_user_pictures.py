"""Folders of pictures as people have them, through the programs: bad pictures, changed folders."""

import json
import pathlib
import shutil

import pytest

from tests.pictures import draw_folder
from tests.programs import Program, run_program

NETWORK = (
    "--network=k3e3 - k3e3 k3e3 -",
    "--space=proxyless_tiny",
    "--device=CPU",
    "--batch_size=8",
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return draw_folder(tmp_path / "shapes", train=8, test=2)


def test_every_bad_picture_is_named_before_any_work(folder, tmp_path):
    disc = folder / "train" / "disc"
    (disc / "1.jpg").write_bytes((disc / "1.jpg").read_bytes()[:500])
    (disc / "2.jpg").write_bytes(b"")
    workdir = tmp_path / "run"
    done = run_program(
        "experiments.train",
        *NETWORK,
        f"--dataset={folder}",
        "--image_size=32",
        "--epochs=1",
        "--warmup_epochs=0",
        f"--workdir={workdir}",
    )
    assert done.returncode == 2 and not workdir.exists()
    (error,) = (line for line in done.stderr.splitlines() if "error" in line)
    assert error.startswith(f"error: {disc}/1.jpg cannot be decoded (")
    assert f"1 more cannot be decoded: `python -m experiments.prepare --dataset={folder}`" in error
    done = run_program("experiments.prepare", f"--dataset={folder}")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert [line.split()[1] for line in errors] == [f"{disc}/1.jpg", f"{disc}/2.jpg"]
    assert "2 pictures cannot be decoded" in done.stderr


def test_a_picture_that_goes_bad_ends_the_run_which_goes_on_with_the_same_pictures(
    folder, tmp_path
):
    workdir = tmp_path / "run"
    command = (
        "experiments.train",
        *NETWORK,
        f"--dataset={folder}",
        "--image_size=32",
        "--epochs=3000",
        "--warmup_epochs=0",
        f"--workdir={workdir}",
        "--checkpoint_seconds=1",
    )
    process = Program(*command)
    metrics = workdir / "metrics.jsonl"
    process.wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") > 5)
    bad = folder / "train" / "square" / "3.jpg"
    content = bad.read_bytes()
    bad.write_bytes(bytes(len(content)))
    status, stderr = process.wait(100), process.stderr
    assert status == 1 and "Traceback" not in stderr
    error = stderr.strip().splitlines()[-1]
    assert error.startswith(f"error: {bad} cannot be decoded (") and "The run is saved at" in error
    saved = int(error.split("saved at step ")[1].split(":")[0])
    assert str(saved) in [path.name for path in (workdir / "checkpoints" / "train").iterdir()]

    elsewhere = tmp_path / "aside.jpg"
    shutil.move(bad, elsewhere)
    done = run_program(*command)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"error: --workdir={workdir} holds a run on other pictures: files in {folder} were added, "
        f"removed or changed since; name a new folder, or restore the files to resume that run"
    )

    bad.write_bytes(content)
    process = Program(*command)
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    process.wait_until(
        lambda: json.loads(metrics.read_text().rstrip("\n").splitlines()[-1])["step"] > max(steps)
    )
    process.terminate()
    status, stderr = process.wait(100), process.stderr
    assert status == 0 and f"resuming from step {saved} " in stderr
