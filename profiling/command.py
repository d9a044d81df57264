"""Start and end of every program, and flags that several share.

Exit status 0 is done, 1 failed, 2 wrong usage. Importing this module needs neither ONNX nor
OpenVINO, so that the benchmark runs without them.
"""

import contextlib
import errno
import io
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from absl import app, flags, logging

from profiling.cache_folders import data_folder
from profiling.device import MAX_SHAVES, Options
from profiling.errors import CompileError, DeviceUnavailable
from profiling.myriad import remote

if TYPE_CHECKING:
    from profiling.database import Store

FAILED, WRONG_USAGE = 1, 2
MOST_DAYS = 36_500  # of a flag; dates have an end


def _parse(argv: Sequence[str], actions: Sequence[str], files: str | None) -> list[str]:
    """Parses the flags and returns the other arguments; exits with 2 if any of them is wrong."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # no crash where the encoding lacks a character
    if {"--help", "-h", "--helpfull"} & set(argv[1:]):
        # absl's own --help lists the flags of one module only and exits with 1.
        sys.exit(_flushed(lambda: print(f"{sys.modules['__main__'].__doc__}\n{_help()}")) or 0)
    flags.FLAGS.set_gnu_getopt(True)  # flags may follow the action
    try:
        _check_flag_files(argv[1:])
        rest = flags.FLAGS(list(argv))
        _expand_home()
    except (flags.Error, RuntimeError, ValueError) as error:  # RuntimeError: no home is known
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_USAGE)
    if actions and (len(rest) == 1 or rest[1] not in actions):
        print(f"error: give one of {', '.join(actions)} (see --help)", file=sys.stderr)
        sys.exit(WRONG_USAGE)
    if files is not None and len(rest) == 1:
        print(f"error: give {files} (see --help)", file=sys.stderr)
        sys.exit(WRONG_USAGE)
    if files is None and len(rest) > 1 + bool(actions):
        print(
            f"error: unexpected argument {rest[-1]!r}; flags are given as --name=value "
            f"(--help lists them)",
            file=sys.stderr,
        )
        sys.exit(WRONG_USAGE)
    # JAX, jax2onnx and other libraries log every step at INFO.
    logging.set_verbosity(logging.WARNING)
    return rest


def expanded_home(text: str) -> str:
    """Returns a flag's value with ~/ at its start replaced: shells leave it after `=`."""
    return str(pathlib.Path(text).expanduser()) if text.startswith("~/") else text


def _expand_home() -> None:
    """Replaces ~/ at the start of the values of all flags, also of flag files."""

    def expanded(value: object) -> object:
        if isinstance(value, list):
            return [expanded(one) for one in value]
        return expanded_home(value) if isinstance(value, str) else value

    for flag in (flags.FLAGS[name] for name in flags.FLAGS):
        if (value := expanded(flag.value)) != flag.value:
            flag.value = value


def _check_flag_files(arguments: Sequence[str]) -> None:
    """Raises ValueError if a flag file, or one that it includes, is not readable UTF-8 text."""
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
                f"--flagfile={name} is not UTF-8 text ({error.reason} at byte "
                f"{error.start}); save it as UTF-8"
            ) from error
        except OSError as error:
            raise ValueError(f"--flagfile={name} cannot be read: {error.strerror}") from error
        if text.startswith("\ufeff"):
            raise ValueError(
                f"--flagfile={name} begins with a byte order mark; save it as UTF-8 without one"
            )
        names += text.splitlines()


def _help() -> str:
    """Returns the help of this project's flags, without those of libraries."""
    ours = [
        module
        for module in flags.FLAGS.flags_by_module_dict()
        if module.split(".")[0] in ("experiments", "profiling") or module == sys.argv[0]
    ]
    return "\n".join(
        [
            *map(flags.FLAGS.module_help, ours),
            "  --flagfile: A file of flags, one per line; later flags win.",
        ]
    )


