"""What README shows to be run is run, as printed."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import depthai
import numpy as np
import pytest

from experiments.runs.delivery import ARCHIVE, BLOB, IR, LABELS, ONNX
from jaxnas.latency import LatencyTable
from jaxnas.space import find_space
from tests.pictures import draw_folder
from tests.programs import ROOT, run_program

README = (ROOT / "README.md").read_text()


def python_block(word: str) -> str:
    """The Python of README that has this word."""
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if word in b)
    return block


def shell_block(word: str) -> str:
    """The indented lines of README that belong together and have this word."""
    (block,) = (
        b for b in re.findall(r"(?:^    .*\n|^\n(?=    ))+", README, re.MULTILINE) if word in b
    )
    return "\n".join(line.removeprefix("    ") for line in block.splitlines()).strip()


@pytest.fixture(scope="module")
def files(micro_searched, tmp_path_factory) -> pathlib.Path:
    """A folder with what a search left."""
    folder = tmp_path_factory.mktemp("use")
    for name in (ONNX, IR, "model.bin", LABELS, BLOB, ARCHIVE):
        (folder / name).write_bytes((micro_searched / name).read_bytes())
    return folder


def test_a_camera_is_asked_for_as_readme_shows(files):
    """No camera is here: the archive is read, and opening one is as far as it comes."""
    done = subprocess.run(
        [sys.executable, "-c", python_block("depthai")],
        cwd=files,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "RuntimeError: No available devices"
    assert python_block("depthai").splitlines()[4] == "with depthai.Pipeline() as pipeline:"
    assert "line 5, in <module>" in done.stderr
    depthai.NNArchive(files / ARCHIVE)  # which it had opened before


def test_own_pictures_and_an_own_space_as_readme_shows(tmp_path):
    """The commands as printed, on drawn shapes, with shorter schedules behind them."""
    draw_folder(tmp_path / "flowers", train=40, test=12, shapes=("disc", "square"))
    block = shell_block("cat > camera.json")
    setup, tables, search = re.split(r"\n(?=python )", block)
    setup = setup[setup.index("cat > camera.json") :]
    subprocess.run(["bash", "-c", setup], cwd=tmp_path, check=True)

    def run(command: str, *more: str) -> None:
        arguments = shlex.split(command.replace("\\\n", " "))[2:]
        done = run_program(*arguments, *more, cwd=tmp_path, PYTHONPATH=str(ROOT))
        assert done.returncode == 0, done.stderr

    run(tables, "--held_out_networks=0")
    space = find_space(str(tmp_path / "camera.json"))
    # What README's target is on one machine need not be a latency of the space on another.
    middle_ms = np.mean(LatencyTable.load(tmp_path / "camera_cpu.json", space).range_ms)
    run(
        search,
        "--warmup_epochs=1",
        "--search_epochs=2",
        "--train_epochs=2",
        "--batch_size=16",
        f"--target_ms={middle_ms:.2f}",
        f"--workdir={tmp_path / 'run'}",
    )
    accuracy = json.loads((tmp_path / "run" / "result.json").read_text())["accuracy"]
    assert accuracy["image_size"] == 128 and accuracy["examples"] == 24
    assert accuracy["runtime"].startswith("openvino CPU")
    done = run_program(
        "experiments.evaluate",
        f"--model={tmp_path / 'run'}",
        "--json",
        cwd=tmp_path,
        PYTHONPATH=str(ROOT),
    )
    assert done.returncode == 0, done.stderr
    evaluated = json.loads(done.stdout)
    assert (evaluated["top1"], evaluated["runtime"]) == (accuracy["top1"], accuracy["runtime"])
    assert (tmp_path / "run" / LABELS).read_text() == "disc\nsquare\n"
