"""The device MYRIAD. No stick is here: the CPU plugin of the same OpenVINO stands in for it.

Everything but the stick is real: the class, the worker, its process, its faults and the lock. What
the stick would count is made up from the schedule that the real compiler gives.
"""

import os
import pathlib
import signal
import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest

from jaxnas import export
from jaxnas.builtin_spaces import PROXYLESS_TINY
from jaxnas.network import Network, network_of
from profiling import tables
from profiling.device import Options
from profiling.errors import CompileError, DeviceUnavailable, WorkerError
from profiling.measurement import LayerTime
from profiling.myriad import stick_lock
from profiling.myriad.client import DEADLINES_S, Worker
from profiling.myriad.stages import parse
from profiling.myriad.stick import NAME, UDEV_RULE, Stick, by_node
from profiling.myriad.worker import DEVICE_WORDS
from profiling.myriad.worker_answers import Inferences
from profiling.registry import device_names, open_device
from tests import onnx_networks
from tests.programs import ROOT
from tests.test_myriad import (
    dilated_depthwise_with_hard_sigmoid,
    network,
    signal_at_work,
    wait_until_gone,
)


@pytest.fixture(autouse=True)
def own_locks(monkeypatch, tmp_path_factory):
    """Locks that are the test's own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def model() -> bytes:
    """A whole network, as it is exported."""
    space = PROXYLESS_TINY
    rng = np.random.default_rng(5)
    spec = network_of(space, space.arch(space.random_path(rng)), 10)
    return export.to_onnx(Network(spec, rng=rng), 64).SerializeToString()


@pytest.fixture
def stand_in(myriad):
    with Stick("CPU", Options()) as stick:
        yield stick


def test_measures(stand_in, model):
    measurement = stand_in.measure(model)
    assert measurement.count == 100
    assert 0 < measurement.p10_ms <= measurement.latency_ms <= measurement.p90_ms
    layers_ms = sum(layer.ms for layer in measurement.layers)
    assert measurement.host_ms + layers_ms == pytest.approx(measurement.latency_ms)
    assert measurement.temperature_c is None  # the CPU plugin tells none
    # What the compiler alone makes of it: the stand-in delivers the same file.
    with open_device("MYRIADX_COMPILER") as compiler:
        assert measurement.blob == compiler.measure(model).blob


def test_every_layer_is_a_part_of_the_network(stand_in, model):
    parts = tables.ms_by_part(stand_in.measure(model))
    assert parts.keys() - {"classifier"} >= {"stem", "first", "block00", "head", "pool", "host"}


def test_says_what_it_is(stand_in):
    assert stand_in.setup.device == "MYRIAD's worker on CPU"
    assert stand_in.setup.kind == "measured"
    assert stand_in.setup.settings == {"shaves": None}
    assert stand_in.setup.versions["openvino"].startswith("2021.4.2")
    assert stand_in.setup.versions["firmware"] == "usb-ma2x8x.mvcmd sha256 faf33388b8870817"


def test_the_stand_in_is_no_device_of_users():
    with pytest.raises(ValueError, match="unknown device 'MYRIAD CPU'"):
        device_names("MYRIAD CPU")
    assert device_names("MYRIAD.1.2-ma2480,MYRIAD") == ["MYRIAD.1.2-ma2480", "MYRIAD"]


@pytest.mark.parametrize("shaves", [None, 4])
def test_counters_go_to_their_nodes_and_none_is_lost(myriad, model, shaves):
    """With counters as the plugin makes them: one a stage of its schedule, by the stage's name."""
    with Worker() as worker:
        graph = worker.compile(model, shaves=shaves).graph
    stages = [stage for stage in parse(graph) if stage.executed]
    counters = tuple(
        LayerTime(stage.name, 0.01 * (1 + index % 7)) for index, stage in enumerate(stages)
    )
    assert len({counter.name for counter in counters}) == len(stages)
    assert any("@tile=" in counter.name for counter in counters)
    layers = by_node(Inferences((1.0,), counters, (40.0, 41.0), graph, {}), set())
    assert layers[0].name == "image@FP16"
    assert len({layer.name for layer in layers}) == len(layers) < len(counters)
    assert sum(layer.ms for layer in layers) == pytest.approx(sum(c.ms for c in counters))
    tiles_ms = sum(
        counter.ms
        for stage, counter in zip(stages, counters, strict=True)
        if stage.layer == "block01/depthwise"
    )
    assert {layer.name: layer.ms for layer in layers}["block01/depthwise"] == tiles_ms


