"""Many processes and devices are one run: the same numbers, the same network, one failure."""

import json
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxnas import parallel
from tests.conftest import NO_RESTART, metrics_of
from tests.programs import ROOT, UNOPTIMIZED, Program, run_fresh, run_program

EIGHT_DEVICES = f"{UNOPTIMIZED} --xla_force_host_platform_device_count=8"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Group:
    """Processes that search together."""

    def __init__(self, folder: pathlib.Path, count: int, *flags: str, **environment: str):
        self.folder = folder
        coordinator = f"--coordinator=127.0.0.1:{free_port()}"
        self.processes = []
        for index in range(count):
            together = (coordinator, f"--processes={count}", f"--process={index}")
            self.processes.append(
                Program(
                    "experiments.search",
                    *flags,
                    f"--workdir={folder / 'run'}",
                    *(together if count > 1 else ()),
                    environment={"XLA_FLAGS": UNOPTIMIZED, **environment},  # each compiles
                )
            )

    def wait(self, timeout_s: float = 500) -> list[int]:
        """Exit statuses."""
        end = time.monotonic() + timeout_s
        try:
            return [process.wait(max(0.1, end - time.monotonic())) for process in self.processes]
        finally:
            self.kill()

    def kill(self) -> None:
        for process in self.processes:
            process.kill()

    def said(self, index: int) -> str:
        return self.processes[index].stderr

    @property
    def run(self) -> pathlib.Path:
        return self.folder / "run"


def assert_same_search(*folders: pathlib.Path) -> None:
    """To float tolerance: sums over the batch are added in another order, by other programs."""
    for name in ("architecture.json", "result.json"):
        documents = [json.loads((folder / name).read_text()) for folder in folders]
        assert documents[0]["architecture"] == documents[1]["architecture"]
    assert documents[0]["accuracy"]["examples"] == 359
    assert documents[0]["accuracy"]["top1"] == pytest.approx(
        documents[1]["accuracy"]["top1"], abs=0.02
    )
    lines = [*map(metrics_of, folders)]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    for ours, theirs in zip(*lines, strict=True):
        for key in ("ce", "expected_ms", "entropy", "arch_ce"):
            if key in theirs:
                assert ours[key] == pytest.approx(theirs[key], rel=2e-3), (ours["step"], key)


def assert_death_is_named(group: Group, dies: int) -> None:
    """Kills a process of the group; the others end within a minute and name it."""
    try:
        group.processes[dies].wait_until(lambda: len(metrics_of(group.run)) >= 2)
        group.processes[dies].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        others = [index for index in range(len(group.processes)) if index != dies]
        assert [group.processes[index].wait(60) for index in others] == [1] * len(others)
        assert time.monotonic() - killed < 60
    finally:
        group.kill()
    for index in others:
        assert f"process {dies} " in group.said(index).splitlines()[-1]


def test_four_processes_search_as_one_does_after_process_0_of_two_died(
    micro_search, micro_searched, tmp_path
):
    """Process 0 has the files in its hands. A resumed run may have another number of processes."""
    assert_death_is_named(Group(tmp_path, 2, *micro_search, "--checkpoint_seconds=0"), 0)
    count = 4
    group = Group(tmp_path, count, *micro_search)
    assert group.wait() == [0] * count, group.said(count - 1)
    assert "resuming from step" in group.said(0)
    assert_same_search(group.run, micro_searched)
    for index in range(1, count):
        out = group.processes[index].stdout.splitlines()
        assert all(line.startswith("[Gloo]") for line in out)  # which it says to standard output
        assert "✓" not in group.said(index)
    assert "✓ search" in group.said(0)


def test_eight_devices_search_as_one_does(micro_search, micro_searched, tmp_path):
    group = Group(tmp_path, 1, *micro_search, XLA_FLAGS=EIGHT_DEVICES)
    assert group.wait() == [0], group.said(0)
    assert_same_search(group.run, micro_searched)


def test_a_dead_process_is_named_to_process_0(micro_search, tmp_path):
    assert_death_is_named(Group(tmp_path, 2, *micro_search), 1)


