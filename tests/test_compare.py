"""The poster's table by the real compiler, and the drawings beside it."""

import json
import os
import pathlib
import sqlite3
import xml.etree.ElementTree

import matplotlib.image
import pytest

from experiments.compare import __main__, page
from experiments.runs import published_figures, summary
from experiments.runs.published_figures import PUBLISHED
from jaxnas.zoo import ZOO
from tests.browser import open_page
from tests.programs import run_program

FOUND = "k5e6 - k3e3 k7e6 -"


def run_folder(
    folder: pathlib.Path, architecture: str, space: str | None, top1: float | None = None
) -> pathlib.Path:
    """A run's folder with the files that a comparison reads, as searches and trainings write."""
    folder.mkdir()
    documents = {
        "config.json": {"schema": 1},
        "architecture.json": {"schema": 1, "architecture": architecture, "space": space},
    }
    if top1 is not None:
        documents["result.json"] = {
            "schema": 1,
            "accuracy": {
                "dataset": "digits",
                "split": "test",
                "top1": top1,
                "image_size": 32,
                "examples": 359,
            },
        }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("compare")
    found = run_folder(folder / "tiny", FOUND, "proxyless_tiny", 0.985)
    trained = run_folder(folder / "trained", "mobilenet_v2", None, 0.99)
    return [
        "experiments.compare",
        "--networks=mobilenet_v2,proxyless_mobile",
        f"--found={found},{trained}",
        "--devices=MYRIADX_COMPILER,NPU",
        f"--output={folder / 'out'}",
    ]


@pytest.fixture(scope="module")
def compared(command, myriad):
    """The folder that a comparison wrote, and what it printed."""
    done = run_program(*command)
    assert done.returncode == 0, done.stderr
    return pathlib.Path(command[-1].partition("=")[2]), done


def test_the_poster_s_networks_have_its_counts_and_latencies(compared):
    document = json.loads((compared[0] / "compare.json").read_text())
    mobilenet, mobile, found = document["networks"]
    assert (mobilenet["parameters"], mobile["parameters"]) == (3_504_872, 4_080_512)
    assert (mobilenet["macs"], mobile["macs"]) == (300_774_272, 320_427_584)
    latencies = [row["latency"]["MYRIADX_COMPILER"] for row in (mobilenet, mobile)]
    assert latencies[0]["ms"] == pytest.approx(19.8, rel=0.05)
    assert latencies[1]["ms"] == pytest.approx(24.1, rel=0.05)
    assert all(
        one["kind"] == "estimated" and one["p10_ms"] < one["ms"] < one["p90_ms"]
        for one in latencies
    )
    assert mobilenet["published"]["ncs2_ms"] == 19.8 and mobile["published"]["ncs2_ms"] == 24.1
    assert found["published"] is None and found["architecture"] == FOUND


def test_shipped_latencies_are_what_the_compiler_says(compared):
    """They are of a comparison, and stand in the summaries of searches."""
    shipped = published_figures.rivals("MYRIADX_COMPILER", {"shaves": None}, 224)
    assert set(shipped["device_ms"]) == set(PUBLISHED) == set(ZOO)
    document = json.loads((compared[0] / "compare.json").read_text())
    for row in document["networks"][:2]:
        ms = row["latency"]["MYRIADX_COMPILER"]["ms"]
        assert shipped["device_ms"][row["architecture"]] == pytest.approx(ms, rel=1e-9)
    # Luxonis measured 11.1 and 19.7 ms on an OAK-D.
    assert shipped["device_ms"]["mobileone_s0"] == pytest.approx(11.1, rel=0.04)
    assert shipped["device_ms"]["resnet_18"] == pytest.approx(19.7, rel=0.03)
    assert published_figures.rivals("MYRIADX_COMPILER", {"shaves": 6}, 224) is None
    assert published_figures.rivals("CPU", {"shaves": None}, 224) is None
    assert published_figures.rivals("MYRIADX_COMPILER", {"shaves": None}, 192) is None


def test_the_front_is_of_networks_that_no_faster_one_equals():
    rivals = published_figures.rivals("MYRIADX_COMPILER", {"shaves": None}, 224)
    assert published_figures.front(rivals["device_ms"]) == [
        "mobileone_s0",
        "repvgg_a0",
        "mobileone_s1",
        "proxyless_mobile_14",
    ]


@pytest.mark.parametrize(
    ("target_ms", "line"),
    [
        (17.2, "best published within 17.20 ms: RepVGG-A0, 13.60 ms with 1000 classes, 72.4% on"),
        (9.0, "no published network takes 9.00 ms or less; MobileOne-S0 takes 10.77 ms with 1000"),
    ],
)
def test_a_summary_names_the_best_published_network(target_ms, line):
    rivals = published_figures.rivals("MYRIADX_COMPILER", {"shaves": None}, 224)
    (said,) = summary.best_published({"target_ms": target_ms, "rivals": rivals})
    assert said.startswith(line)
    assert summary.best_published({"target_ms": target_ms, "rivals": None}) == []


def test_accuracy_stands_with_its_data_set_and_its_run(compared):
    document = json.loads((compared[0] / "compare.json").read_text())
    mobilenet, mobile, found = (row["accuracy"] for row in document["networks"])
    assert mobilenet[0]["top1"] == 0.99 and pathlib.Path(mobilenet[0]["folder"]).name == "trained"
    assert mobile == [] and found[0]["dataset"] == "digits"


