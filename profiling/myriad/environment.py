"""The Python environment in which the MyriadX compiler runs.

The last wheel with the MYRIAD plugin is openvino 2021.4.2, for CPython 3.6 to 3.9, so it cannot be
installed with the rest of the project. It has its own virtual environment in the user's cache
folder, or in the folder that `JAXNAS_MYRIAD_ENV` names. The environment is built once, at first use
or by `python -m profiling.myriad.install`.
"""

import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import TextIO

from absl import logging

from profiling.cache_folders import cache_folder
from profiling.errors import DeviceUnavailable

PINS = ("openvino==2021.4.2", "libusb-package==1.0.26.4", "numpy==1.19.5")
PYTHONS = ("3.9", "3.8")
WORKER = pathlib.Path(__file__).with_name("worker.py")

_PROBE = (
    "import ensurepip, platform, sys, venv;"
    "print(platform.python_implementation(), '%d.%d' % sys.version_info[:2], platform.machine())"
)
_PROBE_LIMIT_S = 20.0
_PIP_LIMIT_S = 1200.0
_HELLO_LIMIT_S = 120.0
_MARKER = "complete.json"


@dataclasses.dataclass(frozen=True)
class Environment:
    """A complete environment.

    Attributes:
      python: path of its interpreter.
      library_dir: folder for LD_LIBRARY_PATH, with libusb under the name that the plugin loads.
    """

    python: pathlib.Path
    library_dir: pathlib.Path

    def command(self) -> list[str]:
        """Returns the command that starts the worker.

        The interpreter is isolated (-I), since a PYTHONPATH meant for this process would break it.
        """
        paths = [str(self.library_dir), os.environ.get("LD_LIBRARY_PATH", "")]
        library_path = os.pathsep.join(path for path in paths if path)
        return ["env", f"LD_LIBRARY_PATH={library_path}", str(self.python), "-I", str(WORKER)]


def environment_dir() -> pathlib.Path:
    """Returns the folder of the environment, which need not exist yet.

    Raises:
      DeviceUnavailable: the user has no cache folder.
    """
    override = os.environ.get("JAXNAS_MYRIAD_ENV")
    if override:
        return pathlib.Path(override).expanduser().absolute()
    try:
        return cache_folder() / "myriad-2021.4.2"
    except OSError as error:
        raise DeviceUnavailable(
            f"no folder for the MyriadX compiler's environment: {error}, or JAXNAS_MYRIAD_ENV"
        ) from error


def ensure_environment(
    python: str | None = None, log: Callable[[str], None] = logging.warning
) -> Environment:
    """Returns the environment, building it first if it is not complete (about a minute).

    Args:
      python: interpreter to build on; None searches as `find_python` does.
      log: function called with one line per step.

    Raises:
      DeviceUnavailable: no suitable interpreter was found, or an installation step failed.
    """
    root = environment_dir()
    environment = Environment(root / "bin" / "python", root / "native")
    if _is_complete(root):
        return environment
    with _open_lock(root) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another process may have built it while this one waited.
        if not _is_complete(root):
            _build(root, environment, find_python(python), log)
    return environment


def install_environment(python: str | None, log: Callable[[str], None]) -> Environment:
    """Returns the environment as `ensure_environment` does, built anew if its compiler fails."""
    environment = ensure_environment(python, log)
    if not _runs(environment):
        root = environment_dir()
        log(f"the MyriadX compiler in {root} does not run")
        with _open_lock(root) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _runs(environment):  # as before another process mended it
                _build(root, environment, find_python(python), log)
    return environment


def _runs(environment: Environment) -> bool:
    """Returns whether the compiler answers; one that is only slow counts as running."""
    try:
        _hello(environment)
    except DeviceUnavailable as error:
        return isinstance(error.__cause__, subprocess.TimeoutExpired)
    except ValueError:  # no answer, or none that is JSON
        return False
    return True


def _open_lock(root: pathlib.Path) -> TextIO:
    """Opens the lock file of the folder, which is locked while the folder is built."""
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        return root.with_name(root.name + ".lock").open("w")
    except OSError as error:
        raise DeviceUnavailable(
            f"cannot install the MyriadX compiler in {root}: {error}. Set JAXNAS_MYRIAD_ENV to a "
            f"writable folder"
        ) from error


def find_python(python: str | None = None) -> str:
    """Returns a CPython 3.8 or 3.9 for x86-64 that runs and can create virtual environments.

    Searches PATH, pyenv and uv; if none of them has one, uv installs Python 3.9. Every candidate is
    run, since a name proves nothing: pyenv's shim `python3.9` exists and fails if another version
    is selected.

    Args:
      python: the only candidate; None searches.

    Raises:
      DeviceUnavailable: none was found; the message lists each candidate and its fault.
    """
    rejected = []
    for candidate in [python] if python else _candidates():
        fault = _fault(candidate)
        if fault is None:
            return candidate
        rejected.append(f"{candidate} ({fault})")
    tried = "; ".join(rejected) or "no candidates on PATH, in pyenv's versions or from uv"
    raise DeviceUnavailable(
        f"found no CPython 3.8 or 3.9 for x86-64, which openvino 2021.4.2 needs. Tried: {tried}. "
        f"Install one (for example `uv python install 3.9`) or pass --python=PATH to "
        f"python -m profiling.myriad.install"
    )


