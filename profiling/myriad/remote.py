"""The worker on another host, reached by a command such as `ssh lab-pi`.

The command runs only `sh` on that host, so that no shell on the way can break any quoting. The
standard input of sh carries a script that finds an interpreter and executes it, with the source of
worker.py as its program. After that, the same pipe carries the requests.

The interpreter is that of the environment which `python -m profiling.myriad.install
--worker_prefix=...` builds on the host (`~/.cache/jaxnas/myriad-2021.4.2`, or the folder that
JAXNAS_MYRIAD_ENV names on that host). Where that cannot import openvino.inference_engine, it is the
first of python3.9, python3.8 and python3 that can. This serves hosts for which PyPI has no openvino
2021.4.2, such as a Raspberry Pi, where Intel's archive and its setupvars.sh provide it.

Log in with a key, since there is no prompt for a password. The worker ends with the connection.
"""

import shlex
import subprocess
from collections.abc import Callable

from profiling.errors import DeviceUnavailable
from profiling.myriad.environment import PINS, WORKER

READY = b"the worker starts"

_INSTALL_LIMIT_S = 1800.0
_STDERR_TAIL = 2000

_ROOT = 'root="${JAXNAS_MYRIAD_ENV:-${XDG_CACHE_HOME:-$HOME/.cache}/jaxnas/myriad-2021.4.2}"'

_START = """
if "$root/bin/python" -I -c 'import openvino.inference_engine' </dev/null >/dev/null 2>&1; then
    LD_LIBRARY_PATH="$root/native${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export LD_LIBRARY_PATH
    exec "$root/bin/python" -I -c "$worker"
fi
for python in python3.9 python3.8 python3; do
    "$python" -c 'import openvino.inference_engine' </dev/null >/dev/null 2>&1 &&
        exec "$python" -c "$worker"
done
echo "none of $root/bin/python, python3.9, python3.8 and python3 can import" \\
    "openvino.inference_engine" >&2
exit 127
"""

_INSTALL = """
set -e
if [ ! -x "$root/bin/python" ]; then
    if [ -e "$root" ] && [ ! -e "$root/pyvenv.cfg" ]; then
        echo "$root exists and is not a virtual environment; it was left unchanged" >&2
        exit 1
    fi
    for python in python3.9 python3.8 "$HOME"/.pyenv/versions/3.9*/bin/python \\
            "$HOME"/.pyenv/versions/3.8*/bin/python none; do
        "$python" -I -c 'import ensurepip, venv' </dev/null >/dev/null 2>&1 && break
    done
    if [ "$python" = none ]; then
        echo "no CPython 3.9 or 3.8 with venv on PATH or in ~/.pyenv/versions" >&2
        exit 1
    fi
    case "$(uname -m)" in x86_64 | amd64) ;; *)
        echo "this host is $(uname -m), and the pinned openvino is for x86-64" >&2
        exit 1 ;;
    esac
    "$python" -I -m venv "$root" </dev/null
    made=yes
fi
python="$root/bin/python"
"$python" -I -m pip --version </dev/null >/dev/null 2>&1 ||
    "$python" -I -m ensurepip </dev/null >/dev/null
"$python" -I -m pip --disable-pip-version-check install --quiet $pins </dev/null || {
    [ -z "${made:-}" ] || rm -rf "$root"
    exit 1
}
mkdir -p "$root/native"
libusb=$("$python" -I -c 'import libusb_package; print(libusb_package.get_library_path())')
ln -sf "$libusb" "$root/native/libusb-1.0.so.0"
echo "$python"
"""


def command(prefix: str) -> list[str]:
    """Returns the command that runs sh on another host.

    Raises:
      ValueError: the prefix is empty or has an unclosed quotation.
    """
    try:
        parts = shlex.split(prefix)
    except ValueError as error:
        raise ValueError(
            f"worker_prefix is {prefix!r}: {error}; give a command such as 'ssh lab-pi'"
        ) from error
    if not parts:
        raise ValueError("worker_prefix is empty; give a command such as 'ssh lab-pi', or omit it")
    return [*parts, "sh"]


def start() -> bytes:
    """Returns the script that makes sh execute the worker; the worker then prints the line READY.

    Nothing else may be sent before that line, since a shell may read ahead of what it executes.
    """
    source = f"print({READY.decode()!r}, flush=True)\n{WORKER.read_text()}"
    return _script(f"worker={shlex.quote(source)}", _START)


def install(prefix: str, log: Callable[[str], None]) -> None:
    """Installs the worker's environment on another host; about a minute, less if it exists.

    Args:
      prefix: command that runs another command on that host, as for `command`.
      log: function called with one line per step.

    Raises:
      ValueError: the prefix is not a command.
      DeviceUnavailable: the installation failed; the message has the error output of the host.
    """
    shell = command(prefix)
    log(f"installing {', '.join(PINS)} by {prefix}")
    try:
        done = subprocess.run(
            shell,
            input=_script(f"pins={shlex.quote(' '.join(PINS))}", _INSTALL),
            capture_output=True,
            timeout=_INSTALL_LIMIT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceUnavailable(f"installing by {prefix} failed: {error}") from error
    if done.returncode:
        raise DeviceUnavailable(
            f"installing by {prefix} ended with status {done.returncode}: "
            f"{done.stderr.decode(errors='replace').strip()[-_STDERR_TAIL:]}. The host needs "
            f"CPython 3.9 or 3.8 for x86-64, a login without a password, and access to PyPI"
        )
    log(f"interpreter: {done.stdout.decode(errors='replace').strip()}")


def _script(assignment: str, body: str) -> bytes:
    """Returns a compound command, which a shell reads completely before it executes any of it."""
    return f"{{\n{_ROOT}\n{assignment}\n{body}\n}}\n".encode()
