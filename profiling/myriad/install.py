"""Installs the MyriadX compiler.

    python -m profiling.myriad.install [--python=PATH]

Exit status: 0 installed (or it was already), 1 it could not be.
"""

import sys

from absl import app, flags

from profiling.errors import DeviceUnavailable
from profiling.myriad.environment import ensure_environment

_PYTHON = flags.DEFINE_string(
    "python",
    None,
    "CPython 3.8 or 3.9 to build on. Unset: PATH, pyenv and uv are looked through. Without effect "
    "where the environment is complete.",
)


def main(argv: list[str]) -> None:
    """Installs and prints where."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    try:
        environment = ensure_environment(_PYTHON.value, log=print)
    except DeviceUnavailable as error:
        sys.exit(str(error))
    print(f"ready: {environment.python}")


if __name__ == "__main__":
    app.run(main)