@pytest.mark.parametrize("comes", [0, 1])
def test_waiting_for_a_process_that_never_comes_ends(comes):
    start = (
        f"import sys, jaxnas.parallel; module = sys.modules['jaxnas.parallel.start']; "
        f"module._JOIN_S = 3; module.start('127.0.0.1:{free_port()}', 2, {comes})"
    )
    done = subprocess.run(
        [sys.executable, "-c", start], cwd=ROOT, text=True, timeout=60, stderr=subprocess.PIPE
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "error: not all 2 processes of this run joined within 3 s; make sure that each was"
    )


def test_processes_that_differ_are_told(micro_search, tmp_path):
    flags = [
        *micro_search,
        f"--workdir={tmp_path / 'run'}",
        f"--coordinator=127.0.0.1:{free_port()}",
        "--processes=2",
    ]
    pair = [
        Program("experiments.search", *flags, own, f"--process={index}")
        for index, own in enumerate(("--seed=0", "--seed=1"))
    ]
    assert [process.wait(120) for process in pair] == [1, 1]
    said = [process.stderr for process in pair]
    for one in said:
        assert "the configuration: not the same in process 1 as in process 0" in one


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--coordinator=127.0.0.1:1"], "give --processes with them"),
        (["--process=0"], "give --processes with them"),
        (
            ["--processes=2", "--process=2", "--coordinator=127.0.0.1:1"],
            "--process=2 of --processes=2: give 0 to 1",
        ),
        (["--processes=2"], "--processes=2: the environment does not provide the rest"),
    ],
)
def test_flags_of_processes_that_do_not_go_together_are_refused(flags, message):
    done = run_program("experiments.search", "--flagfile=vpu.flags", *flags)
    assert done.returncode == 2 and message in done.stderr


def test_a_cluster_s_count_is_held_to():
    done = run_program(
        "experiments.search", "--flagfile=vpu.flags", "--processes=2", SLURM_STEP_NUM_TASKS="4"
    )
    assert done.returncode == 2
    assert "--processes=2: the cluster started 4 together" in done.stderr


def test_a_batch_that_does_not_divide_is_refused():
    done = run_fresh(
        "experiments.search",
        "--flagfile=vpu.flags",
        "--batch_size=60",
        XLA_FLAGS=EIGHT_DEVICES,
        JAX_PLATFORMS="cpu",
        **NO_RESTART,
    )
    assert done.returncode == 2
    assert "--batch_size=60 does not divide among 8 devices: give a multiple" in done.stderr


def test_a_step_on_eight_devices_has_one_collective_and_the_results_of_one_device():
    done = run_fresh("tests.eight_devices", XLA_FLAGS=EIGHT_DEVICES, JAX_PLATFORMS="cpu")
    report = json.loads(done.stdout)
    apart, together = report["groups of a device"], report["a group of all"]
    assert {*apart} == {"weight", "arch", "recalibrate", "train"}
    for step in apart.values():
        assert step["collectives"] == ["all-reduce"]
        assert step["difference"] < 1e-5
    # Statistics of a group on many devices have to be summed in every layer.
    assert len(together["weight"]["collectives"]) > 20
    assert together["weight"]["difference"] < 1e-5


def test_a_layout_divides_batches_and_replicates_the_rest():
    layout = parallel.layout(jax.devices()[:1])
    batch = layout.shard({"image": np.ones((4, 2), np.float32)})
    assert batch["image"].sharding == layout.sharded
    tree = layout.replicate({"w": np.arange(3.0, dtype=np.float32), "n": np.int32(2)})
    assert tree["w"].sharding == layout.replicated and tree["n"].shape == ()
    assert np.asarray(tree["w"]).tolist() == [0, 1, 2]
    shapes = layout.sharded_shapes(batch)
    assert shapes["image"].shape == (4, 2) and shapes["image"].sharding == layout.sharded


def test_one_process_asks_nobody():
    assert parallel.is_process_0()
    assert parallel.from_process_0(lambda: {"a": [1, 2]}) == {"a": [1, 2]}
    assert parallel.any_across_processes(True, False) == (True, False)
    parallel.check_same("anything", np.ones(3))
