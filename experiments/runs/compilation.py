"""What is compiled is kept, for the next start: by JAX, and here as programs ready to run.

JAX finds a compiled program again by what it was lowered to, so that a start still traces and
lowers everything: most of the time until the first step. Steps are therefore kept a second time,
under what they are made of, and a start like one before only loads them.
"""

import concurrent.futures
import dataclasses
import hashlib
import importlib.metadata
import math
import os
import pathlib
import pickle
import platform
import stat
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import logging
from jax.experimental import serialize_executable

import jaxnas
from profiling.user_folders import cache_folder

Tick = Callable[[float, str], None]  # of a fraction done, and what is being done

# XLA's compilation against tracing and lowering of the same programs, on CPU: for time left alone.
_COMPILE_TO_TRACE = 7.0
_FOLDER = "steps"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def keep_compiled_programs() -> None:
    """Lets JAX keep what it compiled, so that the next start of a like run takes seconds.

    Where the user's cache cannot be written, what it has is used all the same.
    """
    # jax2onnx compiles dozens of small programs at its start, a tenth of a second each.
    least_s = 0.05
    if jax.config.jax_compilation_cache_dir is None:  # $JAX_COMPILATION_CACHE_DIR
        cache = None
        try:
            cache = cache_folder() / "xla"
            cache.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=cache).close()
        except OSError as error:
            logging.warning("compiled programs are not kept for the next start: %s", error)
            if cache is None or not cache.is_dir():
                return
            least_s = math.inf
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least_s)


class Step:
    """A compiled step. While another thread still loads or compiles it, a call waits."""

    def __init__(self, program: concurrent.futures.Future[jax.stages.Compiled]):
        self._program = program

    def __call__(self, *arguments: object) -> Any:
        return self._program.result()(*arguments)

    @property
    def is_ready(self) -> bool:
        return self._program.done()

    def wait(self, tick: Callable[[], None] = lambda: None) -> jax.stages.Compiled:
        """The program itself; `tick` is called five times a second until it is there."""
        while not self._program.done():
            tick()
            concurrent.futures.wait([self._program], timeout=0.2)
        return self._program.result()


def compiled_steps(
    steps: Mapping[str, tuple[jax.stages.Wrapped, tuple]], made_of: object, tick: Tick
) -> dict[str, Step]:
    """The steps, compiled: loaded, where equal ones are kept beside JAX's compiled programs.

    The first is ready. The others may be under way still, by other threads, where one process
    computes on CPUs: a run takes the first alone for a while. Elsewhere they are ready, too, for
    what is compiled for an accelerator is timed on it, and processes compile together.

    Args:
      steps: by name, the jitted function and its arguments or their `jax.ShapeDtypeStruct`s.
      made_of: all that the functions close over, told apart by its `repr`. Versions, the source
        of `jaxnas`, JAX's configuration, the devices and the machine are seen to here; what a
        context manager sets of it reaches the first step alone.
      tick: called five times a second, so that bars move and Control-C is heard.
    """
    files = {name: _file(name, arguments, made_of) for name, (_, arguments) in steps.items()}
    kept = [name for name, file in files.items() if file is not None and file.exists()]
    # One compiles while the next is traced; two that compile at once take 5 GB and save little.
    making = _Making(threading.Lock(), threading.Lock())
    pool = concurrent.futures.ThreadPoolExecutor(len(steps))
    first, *others = steps
    compiled, lowered, expected_s, start = {}, None, 0.0, time.monotonic()
    if first not in kept:
        tick(0.0, f"tracing the {first} step")
        lowered = steps[first][0].lower(*steps[first][1])
        expected_s = (time.monotonic() - start) * _COMPILE_TO_TRACE

    def wait(name: str) -> None:
        doing = f"{'loading' if name in kept else 'compiling'} the {name} step"
        compiled[name].wait(
            lambda: tick(
                min(0.98, (time.monotonic() - start) / expected_s) if expected_s else 0.0, doing
            )
        )

    alone = jax.process_count() == 1 and jax.default_backend() == "cpu"
    compiled[first] = Step(pool.submit(making.step, *steps[first], files[first], lowered))
    for name in others:
        if not alone:
            wait([*compiled][-1])  # processes must compile in one order
        compiled[name] = Step(pool.submit(making.step, *steps[name], files[name]))
    pool.shutdown(wait=False)
    wait(first if alone else [*compiled][-1])
    return compiled