def _candidates() -> Iterator[str]:
    """Yields possible interpreters, the cheapest to find first; the last one is installed by uv."""
    for version in PYTHONS:
        for folder in os.get_exec_path():
            path = shutil.which(f"python{version}", path=folder)
            if path:
                yield path
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    for version in PYTHONS:
        yield from map(str, sorted(pyenv.glob(f"versions/{version}*/bin/python")))
    uv = shutil.which("uv")
    if uv:
        for version in PYTHONS:
            yield from _uv_find(uv, version)
        _uv(uv, "install", PYTHONS[0])
        yield from _uv_find(uv, PYTHONS[0])


def _uv_find(uv: str, version: str) -> Iterator[str]:
    """Yields uv's interpreter of this version, if uv has one."""
    found = _uv(uv, "find", version)
    if found:
        yield found


def _uv(uv: str, action: str, version: str) -> str:
    """Runs `uv python` and returns its output; none if it fails, or stalls while others wait."""
    command = [uv, "python", action, version]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout.strip()


def _fault(python: str) -> str | None:
    """Runs an interpreter and returns why it is unsuitable, or None if it is suitable."""
    try:
        probe = subprocess.run(
            [python, "-I", "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if probe.returncode:
        return f"exit status {probe.returncode}: {_last_line(probe.stderr)}"
    facts = probe.stdout.split()
    if len(facts) != 3 or facts[0] != "CPython" or facts[1] not in PYTHONS:
        return f"is {probe.stdout.strip()!r}"
    if facts[2].lower() not in ("x86_64", "amd64"):
        return f"runs on {facts[2]}, openvino 2021.4.2 is for x86-64 only"
    return None


def _is_complete(root: pathlib.Path) -> bool:
    """Returns whether the folder holds a finished environment with the versions in PINS."""
    if not (root / "bin" / "python").exists():  # also if it links to a Python since removed
        return False
    try:
        return json.loads((root / _MARKER).read_text())["pins"] == list(PINS)
    except (FileNotFoundError, KeyError, TypeError, ValueError):  # or a damaged one
        return False


def _build(
    root: pathlib.Path, environment: Environment, python: str, log: Callable[[str], None]
) -> None:
    """Builds the environment in its final folder, since it cannot be moved; the marker is last."""
    log(f"building the MyriadX compiler's environment in {root} on {python}")
    if root.exists():
        empty = root.is_dir() and not any(root.iterdir())
        if not (root / "pyvenv.cfg").exists() and not empty:
            raise DeviceUnavailable(
                f"{root} exists and is not a virtual environment; it was left unchanged. Remove "
                f"it, or set JAXNAS_MYRIAD_ENV to another folder"
            )
        shutil.rmtree(root)
    _step([python, "-I", "-m", "venv", str(root)], _PIP_LIMIT_S)
    log(f"installing {', '.join(PINS)}")
    pip = [str(environment.python), "-I", "-m", "pip", "--disable-pip-version-check", "install"]
    _step([*pip, "--quiet", *PINS], _PIP_LIMIT_S)
    find_libusb = "import libusb_package; print(libusb_package.get_library_path())"
    libusb = _step([str(environment.python), "-I", "-c", find_libusb], _PROBE_LIMIT_S).strip()
    environment.library_dir.mkdir()
    (environment.library_dir / "libusb-1.0.so.0").symlink_to(libusb)
    versions = _hello(environment)
    log(f"the compiler runs: {versions}")
    unfinished = root / (_MARKER + ".part")
    unfinished.write_text(json.dumps({"pins": PINS, "versions": versions}, indent=2) + "\n")
    unfinished.replace(root / _MARKER)


def _hello(environment: Environment) -> dict[str, str]:
    """Returns the worker's versions; this request loads the plugin and libusb."""
    line = _step(environment.command(), _HELLO_LIMIT_S, '{"id": 0, "method": "hello"}\n')
    answer = json.loads(line)
    if not answer["ok"]:
        raise DeviceUnavailable(
            f"the MyriadX compiler does not load: {answer['error']['message']}. Remove its "
            f"environment {environment.python.parent.parent} and install again"
        )
    return answer["versions"]


def _step(command: list[str], limit_s: float, stdin: str = "") -> str:
    """Runs one command and returns its output.

    Raises:
      DeviceUnavailable: the command failed or took longer than limit_s.
    """
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=limit_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceUnavailable(
            f"installing the MyriadX compiler failed: {error}. Run `python -m "
            f"profiling.myriad.install` again, with --python=PATH for another interpreter"
        ) from error
    if done.returncode:
        raise DeviceUnavailable(
            f"installing the MyriadX compiler failed: {' '.join(command)} ended with status "
            f"{done.returncode}: {done.stderr.strip()[-2000:]}. PyPI, or the index that pip is "
            f"configured for, must be reachable"
        )
    return done.stdout


def _last_line(text: str) -> str:
    """Returns the last line of a program's error output."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"
