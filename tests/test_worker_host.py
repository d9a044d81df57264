"""The worker on another host: over a real sshd of the test's own, on this machine's loopback."""

import getpass
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator

import pytest

from profiling.device import Options
from profiling.errors import DeviceUnavailable, WorkerError
from profiling.myriad.client import Worker
from profiling.myriad.compiler import MyriadXCompiler
from profiling.myriad.environment import environment_dir
from profiling.myriad.stick import Stick
from tests.programs import run_program
from tests.test_myriad import network, wait_until_gone

SSHD = "/usr/sbin/sshd"
MARK = f"JAXNAS_TEST={uuid.uuid4()}"


@pytest.fixture(scope="module")
def host(myriad, tmp_path_factory) -> Iterator[str]:
    """The prefix `ssh ... lab-pi`, by which sshd on a free port runs commands as this user."""
    if not pathlib.Path(SSHD).exists() or shutil.which("ssh") is None:
        missing = "no sshd and ssh here; apt-get install openssh-server openssh-client"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("ssh")
    for key in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True
        )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "sshd").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\n"
        f"AuthorizedKeysFile {folder / 'user.pub'}\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"PasswordAuthentication no\nSetEnv JAXNAS_MYRIAD_ENV={environment_dir()} {MARK}\n"
    )
    (folder / "client").write_text(
        f"Host lab-pi\nHostName 127.0.0.1\nPort {port}\nUser {getpass.getuser()}\n"
        f"IdentityFile {folder / 'user'}\nIdentitiesOnly yes\nBatchMode yes\n"
        f"StrictHostKeyChecking no\nUserKnownHostsFile {folder / 'known'}\nLogLevel ERROR\n"
    )
    if os.getuid() == 0:
        pathlib.Path("/run/sshd").mkdir(
            mode=0o755, parents=True, exist_ok=True
        )  # its privilege separation directory
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd"], stderr=log)
    prefix = f"ssh -F {folder / 'client'} lab-pi"
    try:
        wait_for_port(port, server, folder / "log")
        yield prefix
    finally:
        server.terminate()
        server.wait()


def wait_for_port(port: int, server: subprocess.Popen, log: pathlib.Path) -> None:
    for _ in range(200):
        assert server.poll() is None, log.read_text()
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(log.read_text())


@pytest.fixture(autouse=True)
def own_locks(monkeypatch, tmp_path_factory):
    """Locks that are the test's own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def model() -> bytes:
    return network([("first", 3, 16), ("second", 16, 32)])


def remote_worker() -> int:
    """The worker's process beyond ssh: no child of ours, known by what sshd gave it."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if (
                MARK.encode() in (process / "environ").read_bytes()
                and b"jaxnas-myriad-" in (process / "cmdline").read_bytes()
            ):
                found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or somebody else's
    (worker,) = found
    return worker


def test_compiles_what_it_compiles_here(host, model):
    with MyriadXCompiler("MYRIADX_COMPILER", Options()) as here:
        expected = here.measure(model)
    with MyriadXCompiler("MYRIADX_COMPILER", Options(worker_prefix=host)) as there:
        measured = there.measure(model)
    assert measured == expected and measured.blob == expected.blob


def test_measures_and_says_where(host, model):
    with Stick("CPU", Options(worker_prefix=host)) as there, Stick("CPU", Options()) as here:
        assert there.measure(model).count == 100
        assert there.setup.hardware == f"{here.setup.hardware} by {host}"
        assert there.setup != here.setup


def test_a_device_beyond_a_host_has_one_owner(host):
    with Stick("CPU", Options(worker_prefix=host)):
        with pytest.raises(DeviceUnavailable, match=f"in use by process {os.getpid()}") as owned:
            Stick("CPU", Options(worker_prefix=host))
    assert host in str(owned.value)


def test_without_a_stick_the_host_is_named(host):
    with pytest.raises(DeviceUnavailable, match="MYRIAD is not visible from ssh .* lab-pi"):
        Stick("MYRIAD", Options(worker_prefix=host))


def test_when_the_connection_dies_the_worker_ends_and_another_serves(host, model):
    with Worker(prefix=host, retries=1) as worker:
        worker.hello()
        there = remote_worker()
        os.kill(worker._process.pid, signal.SIGKILL)
        assert worker.compile(model).blob
        wait_until_gone(there)
        assert remote_worker() != there


def test_when_the_worker_dies_another_serves(host, model):
    with Worker(prefix=host, retries=1) as worker:
        worker.hello()
        there = remote_worker()
        os.kill(there, signal.SIGKILL)
        assert worker.compile(model).blob
        assert remote_worker() != there


def test_closing_ends_the_worker(host):
    with Worker(prefix=host) as worker:
        worker.hello()
        there = remote_worker()
    wait_until_gone(there)


def test_an_interpreter_that_is_not_there_is_told(host):
    prefix = f"{host} env JAXNAS_MYRIAD_ENV=/no/environment"
    with Worker(prefix=prefix, retries=0) as worker:
        with pytest.raises(WorkerError) as none:
            worker.hello()
    tried = "none of /no/environment/bin/python, python3.9, python3.8 and python3 can import"
    assert tried in str(none.value)
    assert f"profiling.myriad.install --worker_prefix={prefix!r}" in str(none.value)


def test_a_host_that_is_not_there_is_told_in_the_words_of_ssh(host, model):
    prefix = host.replace("ssh ", "ssh -o HostName=127.0.0.1 -o Port=1 ")
    with pytest.raises(WorkerError, match="exit status 255 .*Connection refused"):
        MyriadXCompiler("MYRIADX_COMPILER", Options(worker_prefix=prefix))


def test_a_login_that_prints_is_told(myriad):
    with Worker(prefix="""sh -c 'echo Welcome; exec "$@"' --""", retries=0) as worker:
        with pytest.raises(WorkerError, match="printed b'Welcome' instead of b'the worker starts'"):
            worker.hello()


@pytest.mark.parametrize(
    ("prefix", "message"), [("", "worker_prefix is empty"), ("ssh 'lab-pi", "No closing quotation")]
)
def test_a_prefix_that_is_no_command_is_refused(prefix, message):
    with pytest.raises(ValueError, match=message):
        Stick("MYRIAD", Options(worker_prefix=prefix))


def test_installs_on_the_host(host):
    """The environment is there already; what is missing of it would be added."""
    done = run_program("profiling.myriad.install", f"--worker_prefix={host}")
    assert done.returncode == 0, done.stderr
    assert f"interpreter: {environment_dir()}/bin/python" in done.stdout
    assert "ready: {'python': '3." in done.stdout


def test_a_folder_of_somebody_else_is_left_alone_there_too(host, tmp_path):
    (tmp_path / "thesis.txt").write_text("two years of work")
    prefix = f"{host} env JAXNAS_MYRIAD_ENV={tmp_path}"
    done = run_program("profiling.myriad.install", f"--worker_prefix={prefix}")
    assert done.returncode == 1
    refusal = f"{tmp_path} exists and is not a virtual environment; it was left unchanged"
    assert refusal in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
