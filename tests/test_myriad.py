"""The real MyriadX compiler in its own environment, and real processes in its place that fail."""

import base64
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from profiling.errors import CompileError, DeviceUnavailable, WorkerError
from profiling.myriad import environment
from profiling.myriad.client import DEADLINES_S, Worker
from profiling.myriad.process import Process, interrupts_deferred
from profiling.myriad.stages import parse

depthai = pytest.importorskip("depthai")


@pytest.fixture(scope="module")
def model() -> bytes:
    return network([("first", 3, 16), ("second", 16, 32), ("third", 32, 8)])


def network(layers: list[tuple[str, int, int]]) -> bytes:
    """ONNX of a chain of 3×3 convolutions on 32×32 pixels."""
    rng = np.random.default_rng(0)
    value, nodes, weights = "image", [], []
    for name, inputs, outputs in layers:
        kernel = rng.standard_normal((outputs, inputs, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"{name}/kernel"))
        nodes.append(
            helper.make_node("Conv", [value, f"{name}/kernel"], [name], name=name, pads=[1] * 4)
        )
        value = name
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, layers[0][1], 32, 32])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)],
        weights,
    )
    opset = helper.make_opsetid("", 13)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def faulty_once(fault: str, myriad: environment.Environment, folder: pathlib.Path) -> list[str]:
    """A command whose process has the fault the first time and is the real worker afterwards."""
    return faulty(fault, folder, f"os.path.exists({str(folder / 'started')!r})", myriad)


def faulty(
    fault: str, folder: pathlib.Path, healthy: str, myriad: environment.Environment | None
) -> list[str]:
    """A command that runs Python code `fault` unless the expression `healthy` holds."""
    command = myriad.command() if myriad else ["false"]
    script = folder / "faulty.py"
    script.write_text(
        "import os, sys, time\n"
        f"if {healthy}:\n"
        f"    os.execvp({command[0]!r}, {command!r})\n"
        f"open({str(folder / 'started')!r}, 'w').close()\n"
        f"{fault}\n"
    )
    return [sys.executable, str(script)]


def within(seconds: float) -> dict[str, float]:
    """One deadline for every kind of request."""
    return dict.fromkeys(DEADLINES_S, seconds)


HELLO = (
    'line = sys.stdin.readline(); print(\'{"id": 1, "ok": true, "protocol": 4, "versions": '
    '{"openvino": "2021.4.2"}}\','
    " flush=True); sys.stdin.readline()\n"
)
FAULTS = {
    "rubbish": "print('Segmentation fault, or so', flush=True); time.sleep(600)",
    "not UTF-8": "sys.stdout.buffer.write(b'\\xff\\xfe\\n'); sys.stdout.flush(); time.sleep(600)",
    "dies": "sys.stdin.readline(); sys.exit(3)",
    "never reads": "time.sleep(600)",
    "other answer": 'print(\'{"id": 7, "ok": true}\', flush=True); time.sleep(600)',
    "other protocol": 'print(\'{"id": 1, "ok": true, "protocol": 5, "versions": {}}\')',
    "dies compiling": HELLO + "os.abort()",
    "hangs compiling": HELLO + "time.sleep(600)",
    "two answers": HELLO + "print('{}\\n{}', flush=True); time.sleep(600)",
    "no library": HELLO + 'print(\'{"id": 2, "ok": false, "error": {"kind": "library", "message":'
    ' "libusb"}}\', flush=True); time.sleep(600)',
}


def test_compiles(myriad, model):
    with Worker() as compiler:
        compiled = compiler.compile(model)
    assert compiled.versions["openvino"].startswith("2021.4.2")
    names = [stage.layer or stage.name for stage in parse(compiled.graph) if stage.executed]
    assert list(dict.fromkeys(names)) == ["image@FP16", "first", "second", "third"]


@pytest.mark.parametrize("shaves", [1, 6, 16])
def test_blob_has_the_shaves_asked_for(myriad, model, shaves, tmp_path):
    with Worker() as compiler:
        blob = compiler.compile(model, shaves=shaves).blob
    path = tmp_path / "model.blob"
    path.write_bytes(blob)
    read = depthai.OpenVINO.Blob(path)
    assert (read.numShaves, read.numSlices) == (shaves, shaves)
    assert list(read.networkInputs) == ["image"]


def test_one_worker_serves_many_requests(myriad, model):
    with Worker() as compiler:
        compiler.hello()
        worker = compiler._process.pid
        blobs = [compiler.compile(model).blob for _ in range(2)]
        with pytest.raises(CompileError):
            compiler.compile(b"no ONNX")
        blobs.append(compiler.compile(model).blob)
        assert compiler._process.pid == worker
    assert blobs[0] == blobs[1] == blobs[2]