def test_markdown_has_a_row_each_and_says_what_the_figures_are(compared):
    lines = (compared[0] / "compare.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == [
        "| network",
        "| MobileNetV2",
        "| ProxylessNAS mobile",
        "| found: tiny",
        "| found, as published",
    ]
    assert "MYRIADX_COMPILER ms, estimated" in rows[0]
    assert rows[1].startswith("| MobileNetV2 | 3,504,872 | 300.8 | ")
    assert rows[1].endswith(" | 99.00 digits | 19.8 | 71.9 |")
    assert rows[4] == "| found, as published | – | – | – | – | 17.2 | 72.8 |"
    text = "\n".join(lines)
    assert "1000 classes each; found networks are rebuilt with that many" in text
    assert "against the published NCS2 figures: MobileNetV2 " in text


def test_a_device_that_is_not_there_is_left_out_and_said_so(compared):
    folder, done = compared
    assert "NPU is left out: " in done.stderr
    assert "NPU is left out: it is unavailable" in " ".join(done.stdout.split())
    document = json.loads((folder / "compare.json").read_text())
    assert list(document["devices"]) == ["MYRIADX_COMPILER"]
    assert "NPU" in document["left_out"]["NPU"]


def test_every_network_is_drawn(compared):
    folder, _ = compared
    text = "".join(xml.etree.ElementTree.parse(folder / "compare.svg").getroot().itertext())
    assert "DejaVu" not in text  # text is drawn as paths, which look alike everywhere
    height, width, _ = matplotlib.image.imread(folder / "compare.png").shape
    assert width > 1800 and 600 < height < 800


def test_a_browser_shows_the_comparison(compared):
    folder, _ = compared
    opened = open_page(folder / "report.html")
    assert opened.console == []
    for name in ("networks", "latencies-MYRIADX_COMPILER"):
        assert opened.dom.count(f'<figure id="figure-{name}"><div class="scroll"><svg') == 1, name
    document = json.loads((folder / "compare.json").read_text())
    for row in document["networks"]:
        assert f'<th scope="row" class="text">{row["title"]}</th>' in opened.dom
        assert f'<td class="figure">{row["latency"]["MYRIADX_COMPILER"]["ms"]:.2f}' in opened.dom
    assert "NPU is left out: it is unavailable" in opened.dom
    before = (folder / "report.html").read_bytes()
    page.write(folder)
    assert (folder / "report.html").read_bytes() == before


def test_what_was_estimated_is_not_estimated_again(compared, command):
    with sqlite3.connect(os.environ["JAXNAS_STORE"]) as store:
        count = "SELECT count(*) FROM measurement"
        before = store.execute(count).fetchone()
        done = run_program(*command)
        assert done.returncode == 0 and done.stdout == compared[1].stdout
        assert store.execute(count).fetchone() == before
    store.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices=CPU,TOASTER"], "unknown device 'TOASTER', allowed are MYRIADX_COMPILER"),
        (["--device=CPU"], "Unknown command line flag 'device'. Did you mean: devices"),
        (["--output=README.md"], "--output=README.md cannot be written"),
        (["--output=/proc"], "--output=/proc cannot be written"),
    ],
)
def test_refuses_bad_input_with_one_line(arguments, message, tmp_path):
    done = run_program("experiments.compare", f"--output={tmp_path / 'out'}", *arguments)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert message in last and last.startswith("error: ") and "Traceback" not in done.stderr
    assert not done.stdout and not (tmp_path / "out").exists()


def test_refuses_what_cannot_be_a_row_or_a_column(tmp_path):
    with pytest.raises(ValueError, match="--devices names CPU twice"):
        __main__.distinct("--devices", ["CPU", " CPU"])
    with pytest.raises(ValueError, match="unknown network 'resnet', allowed are mobilenet_v2"):
        __main__.network_rows(["resnet"], 1000)
    rows = __main__.network_rows(["mobilenet_v2"], 1000)
    with pytest.raises(
        ValueError,
        match="--image_size=100: give a multiple of 32 px, the total stride of MobileNetV2",
    ):
        __main__.check_size(rows, 100)
    with pytest.raises(ValueError, match="nowhere is no folder"):
        __main__.with_found(rows, [tmp_path / "nowhere"], 1000)
    with pytest.raises(ValueError, match="is not the folder of a run"):
        __main__.with_found(rows, [tmp_path], 1000)
    unfit = run_folder(tmp_path / "unfit", "k3e3", "proxyless_tiny")
    with pytest.raises(ValueError, match="is invalid: architecture has 1 tokens"):
        __main__.with_found(rows, [unfit], 1000)
    odd = run_folder(tmp_path / "odd", FOUND, "proxyless_tiny")
    (odd / "result.json").write_text('{"accuracy": 0.9}')
    with pytest.raises(ValueError, match="result.json has no accuracy with dataset"):
        __main__.with_found(rows, [odd], 1000)


def test_fails_where_no_device_is_there(tmp_path):
    done = run_program("experiments.compare", f"--output={tmp_path}", "--devices=NPU")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: none of --devices=NPU is available" in done.stderr and not done.stdout