@dataclasses.dataclass(frozen=True)
class _Making:
    """Of steps by several threads, of which one traces and one compiles."""

    tracing: threading.Lock
    compiling: threading.Lock

    def step(
        self,
        function: jax.stages.Wrapped,
        arguments: tuple,
        file: pathlib.Path | None,
        lowered: jax.stages.Lowered | None = None,
    ) -> jax.stages.Compiled:
        """The program: loaded, or made, from where that has come to."""
        program = _load(file) if lowered is None and file is not None and file.exists() else None
        if program is None:
            with self.tracing:
                lowered = lowered or function.lower(*arguments)
            with self.compiling:
                program = _compile(lowered, file)
        return program


def readiness(compiled: Mapping[str, Step]) -> str:
    """Which of the steps are ready, and which come later, for people."""
    ready = ", ".join(name for name, step in compiled.items() if step.is_ready)
    later = ", ".join(name for name, step in compiled.items() if not step.is_ready)
    return f"the steps: {ready}" + (f"; {later} meanwhile" if later else "")


def _compile(lowered: jax.stages.Lowered, file: pathlib.Path | None) -> jax.stages.Compiled:
    """The program, which is kept where XLA compiled it now. What JAX's cache gave must not be: XLA
    for CPUs leaves out functions where it writes a program that it has read (jaxlib 0.10.2)."""
    found, here = [], threading.get_ident()

    def hear(event: str, **_: object) -> None:
        if event == "/jax/compilation_cache/cache_hits" and threading.get_ident() == here:
            found.append(event)

    jax.monitoring.register_event_listener(hear)
    try:
        program = lowered.compile()
    finally:
        jax.monitoring.unregister_event_listener(hear)
    if file is not None and not found:
        _keep(program, file)
    return program


def _file(name: str, arguments: tuple, made_of: object) -> pathlib.Path | None:
    """Where the program is kept; None where programs are not."""
    folder = jax.config.jax_compilation_cache_dir
    if folder is None or not jax.config.jax_enable_compilation_cache or jax.process_count() > 1:
        return None
    leaves, structure = jax.tree.flatten(arguments)
    sources = pathlib.Path(jaxnas.__file__).parent
    what = (
        name,
        repr(made_of),
        str(structure),
        [(leaf.shape, str(leaf.dtype), str(getattr(leaf, "sharding", None))) for leaf in leaves],
        [(package, importlib.metadata.version(package)) for package in _PACKAGES],
        [
            (str(path.relative_to(sources)), path.read_bytes())
            for path in sorted(sources.rglob("*.py"))
        ],
        sorted((key, str(value)) for key, value in jax.config.values.items() if "cache" not in key),
        os.environ.get("XLA_FLAGS"),
        platform.python_version(),
        _processor(),
        [(device.platform, device.device_kind, device.id) for device in jax.devices()],
        jax.devices()[0].client.platform_version,
    )
    key = hashlib.sha256(repr(what).encode()).hexdigest()[:32]
    return pathlib.Path(folder) / _FOLDER / f"{name}-{key}"


def _processor() -> str:
    """What the processor can do, which programs for it are compiled for."""
    info = pathlib.Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    return "".join(
        line
        for line in info.read_text().split("\n\n")[0].splitlines()
        if line.startswith(("model name", "flags", "Features", "CPU part"))
    )


def _load(file: pathlib.Path) -> jax.stages.Compiled | None:
    """The program; None, and said so, where it is not to be trusted or damaged.

    It is then made anew.
    """
    try:
        for path in (file.parent, file):
            _check_owner(path)
        return serialize_executable.deserialize_and_load(
            *pickle.loads(zlib.decompress(file.read_bytes()))
        )
    except Exception as error:  # whatever unpickling or XLA makes of damaged bytes
        logging.warning(
            "%s cannot be loaded and is compiled anew: %s: %s", file, type(error).__name__, error
        )
        return None


def _check_owner(path: pathlib.Path) -> None:
    """Raises PermissionError where others may write: a pickle of theirs could run anything."""
    info = path.stat()
    if info.st_uid not in (0, os.getuid()) or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(
            f"others than this user may write {path}; remove it, or take that "
            f"from them by chmod go-w"
        )


def _keep(program: jax.stages.Compiled, file: pathlib.Path) -> None:
    """Writes the program whole or not at all; where it cannot be written, that is said."""
    content = zlib.compress(pickle.dumps(serialize_executable.serialize(program)), 1)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, path = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        os.replace(path, file)
    except OSError as error:
        logging.warning("%s is not kept for the next start: %s", file.name, error)