@pytest.mark.parametrize("shaves", [0, 17, -1])
def test_refuses_shaves_out_of_range(shaves, model):
    with pytest.raises(ValueError, match="1 to 16"):
        Worker(["false"]).compile(model, shaves=shaves)


@pytest.mark.parametrize("content", [b"", b"this is no ONNX", b"\x00" * 4096])
def test_refuses_what_is_no_onnx(myriad, content):
    with Worker() as compiler, pytest.raises(CompileError, match="ONNX"):
        compiler.compile(content)


def test_compile_error_is_the_compilers_words(myriad):
    with Worker() as compiler:
        with pytest.raises(CompileError, match="unsupported layer type") as refused:
            compiler.compile(dilated_depthwise_with_hard_sigmoid())
        assert compiler.compile(network([("first", 3, 16)])).blob
    assert "HardSigmoid" in str(refused.value)
    assert refused.value.layer == "block03/gate"


def dilated_depthwise_with_hard_sigmoid() -> bytes:
    kernel = numpy_helper.from_array(np.ones((8, 1, 3, 3), np.float32), "kernel")
    nodes = [
        helper.make_node(
            "Conv",
            ["image", "kernel"],
            ["wide"],
            name="block03/depthwise",
            group=8,
            dilations=[2, 2],
            pads=[2] * 4,
        ),
        helper.make_node("HardSigmoid", ["wide"], ["block03/gate"], name="block03/gate"),
        helper.make_node("Mul", ["wide", "block03/gate"], ["out"], name="block03/scale"),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 32, 32])
        for name in ("image", "out")
    ]
    graph = helper.make_graph(nodes, "gated", values[:1], values[1:], [kernel])
    opset = helper.make_opsetid("", 13)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_fault_the_next_worker_answers(fault, myriad, model, tmp_path):
    command = faulty_once(FAULTS[fault], myriad, tmp_path)
    with Worker(command, deadlines_s=within(1.5), retries=0) as compiler:
        with pytest.raises(WorkerError):
            compiler.compile(model)
        assert compiler._process is None
    (tmp_path / "started").touch()  # also where a slow machine did not get that far
    with Worker(command, deadlines_s=within(60), retries=0) as compiler:
        assert compiler.compile(model).blob


def test_a_request_is_tried_again(myriad, model, tmp_path):
    command = faulty_once(FAULTS["dies compiling"], myriad, tmp_path)
    with Worker(command) as compiler:
        assert compiler.compile(model).blob


def test_faults_are_counted_and_told(tmp_path):
    fault = "open('starts', 'a').write('x'); sys.stderr.write('out of luck'); sys.exit(3)"
    command = faulty(fault.replace("starts", str(tmp_path / "starts")), tmp_path, "False", None)
    with Worker(command, retries=2) as compiler:
        with pytest.raises(WorkerError, match="3 times") as failed:
            compiler.hello()
    assert "exit status 3" in str(failed.value)
    assert "out of luck" in str(failed.value)
    assert (tmp_path / "starts").read_text() == "xxx"


def test_killed_while_it_compiles_it_starts_again(myriad, model):
    with Worker(retries=1) as compiler:
        compiler.hello()
        first = compiler._process
        killer = threading.Thread(target=signal_at_work, args=(first, signal.SIGKILL))
        killer.start()
        assert compiler.compile(model).blob
        killer.join()
        assert compiler._process.pid != first.pid


def signal_at_work(process: Process, signal_: signal.Signals) -> None:
    """Sends a worker a signal when it has a network in hand, and not before."""
    folder = pathlib.Path(process._folder.name)
    while not list(folder.glob("jaxnas-myriad-*/model.onnx")):
        time.sleep(0.0001)
    os.kill(process.pid, signal_)


def test_a_stopped_worker_is_killed_at_its_deadline(myriad, model):
    with Worker(deadlines_s={**within(60), "compile": 1}, retries=0) as compiler:
        compiler.hello()
        pid = compiler._process.pid
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(WorkerError, match="did not answer within 1 s"):
            compiler.compile(model)
        assert not is_running(pid)
        assert compiler.devices()


