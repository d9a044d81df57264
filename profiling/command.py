"""How every program here starts and ends: exit status 0 done, 1 failed, 2 wrong usage."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

from absl import app, flags, logging

from profiling.device import DEVICES
from profiling.errors import CompileError, DeviceUnavailable
from profiling.measurement import MAX_SHAVES, Options

FAILED, WRONG_USAGE = 1, 2


def _parse(argv: Sequence[str]) -> list[str]:
    if {"--help", "-h", "--helpfull"} & set(argv[1:]):
        # absl's own --help lists the flags of one module and exits with 1.
        print(f"{(sys.modules['__main__'].__doc__ or '').strip()}\n{_help()}")
        sys.exit(0)
    try:
        rest = flags.FLAGS(list(argv))
    except flags.Error as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_USAGE)
    if len(rest) > 1:
        print(f"error: unexpected argument {rest[1]!r}; flags are given as --name=value "
              f"(--help lists them)", file=sys.stderr)
        sys.exit(WRONG_USAGE)
    # JAX, jax2onnx and others tell their every step at INFO.
    logging.set_verbosity(logging.WARNING)
    return rest


def _help() -> str:
    """The flags of this project's modules, and not those of libraries."""
    ours = [module for module in flags.FLAGS.flags_by_module_dict()
            if module.split(".")[0] in ("experiments", "profiling") or module == sys.argv[0]]
    return "\n".join([*map(flags.FLAGS.module_help, ours),
                      "  --flagfile: A file of flags, one a line; later flags win."])


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """`app.run` with this project's exit statuses; a wrong flag is one line, not a page."""
    app.run(main, flags_parser=_parse)


def define_device_flags() -> None:
    """Defines --device and what may be asked of it: the fields of `Options`."""
    flags.DEFINE_string("device", "MYRIADX_COMPILER", f"Where latency comes from: "
                        f"{', '.join(DEVICES)}, or a comma-separated list, of which the first "
                        f"that is there is taken.")
    flags.DEFINE_integer("shaves", None, "MyriadX SHAVE processors to compile for, 1 to 16; unset "
                         "is the compiler's own choice.", lower_bound=1, upper_bound=MAX_SHAVES)
    flags.DEFINE_integer("threads", None, "Threads of the CPU; unset is OpenVINO's own choice.",
                         lower_bound=1)
    flags.DEFINE_string("worker_prefix", None, "Command that runs the MyriadX worker on another "
                        "host, such as 'ssh lab-pi'.")


def device_options() -> Options:
    """The flags of `define_device_flags` as given."""
    args = flags.FLAGS
    return Options(args.shaves, args.threads, args.worker_prefix)


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Around the checking of a user's input: a ValueError ends the program with one line and 2."""
    try:
        yield
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_USAGE)


@contextlib.contextmanager
def device_errors() -> Iterator[None]:
    """Around work on a device: what the device says ends the program, without a traceback.

    A network the compiler refuses is the user's input (2); a device that is not there is not (1).
    """
    try:
        yield
    except CompileError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_USAGE)
    except DeviceUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(FAILED)
