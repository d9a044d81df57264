"""Installs the environment of the MyriadX worker, with OpenVINO 2021.4.2.

    python -m profiling.myriad.install [--python=PATH | --worker_prefix="ssh lab-pi"]

Exit status: 0 installed now or before, 1 failed installation, 2 wrong usage.
"""

from collections.abc import Sequence

from absl import flags

from profiling import command
from profiling.myriad import remote
from profiling.myriad.client import Worker
from profiling.myriad.environment import install_environment


def main(argv: Sequence[str]) -> int:
    """Installs the environment and prints its interpreter, or the versions on another host."""
    del argv
    args = flags.FLAGS
    with command.usage_errors(), command.device_errors():
        if args.python and args.worker_prefix:
            raise ValueError(
                "--python is for this host alone; give either --python or --worker_prefix"
            )
        if args.worker_prefix is None:
            print(f"ready: {install_environment(args.python, print).python}")
            return 0
        remote.install(args.worker_prefix, log=print)
        with Worker(prefix=args.worker_prefix) as worker:
            print(f"ready: {worker.hello()}")
    return 0


if __name__ == "__main__":
    flags.DEFINE_string(
        "python",
        None,
        "CPython 3.8 or 3.9 to build on. If unset, it is searched on PATH, in pyenv and in uv, "
        "which installs 3.9 if there is none. Ignored if the environment exists and works.",
    )
    flags.DEFINE_string(
        "worker_prefix",
        None,
        "Command that runs another command on the host to install on, such as 'ssh lab-pi'. Python "
        "is searched on that host's PATH and in its pyenv.",
    )
    command.run(main)