def test_the_kernel_ends_a_worker_that_nobody_else_can(myriad):
    """As on another host: the request hangs, and no client is there to kill it."""
    request = {
        "id": 1,
        "method": "infer",
        "device": "MYRIAD.9.9-ma2480",
        "count": 1,
        "seconds": 1,
        "wait_s": 600,
        "shaves": None,
        "deadline_s": 1,
        "model": base64.b64encode(network([("first", 3, 16)])).decode(),
    }
    done = subprocess.run(
        myriad.command(),
        input=json.dumps(request) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGALRM


@pytest.mark.parametrize(
    ("hello", "message"),
    [
        ('"protocol": 1, "versions": {"openvino": "2021.4.2"}', "speaks protocol 1, this client 4"),
        (
            '"protocol": 4, "versions": {"openvino": "2022.3.1"}',
            "has OpenVINO 2022.3.1, this client needs 2021.4.2",
        ),
    ],
)
def test_another_version_is_refused_at_once_and_both_are_named(hello, message, tmp_path):
    answer = f'{{"id": 1, "ok": true, {hello}}}'
    fault = f"sys.stdin.readline(); print({answer!r}, flush=True)"
    with Worker(faulty(fault, tmp_path, "False", None), retries=2) as worker:
        with pytest.raises(WorkerError, match=message):
            worker.devices()
        assert worker._process is None


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("openvino", "cannot import openvino.inference_engine"),
        ("libusb", "cannot load the MYRIAD plugin: .*libusb"),
    ],
)
def test_a_missing_library_is_told(without, message, myriad, tmp_path):
    (tmp_path / "libusb-1.0.so.0").touch()  # or the system's, where there is one, would do
    python = (
        [sys.executable]
        if without == "openvino"
        else ["env", f"LD_LIBRARY_PATH={tmp_path}", str(myriad.python), "-I"]
    )
    with Worker([*python, str(environment.WORKER)], retries=0) as worker:
        with pytest.raises(WorkerError, match=f"(?s){message}.*profiling.myriad.install"):
            worker.hello()


def test_a_command_that_is_not_there_is_told():
    with pytest.raises(WorkerError, match="no-such-worker"):
        Worker(["no-such-worker"], retries=0).hello()


def is_running(pid: int) -> bool:
    """Returns whether a process runs; a zombie does not."""
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pid: int) -> None:
    for _ in range(200):
        if not is_running(pid):
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} still runs")


def test_the_whole_process_group_is_killed(tmp_path):
    fault = (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)"
    )
    command = faulty(fault, tmp_path, "False", None)
    with Worker(command, deadlines_s=within(5), retries=0) as compiler:
        with pytest.raises(WorkerError, match="within 5 s"):
            compiler.hello()
    wait_until_gone(int((tmp_path / "child").read_text()))


