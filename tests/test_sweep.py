"""Sweeps: their runs, stopped and gone on with, and what they put together."""

import json
import pathlib
import re
import shutil
import signal
import urllib.parse

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments.runs.run_folder import lock_folder
from experiments.sweep import page, report
from experiments.sweep.__main__ import program_of
from experiments.sweep.plan import plan
from experiments.sweep.state import Sweep
from tests.browser import open_page
from tests.conftest import NO_RESTART
from tests.programs import Program, run_program


@pytest.fixture(scope="module")
def arguments(micro_search) -> list[str]:
    return [
        "experiments.sweep",
        *micro_search,
        "--sweep=target_ms=1.72,1.81",
        "--seeds=2",
    ]


def state_of(folder: pathlib.Path) -> dict[str, dict]:
    document = json.loads((folder / "sweep.json").read_text())
    return {run["name"]: run for run in document["runs"]}


@pytest.fixture(scope="module")
def swept(tmp_path_factory, arguments, micro_searched):
    """A sweep of four runs that was stopped half-way; what it was then, and at its end.

    One of them is there from the start.
    """
    folder = tmp_path_factory.mktemp("sweep") / "out"
    shutil.copytree(micro_searched, folder / "target_ms=1.81,seed=0")
    command = [*arguments, f"--output={folder}"]
    process = Program(*command, environment=NO_RESTART)
    process.wait_until(
        lambda: (
            (folder / "sweep.json").exists()
            and sum(run["status"] == "done" for run in state_of(folder).values()) >= 2
        )
    )
    process.send_signal(signal.SIGINT)
    assert process.wait(100) == 1
    said = process.stderr
    assert "run the same command again to resume" in said
    half = state_of(folder)
    times = {
        name: pathlib.Path(run["workdir"], "result.json").stat().st_mtime_ns
        for name, run in half.items()
        if run["status"] == "done"
    }
    done = run_program(*command, timeout_s=600, **NO_RESTART)
    assert done.returncode == 0, done.stderr
    return folder, half, times, done


def test_a_stopped_sweep_goes_on_and_runs_nothing_twice(swept):
    folder, half, times, _ = swept
    assert {run["status"] for run in half.values()} == {"done", "waiting"} and len(times) >= 2
    runs = state_of(folder)
    assert list(runs) == [
        f"target_ms={target},seed={seed}" for target in ("1.72", "1.81") for seed in (0, 1)
    ]
    assert all(run["status"] == "done" for run in runs.values())
    for name, run in runs.items():
        workdir = pathlib.Path(run["workdir"])
        assert workdir == folder / name
        config = json.loads((workdir / "config.json").read_text())
        assert {key: str(config[key]) for key in run["flags"]} == run["flags"]
        assert run["result"] == json.loads((workdir / "result.json").read_text())
        if name in times:
            assert (workdir / "result.json").stat().st_mtime_ns == times[name]


def test_a_sweep_ends_with_tables_and_a_figure(swept):
    folder, _, _, done = swept
    page = (folder / "sweep.md").read_text()
    assert "4 done, 0 failed, 0 running, 0 waiting." in page
    rows = [line for line in page.splitlines() if line.startswith("| 1.")]
    assert len(rows) == 4 + 2, "four runs, and two settings over seeds"
    assert rows[-1].startswith("| 1.81 | 2 | 1.") and rows[-1].count("±") == 2
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    for file in ("sweep.json", "sweep.md", "sweep.svg", "sweep.png"):
        assert file in done.stdout


def test_a_browser_shows_the_sweep_with_links_to_its_runs(swept):
    folder, _, _, done = swept
    opened = open_page(folder / "report.html")
    assert opened.console == [] and "report.html" in done.stdout
    assert opened.dom.count('<figure id="figure-sweep"><div class="scroll"><svg') == 1
    links = [urllib.parse.unquote(link) for link in re.findall(r'href="([^"#d][^"]*)"', opened.dom)]
    assert links == [f"{name}/report.html" for name in state_of(folder)]
    assert all((folder / link).exists() for link in links)
    assert len(re.findall(r"<td[^>]*>[^<]*±", opened.dom)) == 4  # two of each setting
    before = (folder / "report.html").read_bytes()
    page.write(folder)
    assert (folder / "report.html").read_bytes() == before