def test_a_counter_that_the_graph_does_not_name_stays():
    inferences = Inferences((1.0,), (LayerTime("mystery", 0.5),), None, None, {})
    assert by_node(inferences, {"stem/conv"}) == (LayerTime("mystery", 0.5),)


def test_inferences_are_bounded_by_count_and_by_time(myriad):
    with Worker() as worker:
        few = worker.infer(network([("first", 3, 16)]), "CPU", count=3)
        assert len(few.latency_ms) == 3
        one = worker.infer(network([("first", 3, 16)]), "CPU", count=10**9, seconds=0)
        assert len(one.latency_ms) == 1
        with pytest.raises(ValueError, match="count is 0"):
            worker.infer(b"", "CPU", count=0)


def test_a_refused_network_names_its_layer_and_the_next_is_measured(stand_in, model):
    with pytest.raises(CompileError, match="HardSigmoid") as refused:
        stand_in.measure(dilated_depthwise_with_hard_sigmoid())
    assert refused.value.layer == "block03/gate"
    assert stand_in.measure(model).count == 100


def test_a_hang_while_inferring_is_killed_and_tried_again(myriad, model):
    with Worker(deadlines_s={**DEADLINES_S, "infer": 4}, retries=1) as worker:
        worker.hello()
        first = worker._process
        stopper = threading.Thread(target=signal_at_work, args=(first, signal.SIGSTOP))
        stopper.start()
        inferences = worker.infer(model, "CPU", count=5, seconds=0.5, wait_s=0)
        stopper.join()
        assert len(inferences.latency_ms) == 5
        assert worker._process.pid != first.pid


def test_without_a_stick_it_says_what_to_do(myriad):
    with pytest.raises(DeviceUnavailable) as absent:
        Stick(NAME, Options())
    for words in (
        "03e7:2485",
        "03e7:f63b",
        UDEV_RULE,
        "udevadm control --reload-rules",
        "USB 2",
        "--device=MYRIADX_COMPILER",
    ):
        assert words in str(absent.value)


def test_without_that_stick_it_says_so(myriad):
    with pytest.raises(DeviceUnavailable, match="MYRIAD.9.9-ma2480 is not visible"):
        open_device("MYRIAD.9.9-ma2480")


def test_the_first_of_a_list_that_is_there(myriad):
    with open_device("MYRIAD,MYRIADX_COMPILER") as device:
        assert device.setup.device == "MYRIADX_COMPILER"


def test_a_device_that_fails_is_tried_again_and_told(myriad, model):
    """A stick that is gone is a fault of the device, and the worker itself stays well."""
    with Worker(retries=1) as worker:
        with pytest.raises(
            DeviceUnavailable, match="failed 2 times: .* was not found; available: CPU"
        ) as gone:
            worker.infer(model, "MYRIAD.9.9-ma2480", wait_s=0)
        assert not isinstance(gone.value, WorkerError)
        assert worker.infer(model, "CPU", count=1).latency_ms


@pytest.mark.parametrize(
    "message",
    [
        "Can not init Myriad device: NC_ERROR",
        "Failed to read output from FIFO: NC_ERROR",
        "Failed to write data, rc: X_LINK_COMMUNICATION_FAIL",
    ],
)
def test_what_the_runtime_says_of_a_stick(message):
    """The worker's sorting of the plugin's words, which no stick is here to say."""
    assert DEVICE_WORDS.search(message)
    assert not DEVICE_WORDS.search('Failed to compile layer "gate": unsupported layer type')


