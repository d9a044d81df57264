"""How every program here starts and ends: exit status 0 done, 1 failed, 2 wrong usage."""

import contextlib
import errno
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence

from absl import app, flags, logging

from profiling.database import Store, StoreError, StoreUnwritable
from profiling.device import MAX_SHAVES, Options
from profiling.errors import CompileError, DeviceUnavailable
from profiling.myriad import remote
from profiling.registry import DEVICES
from profiling.user_folders import data_folder

FAILED, WRONG_USAGE = 1, 2


def _parse(argv: Sequence[str], actions: Sequence[str], files: str | None) -> list[str]:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal of few characters ends no run
    if {"--help", "-h", "--helpfull"} & set(argv[1:]):
        # absl's own --help lists the flags of one module and exits with 1.
        print(f"{(sys.modules['__main__'].__doc__ or '').strip()}\n{_help()}")
        sys.exit(0)
    flags.FLAGS.set_gnu_getopt(True)  # flags may come behind the action
    try:
        _check_flag_files(argv[1:])
        rest = flags.FLAGS(list(argv))
    except (flags.Error, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_USAGE)
    if actions and (len(rest) == 1 or rest[1] not in actions):
        print(
            f"error: give one of {', '.join(actions)} (--help says what each does)", file=sys.stderr
        )
        sys.exit(WRONG_USAGE)
    if files is not None and len(rest) == 1:
        print(f"error: give {files} (--help says more)", file=sys.stderr)
        sys.exit(WRONG_USAGE)
    if files is None and len(rest) > 1 + bool(actions):
        print(
            f"error: unexpected argument {rest[-1]!r}; flags are given as --name=value "
            f"(--help lists them)",
            file=sys.stderr,
        )
        sys.exit(WRONG_USAGE)
    # JAX, jax2onnx and others tell their every step at INFO.
    logging.set_verbosity(logging.WARNING)
    return rest


def _check_flag_files(arguments: Sequence[str]) -> None:
    """Raises ValueError where a file of flags, or one that it names, is no UTF-8 text."""
    seen, names = set(), [*arguments]
    while names:
        flag, given, name = names.pop().strip().partition("flagfile=")
        if flag not in ("-", "--") or not given or name in seen:
            continue
        seen.add(name)
        try:
            text = pathlib.Path(name).expanduser().read_bytes().decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"--flagfile={name} is no UTF-8 text ({error.reason} at byte "
                f"{error.start}); save it as that"
            ) from error
        except OSError as error:
            raise ValueError(f"--flagfile={name} cannot be read: {error.strerror}") from error
        if text.startswith("\ufeff"):
            raise ValueError(
                f"--flagfile={name} begins with a byte order mark; save it as UTF-8 without one"
            )
        names += text.splitlines()


def _help() -> str:
    """The flags of this project's modules, and not those of libraries."""
    ours = [
        module
        for module in flags.FLAGS.flags_by_module_dict()
        if module.split(".")[0] in ("experiments", "profiling") or module == sys.argv[0]
    ]
    return "\n".join(
        [
            *map(flags.FLAGS.module_help, ours),
            "  --flagfile: A file of flags, one a line; later flags win.",
        ]
    )


def run(
    main: Callable[[Sequence[str]], int | None],
    actions: Sequence[str] = (),
    files: str | None = None,
) -> None:
    """`app.run` with this project's exit statuses; a wrong flag is one line, not a page.

    Args:
      main: gets the program's name and, where it has actions, the one asked for.
      actions: words of which the command line must have one.
      files: what else it must name, one or more, for people; None where it names nothing.
    """

    def to_the_end(argv: Sequence[str]) -> int | None:
        try:
            status = main(argv)
            sys.stdout.flush()
        except BrokenPipeError:
            # Who read the output wants no more of it, as in `... | head -1`.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = FAILED
        return status

    app.run(to_the_end, flags_parser=lambda argv: _parse(argv, actions, files))


def define_device_flags() -> None:
    """Defines --device and what may be asked of it."""
    flags.DEFINE_string(
        "device",
        "MYRIADX_COMPILER",
        f"Where latency comes from: "
        f"{', '.join(DEVICES)}, or a comma-separated list, of which the first "
        f"that is there is taken. MYRIAD.<port>-ma2480, OAK.<id> and GPU.<n> "
        f"choose one of several.",
    )
    define_option_flags()


def define_option_flags() -> None:
    """Defines what may be asked of a device: the fields of `Options`."""
    flags.DEFINE_integer(
        "shaves",
        None,
        "MyriadX SHAVE processors to compile for, 1 to 16; unset "
        "is the compiler's own choice, and 6 on an OAK.",
        lower_bound=1,
        upper_bound=MAX_SHAVES,
    )
    flags.DEFINE_integer(
        "threads", None, "Threads of the CPU; unset is OpenVINO's own choice.", lower_bound=1
    )
    flags.DEFINE_string(
        "worker_prefix",
        None,
        "Command that runs the MyriadX worker on another "
        "host, such as 'ssh lab-pi'; `python -m profiling.myriad.install` with it "
        "prepares that host.",
    )


def device_options() -> Options:
    """The flags of `define_option_flags` as given; raises ValueError for a prefix that is none."""
    args = flags.FLAGS
    if args.worker_prefix is not None:
        remote.command(args.worker_prefix)
    return Options(args.shaves, args.threads, args.worker_prefix)


def define_store_flag() -> None:
    """Defines --store."""
    flags.DEFINE_string(
        "store",
        None,
        "File that keeps every measurement (SQLite); unset is "
        "$JAXNAS_STORE or else jaxnas/measurements.sqlite in $XDG_DATA_HOME "
        "(~/.local/share).",
    )


def open_store(name: str | None, *, create: bool = True) -> Store:
    """The store that a --store of this value names; raises as `Store` does.

    A program that records does so in memory where the user named no store and the usual one cannot
    be written; it says so.
    """
    name = name or os.environ.get("JAXNAS_STORE")
    if name:
        return Store(pathlib.Path(name), create=create)
    try:
        return Store(data_folder() / "measurements.sqlite", create=create)
    except (StoreUnwritable, OSError) as error:
        if not create:
            raise StoreError(str(error)) from error
        logging.warning("measurements are not kept: %s", error)
        return Store(None)


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Around the checking of a user's input, which ends the program with one line and 2.

    It is wrong where that raises ValueError, or OSError of a path that the user named.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        named = isinstance(error, OSError) and error.filename is not None
        said = f"{error.filename}: {error.strerror}" if named else error
        print(f"error: {said}", file=sys.stderr)
        sys.exit(WRONG_USAGE)


def check_output(flag: str, file: pathlib.Path) -> None:
    """Raises ValueError where a file that a flag names could not be written at the end."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise ValueError(
            f"--{flag}={file} cannot be written ({error.strerror}); give a file in a "
            f"folder that can be"
        ) from error


@contextlib.contextmanager
def device_errors() -> Iterator[None]:
    """Around work on a device: what device and store say ends the program, without a traceback.

    A network the compiler refuses is the user's input (2); a device that is not there is not (1),
    nor is a damaged store.
    """
    try:
        yield
    except CompileError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_USAGE)
    except (DeviceUnavailable, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(FAILED)