@pytest.fixture
def interruptible():
    """Control-C as in a terminal: a shell's background jobs begin with it ignored."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_waits_until_a_started_process_is_known():
    known = []
    with pytest.raises(KeyboardInterrupt), interrupts_deferred():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        known.append(True)
    assert known and signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_leaves_no_worker(tmp_path):
    fault = (
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        f"os.kill({os.getpid()}, {int(signal.SIGINT)})\n"
        "time.sleep(600)"
    )
    with Worker(faulty(fault, tmp_path, "False", None)) as compiler:
        with pytest.raises(KeyboardInterrupt):
            compiler.hello()
        assert compiler._process is None
    wait_until_gone(int((tmp_path / "pid").read_text()))


def test_the_worker_ends_when_its_input_ends(myriad):
    compiler = Worker()
    compiler.hello()
    process, pid = compiler._process._process, compiler._process.pid
    process.stdin.close()
    assert process.wait(30) == 0
    compiler.close()
    assert not is_running(pid)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "not JSON"),
        ("[1, 2]", "a request is an object, not list"),
        (
            '{"method": "fly"}',
            "unknown method 'fly'; allowed: compile, devices, hello, infer, scores",
        ),
        ('{"method": "compile"}', 'needs "model"'),
        ('{"method": "compile", "model": 3}', '"model" is not base64'),
        ('{"method": "compile", "model": "#"}', '"model" is not base64'),
        ('{"method": "compile", "model": "AAAA", "shaves": "6"}', "shaves is '6'"),
        ('{"method": "infer", "model": "AAAA"}', "device is None"),
        ('{"method": "scores", "device": "CPU", "wait_s": 0}', "dtype is None; allowed: uint8"),
        ('{"method": "infer", "device": "CPU", "count": true}', "count is True"),
        ('{"method": "hello", "deadline_s": "soon"}', "deadline_s is 'soon'"),
    ],
)
def test_the_worker_outlives_a_bad_request(myriad, line, message):
    lines = f'{line}\n{{"id": 5, "method": "hello"}}\n'
    done = subprocess.run(
        myriad.command(), input=lines, capture_output=True, text=True, check=True, timeout=60
    )
    refusal, hello = map(json.loads, done.stdout.splitlines())
    assert refusal["ok"] is False and refusal["error"]["kind"] == "request"
    assert message in refusal["error"]["message"]
    assert hello["ok"] is True and hello["id"] == 5


def test_threads_share_one_compiler(myriad, model):
    blobs = []
    with Worker() as compiler:
        threads = [
            threading.Thread(target=lambda: blobs.append(compiler.compile(model).blob))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(blobs) == 3 and len(set(blobs)) == 1


def fake_python(folder: pathlib.Path, version: str, body: str) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"python{version}"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_a_shim_that_fails_is_skipped(myriad, monkeypatch, tmp_path):
    fake_python(tmp_path / "shims", "3.9", "echo 'python3.9: command not found' >&2; exit 127")
    real = fake_python(tmp_path / "real", "3.9", f'exec {myriad.python} "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'shims'}:{tmp_path / 'real'}:{os.environ['PATH']}")
    assert environment.find_python() == str(real)


def test_without_an_interpreter_it_says_what_was_looked_at(monkeypatch, tmp_path):
    shim = fake_python(tmp_path / "bin", "3.9", "echo 'not this version' >&2; exit 127")
    wrong = fake_python(tmp_path / "bin", "3.8", "echo CPython 3.11 x86_64")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "no-pyenv"))
    with pytest.raises(DeviceUnavailable, match="uv python install 3.9") as none:
        environment.find_python()
    assert f"{shim} (exit status 127: not this version)" in str(none.value)
    assert f"{wrong} (is 'CPython 3.11 x86_64')" in str(none.value)


def test_the_interpreter_asked_for_is_the_only_one_tried():
    with pytest.raises(DeviceUnavailable, match="/no/such/python"):
        environment.find_python("/no/such/python")


def test_uv_is_asked(monkeypatch, tmp_path):
    real = fake_python(tmp_path / "managed", "3.9", "echo CPython 3.9 x86_64")
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    # Like uv without 3.9: finds it only once it is installed.
    uv.write_text(
        "#!/bin/sh\n"
        f"[ $2 = install ] && : > {tmp_path}/installed\n"
        f"[ $2 = find ] && [ -e {tmp_path}/installed ] && echo {real} || exit 2\n"
    )
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "no-pyenv"))
    assert environment.find_python() == str(real)


def test_a_folder_of_somebody_else_is_left_alone(monkeypatch, tmp_path, myriad):
    (tmp_path / "thesis.txt").write_text("two years of work")
    monkeypatch.setenv("JAXNAS_MYRIAD_ENV", str(tmp_path))
    with pytest.raises(DeviceUnavailable, match="left unchanged"):
        environment.ensure_environment(str(myriad.python))
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("answer", "built"), [("echo 'libusb is gone' >&2; exit 1", 1), ("echo", 1), ("sleep 5", 0)]
)
def test_an_environment_that_does_not_run_is_built_anew(monkeypatch, tmp_path, answer, built):
    """It is complete but for its compiler. One that is only slow is left as it is."""
    fake_python(tmp_path / "bin", "", answer)
    (tmp_path / "complete.json").write_text(json.dumps({"pins": environment.PINS}))
    monkeypatch.setenv("JAXNAS_MYRIAD_ENV", str(tmp_path))
    monkeypatch.setattr(environment, "_HELLO_LIMIT_S", 2)
    monkeypatch.setattr(environment, "find_python", lambda python: "/usr/bin/python3.9")
    calls = []
    monkeypatch.setattr(environment, "_build", lambda root, *_: calls.append(root))
    environment.ensure_environment()  # takes its word for it
    environment.install_environment(None, lambda line: None)
    assert calls == [tmp_path] * built


def test_a_file_is_no_environment(monkeypatch, tmp_path, myriad):
    (tmp_path / "python3.9").touch()
    monkeypatch.setenv("JAXNAS_MYRIAD_ENV", str(tmp_path / "python3.9"))
    with pytest.raises(DeviceUnavailable, match="is not a virtual environment; it was left"):
        environment.ensure_environment(str(myriad.python))


def test_a_folder_that_cannot_be_made_is_told(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXNAS_MYRIAD_ENV", str(tmp_path / "file" / "environment"))
    with pytest.raises(DeviceUnavailable, match="JAXNAS_MYRIAD_ENV"):
        environment.ensure_environment()