OWNER = """
import sys, time
from profiling.device import Options
from profiling.myriad.stick import Stick
with Stick("CPU", Options()):
    print("mine", flush=True)
    sys.stdin.read()
"""
AT_WORK = """
import pathlib, sys, threading, time
from profiling.myriad.client import Worker
with Worker() as worker:
    worker.hello()
    model = pathlib.Path(sys.argv[1]).read_bytes()
    work = threading.Thread(
        target=lambda: worker.infer(model, "CPU", count=10**9, seconds=100), daemon=True
    )
    work.start()
    busy = pathlib.Path(f"/proc/{worker._process.pid}/stat")
    ticks = lambda: int(busy.read_text().rpartition(")")[2].split()[11])
    before = ticks()
    while ticks() < before + 50:  # half a second of inferences
        time.sleep(0.1)
    print(worker._process.pid, flush=True)
    work.join()
"""


@pytest.fixture
def other_owner(myriad):
    """Another process that has the device."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == "mine\n"
        yield process
        process.kill()


def test_a_device_has_one_owner_and_is_free_when_that_is_killed(other_owner, model):
    with pytest.raises(DeviceUnavailable, match=f"in use by process {other_owner.pid}") as owned:
        Stick("CPU", Options())
    assert f"kill {other_owner.pid}" in str(owned.value)
    os.kill(other_owner.pid, signal.SIGKILL)
    other_owner.wait()
    with Stick("CPU", Options()) as stick:
        assert stick.measure(model).count == 100


def test_a_worker_at_work_ends_with_its_program(myriad, model, tmp_path):
    """It would use the device, whose lock is free, for as long as its inferences take."""
    (tmp_path / "model.onnx").write_bytes(model)
    process = subprocess.Popen(
        [sys.executable, "-c", AT_WORK, str(tmp_path / "model.onnx")],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
    )
    with process:
        worker = int(process.stdout.readline())
        process.kill()
    wait_until_gone(worker)


def test_a_network_that_was_read_otherwise_has_no_scores(stand_in, tmp_path):
    """OpenVINO 2021.4 takes no notice of a pool's dilation."""
    pool = onnx.helper.make_node(
        "MaxPool", ["image"], ["pool"], name="pool", kernel_shape=[3, 3], dilations=[3, 3]
    )
    nodes = [
        pool,
        onnx.helper.make_node("GlobalAveragePool", ["pool"], ["mean"], name="mean"),
        onnx.helper.make_node("Flatten", ["mean"], ["scores"], name="scores"),
    ]
    file = tmp_path / "model.onnx"
    model = onnx_networks.network(nodes, {"image": [1, 3, 32, 32]}, {"scores": [1, 3]}, {})
    file.write_bytes(model.SerializeToString())
    with pytest.raises(CompileError, match="misread the layer pool, whose output is 1x3x26x26"):
        stand_in.scores(file, iter(np.zeros((2, 3, 32, 32), np.float32)))


def test_a_stick_that_another_process_has_open_is_told(myriad):
    """An open stick is not listed; who has it is known all the same."""
    with stick_lock.claim("MYRIAD.1.2-ma2480", stick_lock.THIS_HOST):
        with pytest.raises(DeviceUnavailable, match=f"in use by process {os.getpid()}"):
            Stick(NAME, Options())
        assert stick_lock.owned("ssh lab-pi") == []
        stick_lock.claim("MYRIAD.1.2-ma2480", "ssh lab-pi").close()
    assert stick_lock.owned(stick_lock.THIS_HOST) == []


def test_a_failed_start_leaves_no_worker(myriad):
    with Stick("CPU", Options()):
        before = children()
        with pytest.raises(DeviceUnavailable):
            Stick("CPU", Options())
        assert children() == before != set()


def children() -> set[str]:
    """Processes that this one has started and not ended."""
    tasks = pathlib.Path("/proc/self/task").iterdir()
    return {pid for task in tasks for pid in (task / "children").read_text().split()}


def test_a_folder_for_locks_that_cannot_be_made_is_told(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "file"))
    with pytest.raises(DeviceUnavailable, match="XDG_RUNTIME_DIR"):
        stick_lock.claim("CPU", stick_lock.THIS_HOST)
