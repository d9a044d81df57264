"""Installs the MyriadX worker: OpenVINO 2021.4.2 in an environment of its own.

    python -m profiling.myriad.install [--python=PATH | --worker_prefix="ssh lab-pi"]

Exit status: 0 installed (or it was already), 1 it could not be.
"""

import sys

from absl import app, flags

from profiling.errors import DeviceUnavailable
from profiling.myriad import remote
from profiling.myriad.client import Worker
from profiling.myriad.environment import ensure_environment

_PYTHON = flags.DEFINE_string(
    "python",
    None,
    "CPython 3.8 or 3.9 to build on. Unset: PATH, pyenv and uv are looked through. Without effect "
    "where the environment is complete.",
)
_WORKER_PREFIX = flags.DEFINE_string(
    "worker_prefix",
    None,
    "Command that runs a command on another host, such as 'ssh lab-pi': installs there. Python is "
    "looked for on PATH and in pyenv.",
)


def main(argv: list[str]) -> None:
    """Installs and prints where."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    if _PYTHON.value and _WORKER_PREFIX.value:
        raise app.UsageError(
            "--python chooses an interpreter of this host; without --worker_prefix, please"
        )
    try:
        if _WORKER_PREFIX.value is None:
            print(f"ready: {ensure_environment(_PYTHON.value, log=print).python}")
            return
        remote.install(_WORKER_PREFIX.value, log=print)
        with Worker(prefix=_WORKER_PREFIX.value) as worker:
            print(f"ready: {worker.hello()}")
    except DeviceUnavailable as error:
        sys.exit(str(error))
    except ValueError as error:
        raise app.UsageError(str(error)) from error


if __name__ == "__main__":
    app.run(main)
