"""Tests of README.md and docs/: commands and code run as printed, and links resolve."""

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
from jaxnas.space_file import find_space
from tests.pictures import draw_folder
from tests.programs import ROOT, UNOPTIMIZED, run_program

README = (ROOT / "README.md").read_text()
USE = (ROOT / "docs" / "use.md").read_text()
MOST_LINES = 120  # of README, which is one page


def python_block(word: str) -> str:
    """Returns the Python code of docs/use.md that contains a word."""
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", USE, re.DOTALL) if word in b)
    return block


def shell_block(word: str) -> str:
    """Returns the block of indented lines of README that contains a word."""
    (block,) = (
        b for b in re.findall(r"(?:^    .*\n|^\n(?=    ))+", README, re.MULTILINE) if word in b
    )
    return "\n".join(line.removeprefix("    ") for line in block.splitlines()).strip()


@pytest.fixture(scope="module")
def files(micro_searched, tmp_path_factory) -> pathlib.Path:
    """Returns a folder with the files of a search."""
    folder = tmp_path_factory.mktemp("use")
    for name in (ONNX, IR, "model.bin", LABELS, BLOB, ARCHIVE):
        (folder / name).write_bytes((micro_searched / name).read_bytes())
    return folder


# First, since both processes of pytest would otherwise wait for the same search.
def test_own_pictures_and_an_own_space_as_readme_shows(tmp_path):
    """Runs the commands as printed, on drawn shapes, with flags for a shorter schedule added."""
    draw_folder(tmp_path / "flowers", train=20, test=12, shapes=("disc", "square"))
    block = shell_block("cat > camera.json")
    setup, tables, search = re.split(r"\n(?=python )", block)
    setup = setup[setup.index("cat > camera.json") :]
    subprocess.run(["bash", "-c", setup], cwd=tmp_path, check=True)
    assert len(find_space(str(tmp_path / "camera.json")).blocks) == 6
    # One block of each shape is less to compile.
    shown, counts = (tmp_path / "camera.json").read_text(), '"counts": [2, 2, 2]'
    assert counts in shown
    (tmp_path / "camera.json").write_text(shown.replace(counts, '"counts": [1, 1, 1]'))

    def run(command: str, *more: str) -> None:
        arguments = shlex.split(command.replace("\\\n", " "))[2:]
        environment = {"PYTHONPATH": str(ROOT), "XLA_FLAGS": UNOPTIMIZED}
        done = run_program(*arguments, *more, cwd=tmp_path, **environment)
        assert done.returncode == 0, done.stderr

    run(tables, "--held_out_networks=0")
    space = find_space(str(tmp_path / "camera.json"))
    # README's target need not lie within the latencies of the space on this machine.
    middle_ms = np.mean(LatencyTable.load(tmp_path / "camera_cpu.json", space).range_ms)
    run(
        search,
        "--warmup_epochs=1",
        "--search_epochs=2",
        "--train_epochs=1",
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


def test_code_for_a_camera_runs_as_printed(files):
    """The archive is read; opening the camera fails, since there is none."""
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
    depthai.NNArchive(files / ARCHIVE)  # as the code did before it failed


def test_readme_is_one_page():
    assert len(README.splitlines()) <= MOST_LINES


def heading_anchors(page: pathlib.Path) -> set[str]:
    """Returns the anchors of a page's headings, as code hosts form them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize(
    "page",
    [
        path.relative_to(ROOT).as_posix()
        for path in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")))
    ],
)
def test_links_resolve(page):
    for link in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text()):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            assert target.exists(), link
            assert not anchor or anchor in heading_anchors(target), link