def test_every_combination_is_a_run(search_flags, tmp_path):
    with flagsaver.flagsaver():
        flags.FLAGS(["sweep", "--flagfile=vpu.flags"])
        swept = {"latency_weight": ["0.05", "0.2"], "target_ms": ["14", "17.2"]}
        runs = plan("search", swept, 2, False, tmp_path)
        pairs = plan("search", swept, 1, True, tmp_path)
    assert [run.name for run in runs] == [
        f"latency_weight={weight},target_ms={target},seed={seed}"
        for weight in ("0.05", "0.2")
        for target in ("14", "17.2")
        for seed in (0, 1)
    ]
    assert [(run.config.latency_weight, run.config.target_ms) for run in pairs] == [
        (0.05, 14.0),
        (0.2, 17.2),
    ]


def test_what_failed_is_shown_and_retried_when_asked(arguments, micro_searched, tmp_path):
    shutil.copytree(micro_searched, tmp_path / "target_ms=1.81")
    sweep = [*arguments[:-2], "--sweep=target_ms=1.81,99", f"--output={tmp_path}"]
    failed = run_program(*sweep, **NO_RESTART)
    assert failed.returncode == 1
    run = state_of(tmp_path)["target_ms=99"]
    assert run["status"] == "failed" and "give a target between them" in run["error"]
    assert "give a target between them" in (tmp_path / "sweep.md").read_text()
    before = run["job"]
    assert run_program(*sweep, **NO_RESTART).returncode == 1
    assert state_of(tmp_path)["target_ms=99"]["job"] == before, "it was left alone"
    assert run_program(*sweep, "--retry", **NO_RESTART).returncode == 1
    assert state_of(tmp_path)["target_ms=99"]["job"] != before


def test_a_missed_target_fails_a_sweep_where_it_is_required(arguments, micro_searched, tmp_path):
    run = tmp_path / "target_ms=1.81"
    shutil.copytree(micro_searched, run)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "target_met": False}))
    sweep = [*arguments[:-2], "--sweep=target_ms=1.81", f"--output={tmp_path}"]
    assert run_program(*sweep).returncode == 0
    missed = run_program(*sweep, "--require_target")
    assert missed.returncode == 1 and "target_ms=1.81 missed the target" in missed.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "nothing is swept"),
        (["--sweep=lambda=1,2"], "experiments.search has no such flag to sweep"),
        (["--sweep=workdir=a,b"], "experiments.search has no such flag to sweep"),
        (["--sweep=target_ms"], "give a flag and its values"),
        (["--sweep=target_ms=14,14"], "each value given once"),
        (["--sweep=target_ms=14,x"], "x"),
        (["--sweep=target_ms=14,-3"], "--target_ms=-3.0: give a positive latency"),
        (["--sweep=seed=1,2", "--seeds=2"], "give one of them"),
        (
            ["--zip", "--sweep=target_ms=14,15", "--sweep=latency_weight=1"],
            "--zip: flags have 2 values of target_ms, 1 values of latency_weight",
        ),
        (["--seeds=2", "--slurm=gpus"], "--slurm=gpus: give a parameter"),
        (["--seeds=2", "--launcher=slurm"], "--launcher=slurm:"),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_runs(flags, message, tmp_path):
    done = run_program(
        "experiments.sweep", "--flagfile=vpu.flags", *flags, f"--output={tmp_path / 'out'}"
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and done.stderr.startswith("error: ")
    assert not list(tmp_path.glob("out/*=*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--program=train"],
        ["--program", "train"],
        ["--dataset", "digits", "-program", "train"],
        ["--flagfile=FILE"],
        ["--program=train", "--no_such_flag"],
    ],
)
def test_the_flags_are_those_of_the_program_named_in_any_form(arguments, tmp_path):
    (tmp_path / "program.flags").write_text("--program=train\n")
    given = [text.replace("FILE", str(tmp_path / "program.flags")) for text in arguments]
    assert program_of(["sweep", *given]) == "train"