def run(
    main: Callable[[Sequence[str]], int | None],
    actions: Sequence[str] = (),
    files: str | None = None,
) -> None:
    """Runs a program as `app.run` does, with this project's exit statuses and one-line errors.

    Args:
      main: function that takes the program's name followed by the action or the files.
      actions: allowed actions, one of which the command line must contain; empty for none.
      files: description of the files that the command line must contain, for the error message;
        None if it takes no files.
    """

    app.run(
        lambda argv: _flushed(lambda: main(argv)),
        flags_parser=lambda argv: _parse(argv, actions, files),
    )


def _flushed(work: Callable[[], int | None]) -> int | None:
    """Returns the status of `work`, or FAILED if the reader of standard output has closed it."""
    try:
        status = work()
        sys.stdout.flush()
    except BrokenPipeError:  # as in `... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = FAILED
    return status


def define_device_flags() -> None:
    """Defines --device and the flags of `define_option_flags`."""
    from profiling.registry import DEVICES

    flags.DEFINE_string(
        "device",
        "MYRIADX_COMPILER",
        f"Device that latency is measured or estimated for: {', '.join(DEVICES)}, or a "
        f"comma-separated list, of which the first available one is used. MYRIAD.<port>-ma2480, "
        f"OAK.<id> and GPU.<n> select one of several.",
    )
    define_option_flags()


def define_option_flags() -> None:
    """Defines the flags of the fields of `Options`."""
    flags.DEFINE_integer(
        "shaves",
        None,
        "Number of MyriadX SHAVE processors to compile for, 1 to 16; unset leaves it to the "
        "compiler, and is 6 on an OAK.",
        lower_bound=1,
        upper_bound=MAX_SHAVES,
    )
    flags.DEFINE_integer(
        "threads", None, "Number of CPU threads; unset leaves it to OpenVINO.", lower_bound=1
    )
    flags.DEFINE_string(
        "worker_prefix",
        None,
        "Command that runs the MyriadX worker on another host, such as 'ssh lab-pi'; "
        "`python -m profiling.myriad.install` with the same flag prepares that host.",
    )


def device_options() -> Options:
    """Returns the values of the option flags; raises ValueError if the prefix is not a command."""
    args = flags.FLAGS
    if args.worker_prefix is not None:
        remote.command(args.worker_prefix)
    return Options(args.shaves, args.threads, args.worker_prefix)


def define_store_flag() -> None:
    """Defines --store."""
    flags.DEFINE_string(
        "store",
        None,
        "SQLite file that stores every measurement; unset is $JAXNAS_STORE, else "
        "jaxnas/measurements.sqlite in $XDG_DATA_HOME (~/.local/share).",
    )


def open_store(name: str | None, *, create: bool = True) -> "Store":
    """Opens the store for a value of --store; raises as `Store` does.

    If the user named no store, the default one cannot be written and `create` is true, warns and
    returns a store in memory.
    """
    from profiling.database import Store, StoreError, StoreUnwritable

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
    """Exits with status 2 and one line on ValueError or OSError; encloses checks of user input."""
    try:
        yield
    except (ValueError, OSError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            message = f"{error.filename}: {error.strerror}"
        print(f"error: {message}", file=sys.stderr)
        sys.exit(WRONG_USAGE)


def output_folder(flag: str, name: str) -> pathlib.Path:
    """Returns the folder that a flag names, created; raises ValueError if none can be written."""
    folder = pathlib.Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"--{flag}={folder} cannot be written ({error.strerror}); name another folder"
        ) from error
    return folder


def check_output(flag: str, file: pathlib.Path) -> None:
    """Raises ValueError if the output file that a flag names cannot be written."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise ValueError(
            f"--{flag}={file} cannot be written ({error.strerror}); give a file in a "
            f"writable folder"
        ) from error


@contextlib.contextmanager
def device_errors() -> Iterator[None]:
    """Ends the program with one line on device and store errors; encloses work on a device.

    The status is 2 if the compiler refuses the network, which is user input, and 1 if the device
    is unavailable or the store cannot be used.
    """
    from profiling.database import StoreError

    try:
        yield
    except CompileError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_USAGE)
    except (DeviceUnavailable, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(FAILED)
