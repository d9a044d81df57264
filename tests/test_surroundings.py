"""Programs in homes, folders and terminals as people have them."""

import os
import shlex
import subprocess
import sys

import pytest

from profiling import command
from tests.programs import ROOT, run_fresh, run_program

MEASURE = ("profiling.measure", "--model=mobilenet_v2", "--image_size=32", "--device=CPU")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("--device=CPU\n".encode("utf-16"), "is not UTF-8 text"),
        ("--workdir=Größe\n".encode("latin-1"), "is not UTF-8 text"),
        (
            b"\xef\xbb\xbf--device=CPU\n",
            "begins with a byte order mark; save it as UTF-8 without one",
        ),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_flag_files_are_utf_8(tmp_path, content, said, nested):
    file = tmp_path / "mine.flags"
    file.write_bytes(content)
    if nested:
        (tmp_path / "outer.flags").write_text(f"# mine too\n--flagfile={file}\n")
    given = tmp_path / "outer.flags" if nested else file
    with pytest.raises(ValueError, match=f"--flagfile={file} {said}"):
        command._check_flag_files(["--device=CPU", f"--flagfile={given}"])


def test_a_flag_file_that_names_itself_is_read_once(tmp_path):
    file = tmp_path / "mine.flags"
    file.write_text(f"--flagfile={file}\n--device=CPU\n")
    command._check_flag_files([f"--flagfile={file}"])


def test_a_bad_flag_file_is_one_line(tmp_path):
    file = tmp_path / "mine.flags"
    file.write_bytes("--device=CPU\n".encode("utf-16"))
    done = run_program(*MEASURE, f"--flagfile={file}")
    assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1


def test_the_home_that_shells_leave_after_an_equals_sign_is_found(tmp_path):
    done = run_program(*MEASURE[:1], "--model=~/none.onnx", HOME=str(tmp_path))
    assert done.returncode == 2 and f"{tmp_path}/none.onnx" in done.stderr


def test_a_terminal_of_few_characters_and_a_home_that_cannot_be_written(tmp_path):
    done = run_fresh(
        *MEASURE,
        PYTHONIOENCODING="latin-1",
        HOME="/proc/nobody",
        XDG_DATA_HOME="",
        JAXNAS_STORE="",
        XDG_CACHE_HOME="",
    )
    assert done.returncode == 0, done.stderr
    assert "mobilenet_v2 on CPU: " in done.stdout and "Traceback" not in done.stderr
    warnings = [line for line in done.stderr.splitlines() if "measurements are not kept" in line]
    assert len(warnings) == 1 and "name another file with --store" in warnings[0]


def test_no_home_is_needed_where_every_path_is_given(tmp_path):
    """A user id without a name, as containers have, and no HOME; in a namespace of its own."""
    nobody = ["unshare", "--user", "--map-user=12345", "env", "-u", "HOME", "-u", "XDG_CACHE_HOME"]
    if subprocess.run([*nobody, "true"], capture_output=True).returncode:
        no_namespaces = "this system allows no user namespaces"
        assert not os.environ.get("CI"), no_namespaces
        pytest.skip(no_namespaces)
    measure = [sys.executable, "-m", *MEASURE, f"--store={tmp_path / 'store.sqlite'}"]
    done = subprocess.run([*nobody, *measure], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "mobilenet_v2 on CPU: " in done.stdout and (tmp_path / "store.sqlite").exists()


def test_importing_starts_no_thread_and_reports_nothing(tmp_path):
    """The packages that programs import would report to their makers."""
    code = (
        "import experiments.runs.delivery, jaxnas.parity, os, profiling.registry; "
        "print(len(os.listdir('/proc/self/task')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={
            **os.environ,
            "HOME": str(tmp_path),
            "XDG_CACHE_HOME": "",
            "OPENBLAS_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout == "1\n"
    files = [file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.parts[:2] for file in files} <= {(".cache", "matplotlib")}  # its list of fonts


def test_who_reads_the_first_line_alone_sees_no_traceback():
    measure = shlex.join([sys.executable, "-m", *MEASURE, "--json"])
    done = subprocess.run(
        ["bash", "-c", f"{measure} | head -1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.stdout == "{\n"
    assert "Traceback" not in done.stderr and "Broken pipe" not in done.stderr


@pytest.mark.parametrize(
    "output", ["/proc/x", "{folder}", "{folder}/none/x.json", "{folder}/" + 251 * "x"]
)
def test_outputs_are_tried_before_work(tmp_path, output):
    file = output.format(folder=tmp_path)
    done = run_program(
        "profiling.tables",
        "--device=CPU",
        "--space=proxyless_tiny",
        f"--output={file}",
        timeout_s=60,
    )
    assert done.returncode == 2
    (error,) = done.stderr.splitlines()
    assert error.startswith(f"error: --output={file} cannot be written (")


def test_text_of_users_is_no_markup_and_more_threads_than_cores_are_no_obstacle(tmp_path):
    """The second call resumes the first, which asked for 64 threads and got fewer."""
    arguments = (
        "experiments.train",
        "--network=k3e3 - k3e3 k3e3 -",
        "--space=proxyless_tiny",
        "--device=CPU",
        "--threads=64",
        "--image_size=32",
        "--epochs=1",
        "--warmup_epochs=0",
        f"--workdir={tmp_path}/run [final] [/bold]",
    )
    for said in ("✓ train", "this run is done"):
        done = run_program(*arguments)
        assert done.returncode == 0 and said in done.stderr, done.stderr
        whole = done.stdout.replace("│", "").replace("\n", "").replace("  ", "")
        assert "run [final] [/bold]" in whole