@pytest.mark.parametrize("arguments", [[], ["--program=other"], ["--program"], ["--flagfile=no"]])
def test_without_a_program_they_are_those_of_a_search(arguments):
    assert program_of(["sweep", *arguments]) == "search"


def run_of(setting: str, seed: int, device_ms: float | None, **changes) -> dict:
    """A run of sweep.json that is done."""
    result = {
        "device_ms": device_ms,
        "device": "CPU",
        "kind": "measured",
        "image_size": 224,
        "target_met": True,
        "accuracy": {"top1": 0.9, "examples": 359, "split": "test", "dataset": "digits"},
    }
    return {
        "name": f"{setting}{seed}",
        "status": "done",
        "flags": {"setting": setting, "seed": str(seed)},
        "result": {**result, **changes},
        "error": None,
    }


def test_a_mean_is_of_what_its_heading_says():
    runs = [run_of("a", 0, 2.0), run_of("a", 1, 4.0)]
    assert report.row_over_seeds(runs) == ("a", "2", "3.00 ± 1.41", "90.00 ± 0.00")
    # Estimates of the table are no latencies of the device, nor is nothing.
    runs[1] = run_of("a", 1, None, predicted_ms=4.0)
    assert report.row_over_seeds(runs) == ("a", "2", "", "90.00 ± 0.00")
    assert len(report.with_latency(runs)) == 2


def test_runs_without_any_latency_have_a_table_and_no_figure(tmp_path):
    runs = [run_of("a", seed, None, kind=None) for seed in (0, 1)]
    document = {"program": "train", "runs": runs}
    assert report.write(document, tmp_path) == ["sweep.md"]
    assert "sweep.svg" not in (tmp_path / "sweep.md").read_text()


def test_axes_name_what_all_runs_have_in_common():
    def labels(*runs) -> tuple[str, str, int]:
        (axes,) = report.figure(runs).axes
        return axes.get_xlabel(), axes.get_ylabel(), len(axes.lines)

    one, other = run_of("a", 0, 2.0), run_of("b", 0, 3.0)
    test = "top-1, % (359 examples, test of digits)"
    assert labels(one, other) == ("latency at 224 px, batch 1, ms (CPU, measured)", test, 1)
    smaller = run_of("b", 0, 3.0, image_size=160)
    assert labels(one, smaller) == ("latency, batch 1, ms (CPU, measured)", test, 1)
    on_gpu = run_of("b", 0, 3.0, device="GPU")
    assert labels(one, on_gpu) == ("latency at 224 px, batch 1, ms (CPU and GPU)", test, 0)
    predicted = run_of("b", 0, None, device="GPU", kind=None, predicted_ms=3.0)
    assert labels(one, predicted)[2] == 0
    flowers = run_of("b", 0, 3.0, accuracy={**other["result"]["accuracy"], "dataset": "flowers"})
    assert labels(one, flowers)[1:] == ("top-1, %", 0)


def test_a_run_that_an_earlier_start_left_at_work_counts_as_one_of_those_at_once(
    search_flags, tmp_path
):
    with flagsaver.flagsaver():
        flags.FLAGS(["sweep", "--flagfile=vpu.flags"])
        runs = plan("search", {}, 3, True, tmp_path)  # --zip of nothing but seeds
    assert [run.values for run in runs] == [{"seed": "0"}, {"seed": "1"}, {"seed": "2"}]
    held = tmp_path / "seed=1"
    held.mkdir()
    sweep = Sweep(tmp_path, "search", runs)
    with sweep._lock:
        with lock_folder(held):
            assert [len(sweep._next(parallel)) for parallel in (1, 2, None)] == [0, 1, 2]
        assert [len(sweep._next(parallel)) for parallel in (1, 2, None)] == [1, 2, 3]


def test_the_front_is_what_none_beats():
    points = [(3.0, 70.0), (1.0, 50.0), (2.0, 60.0), (2.0, 65.0), (2.5, 64.0), (4.0, 70.0)]
    assert report.pareto_front(points) == [(1.0, 50.0), (2.0, 65.0), (3.0, 70.0)]
