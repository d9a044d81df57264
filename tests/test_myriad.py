"""The real MyriadX compiler in its own environment, and real processes in its place that fail."""

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
from profiling.myriad.client import MyriadCompiler
from profiling.myriad.stages import estimate

depthai = pytest.importorskip("depthai")


@pytest.fixture(scope="module")
def model() -> bytes:
    return network([("first", 3, 16), ("second", 16, 32), ("third", 32, 8)])


def network(layers: list[tuple[str, int, int]], last: str | None = None) -> bytes:
    """ONNX of a chain of 3×3 convolutions on 32×32 pixels and, if given, one more operator."""
    rng = np.random.default_rng(0)
    value, nodes, weights = "image", [], []
    for name, inputs, outputs in layers:
        kernel = rng.standard_normal((outputs, inputs, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"{name}/kernel"))
        nodes.append(
            helper.make_node("Conv", [value, f"{name}/kernel"], [name], name=name, pads=[1] * 4)
        )
        value = name
    if last:
        nodes.append(helper.make_node(last, [value], ["last"], name="last"))
        value = "last"
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


HELLO = (
    'line = sys.stdin.readline(); print(\'{"id": 1, "ok": true, "protocol": 1, "versions": {}}\','
    " flush=True); sys.stdin.readline()\n"
)
FAULTS = {
    "rubbish": "print('Segmentation fault, or so', flush=True); time.sleep(600)",
    "not UTF-8": "sys.stdout.buffer.write(b'\\xff\\xfe\\n'); sys.stdout.flush(); time.sleep(600)",
    "dies": "sys.stdin.readline(); sys.exit(3)",
    "never reads": "time.sleep(600)",
    "other answer": "print('{\"id\": 7, \"ok\": true}', flush=True); time.sleep(600)",
    "other protocol": 'print(\'{"id": 1, "ok": true, "protocol": 2, "versions": {}}\')',
    "dies compiling": HELLO + "os.abort()",
    "hangs compiling": HELLO + "time.sleep(600)",
    "two answers": HELLO + "print('{}\\n{}', flush=True); time.sleep(600)",
    "no library": HELLO + 'print(\'{"id": 2, "ok": false, "error": {"kind": "library", "message":'
    ' "libusb"}}\', flush=True); time.sleep(600)',
}


def test_compiles(myriad, model):
    with MyriadCompiler() as compiler:
        compiled = compiler.compile(model)
    assert compiled.versions["openvino"].startswith("2021.4.2")
    names = [layer.name for layer in estimate(compiled.graph).layers]
    assert names == ["image@FP16", "first", "second", "third", "third@FP16"]


@pytest.mark.parametrize("shaves", [1, 6, 16])
def test_blob_has_the_shaves_asked_for(myriad, model, shaves, tmp_path):
    with MyriadCompiler() as compiler:
        blob = compiler.compile(model, shaves=shaves).blob
    path = tmp_path / "model.blob"
    path.write_bytes(blob)
    read = depthai.OpenVINO.Blob(path)
    assert (read.numShaves, read.numSlices) == (shaves, shaves)
    assert list(read.networkInputs) == ["image"]


def test_one_worker_serves_many_requests(myriad, model):
    with MyriadCompiler() as compiler:
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
        MyriadCompiler(["false"]).compile(model, shaves=shaves)


@pytest.mark.parametrize("content", [b"", b"this is no ONNX", b"\x00" * 4096])
def test_refuses_what_is_no_onnx(myriad, content):
    with MyriadCompiler() as compiler, pytest.raises(CompileError, match="ONNX"):
        compiler.compile(content)


def test_compile_error_is_the_compilers_words(myriad):
    with MyriadCompiler() as compiler:
        with pytest.raises(CompileError, match="unsupported layer type") as refused:
            compiler.compile(network([("first", 3, 16)], last="HardSigmoid"))
    assert "HardSigmoid" in str(refused.value)
    assert refused.value.layer == "last"


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_fault_the_next_worker_answers(fault, myriad, model, tmp_path):
    command = faulty_once(FAULTS[fault], myriad, tmp_path)
    with MyriadCompiler(command, deadline_s=1.5, retries=0) as compiler:
        with pytest.raises(WorkerError):
            compiler.compile(model)
        assert compiler._process is None
    (tmp_path / "started").touch()  # also where a slow machine did not get that far
    with MyriadCompiler(command, deadline_s=60, retries=0) as compiler:
        assert compiler.compile(model).blob


def test_a_request_is_tried_again(myriad, model, tmp_path):
    command = faulty_once(FAULTS["dies compiling"], myriad, tmp_path)
    with MyriadCompiler(command) as compiler:
        assert compiler.compile(model).blob


def test_faults_are_counted_and_told(tmp_path):
    fault = "open('starts', 'a').write('x'); sys.stderr.write('out of luck'); sys.exit(3)"
    command = faulty(fault.replace("starts", str(tmp_path / "starts")), tmp_path, "False", None)
    with MyriadCompiler(command, retries=2) as compiler:
        with pytest.raises(WorkerError, match="3 times") as failed:
            compiler.hello()
    assert "exit status 3" in str(failed.value)
    assert "out of luck" in str(failed.value)
    assert (tmp_path / "starts").read_text() == "xxx"


def test_a_command_that_is_not_there_is_told():
    with pytest.raises(WorkerError, match="no-such-worker"):
        MyriadCompiler(["no-such-worker"], retries=0).hello()


def is_running(pid: int) -> bool:
    """Whether a process runs; a zombie, which nobody here may reap, does not."""
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
    with MyriadCompiler(command, deadline_s=5, retries=0) as compiler:
        with pytest.raises(WorkerError, match="within 5 s"):
            compiler.hello()
    wait_until_gone(int((tmp_path / "child").read_text()))


def test_an_interrupt_leaves_no_worker(tmp_path):
    fault = (
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        f"os.kill({os.getpid()}, {int(signal.SIGINT)})\n"
        "time.sleep(600)"
    )
    with MyriadCompiler(faulty(fault, tmp_path, "False", None)) as compiler:
        with pytest.raises(KeyboardInterrupt):
            compiler.hello()
        assert compiler._process is None
    wait_until_gone(int((tmp_path / "pid").read_text()))


def test_the_worker_ends_when_its_input_ends(myriad):
    compiler = MyriadCompiler()
    compiler.hello()
    process, pid = compiler._process, compiler._process.pid
    process.stdin.close()
    assert process.wait(30) == 0
    compiler.close()
    assert not is_running(pid)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "not JSON"),
        ("[1, 2]", "a request is an object, not list"),
        ('{"method": "fly"}', "unknown method 'fly'; allowed: compile, hello"),
        ('{"method": "compile"}', 'needs "model"'),
        ('{"method": "compile", "model": 3}', '"model" is not base64'),
        ('{"method": "compile", "model": "#"}', '"model" is not base64'),
        ('{"method": "compile", "model": "AAAA", "shaves": "6"}', "shaves is '6'"),
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
    with MyriadCompiler() as compiler:
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
    with pytest.raises(DeviceUnavailable, match="left alone"):
        environment.ensure_environment(str(myriad.python))
    assert (tmp_path / "thesis.txt").exists()


def test_a_folder_that_cannot_be_made_is_told(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXNAS_MYRIAD_ENV", str(tmp_path / "file" / "environment"))
    with pytest.raises(DeviceUnavailable, match="JAXNAS_MYRIAD_ENV"):
        environment.ensure_environment()
