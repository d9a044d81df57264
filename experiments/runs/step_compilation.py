"""Compiled steps, cached on disk so that the next start only loads them.

JAX's own cache finds a program by its lowered form, so a start still traces and lowers every step,
which is most of the time until the first step. This module therefore stores each compiled step a
second time, under a hash of everything that determines it.
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
from profiling.cache_folders import cache_folder

Tick = Callable[[float, str], None]  # takes the fraction done and a description of the work

# XLA's compile time over the time to trace and lower a program, on CPU; for the progress bar.
_COMPILE_TO_TRACE = 7.0
_FOLDER = "steps"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def keep_compiled_programs() -> None:
    """Enables JAX's persistent compilation cache, so that the next start of a run takes seconds.

    A cache folder that cannot be written is still read.
    """
    # jax2onnx compiles dozens of small programs when it starts, 0.1 s each.
    least_s = 0.05
    if jax.config.values["jax_compilation_cache_dir"] is None:  # $JAX_COMPILATION_CACHE_DIR
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
    """A compiled step; a call waits while another thread still loads or compiles it."""

    def __init__(self, program: concurrent.futures.Future[jax.stages.Compiled]):
        self._program = program

    def __call__(self, *arguments: object) -> Any:
        return self._program.result()(*arguments)

    @property
    def is_ready(self) -> bool:
        """Whether a call need not wait."""
        return self._program.done()

    def wait(self, tick: Callable[[], None] = lambda: None) -> jax.stages.Compiled:
        """Waits for the program and returns it; calls `tick` five times a second meanwhile."""
        while not self._program.done():
            tick()
            concurrent.futures.wait([self._program], timeout=0.2)
        return self._program.result()


def compiled_steps(
    steps: Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]], made_of: object, tick: Tick
) -> dict[str, Step]:
    """Compiles the steps, or loads those that are stored beside JAX's compilation cache.

    The first step is ready on return. With one process on CPUs the other steps may still be
    compiling in other threads, because a run uses only the first for a while. Otherwise all are
    ready: compilation for an accelerator runs timings on it, and processes must compile together.

    Args:
      steps: jitted function and arguments, or their `jax.ShapeDtypeStruct`s, by name.
      made_of: all values that the functions close over, identified by their `repr`. Versions, the
        source of `jaxnas`, JAX's configuration, the devices and the machine are added here. JAX
        settings made by a context manager reach only the first step.
      tick: called five times a second, so that progress bars move and Control-C works.
    """
    files = {name: _file(name, arguments, made_of) for name, (_, arguments) in steps.items()}
    kept = [name for name, file in files.items() if file is not None and file.exists()]
    # One compiles while the next is traced. Two that compile at once need 5 GB and save little.
    maker = _Maker(threading.Lock(), threading.Lock())
    pool = concurrent.futures.ThreadPoolExecutor(len(steps))
    first, *others = steps
    compiled: dict[str, Step] = {}
    lowered, expected_s, start = None, 0.0, time.monotonic()
    if first not in kept:
        tick(0.0, f"tracing the {first} step")
        lowered = _lower(*steps[first])
        expected_s = (time.monotonic() - start) * _COMPILE_TO_TRACE

    def wait(name: str) -> None:
        doing = f"{'loading' if name in kept else 'compiling'} the {name} step"
        compiled[name].wait(
            lambda: tick(
                min(0.98, (time.monotonic() - start) / expected_s) if expected_s else 0.0, doing
            )
        )

    alone = jax.process_count() == 1 and jax.default_backend() == "cpu"
    compiled[first] = Step(pool.submit(maker.program, *steps[first], files[first], lowered))
    for name in others:
        if not alone:
            wait([*compiled][-1])  # all processes must compile in the same order
        compiled[name] = Step(pool.submit(maker.program, *steps[name], files[name]))
    pool.shutdown(wait=False)
    wait(first if alone else [*compiled][-1])
    return compiled


@dataclasses.dataclass(frozen=True)
class _Maker:
    """Loads or compiles steps in several threads; one thread traces and one compiles at a time."""

    tracing: threading.Lock
    compiling: threading.Lock

    def program(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        file: pathlib.Path | None,
        lowered: jax.stages.Lowered | None = None,
    ) -> jax.stages.Compiled:
        """Returns the program, loaded from the file or compiled from its lowered form."""
        program = _load(file) if lowered is None and file is not None and file.exists() else None
        if program is None:
            with self.tracing:
                lowered = lowered or _lower(function, arguments)
            with self.compiling:
                program = _compile(lowered, file)
        return program


def readiness(compiled: Mapping[str, Step]) -> str:
    """Returns a note for people on which steps are ready and which still compile."""
    ready = ", ".join(name for name, step in compiled.items() if step.is_ready)
    later = ", ".join(name for name, step in compiled.items() if not step.is_ready)
    return f"the steps: {ready}" + (f"; {later} meanwhile" if later else "")


def _lower(function: Callable[..., Any], arguments: tuple[Any, ...]) -> jax.stages.Lowered:
    assert isinstance(function, jax.stages.Wrapped), "a step must be jitted"
    return function.lower(*arguments)


def _compile(lowered: jax.stages.Lowered, file: pathlib.Path | None) -> jax.stages.Compiled:
    """Compiles a program, and stores it unless it came from JAX's cache.

    XLA for CPUs drops functions when it serializes a program that it has read (jaxlib 0.10.2).
    """
    hits, thread = [], threading.get_ident()

    def count_hit(event: str, **_: object) -> None:
        if event == "/jax/compilation_cache/cache_hits" and threading.get_ident() == thread:
            hits.append(event)

    jax.monitoring.register_event_listener(count_hit)
    try:
        program = lowered.compile()
    finally:
        jax.monitoring.unregister_event_listener(count_hit)
    if file is not None and not hits:
        _store(program, file)
    return program


def _file(name: str, arguments: tuple[Any, ...], made_of: object) -> pathlib.Path | None:
    """Returns the file of a stored program; None if programs are not stored."""
    settings = jax.config.values
    folder = settings["jax_compilation_cache_dir"]
    if folder is None or not settings["jax_enable_compilation_cache"] or jax.process_count() > 1:
        return None
    leaves, structure = jax.tree.flatten(arguments)
    sources = pathlib.Path(jaxnas.__file__).parent
    identity = (
        name,
        repr(made_of),
        str(structure),
        [(leaf.shape, str(leaf.dtype), str(getattr(leaf, "sharding", None))) for leaf in leaves],
        [(package, importlib.metadata.version(package)) for package in _PACKAGES],
        [
            (str(path.relative_to(sources)), path.read_bytes())
            for path in sorted(sources.rglob("*.py"))
        ],
        sorted((key, str(value)) for key, value in settings.items() if "cache" not in key),
        os.environ.get("XLA_FLAGS"),
        platform.python_version(),
        _processor(),
        [(device.platform, device.device_kind, device.id) for device in jax.devices()],
        jax.devices()[0].client.platform_version,
    )
    key = hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
    return pathlib.Path(folder) / _FOLDER / f"{name}-{key}"


def _processor() -> str:
    """Returns the processor's model and features, for which programs are compiled."""
    info = pathlib.Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    return "".join(
        line
        for line in info.read_text().split("\n\n")[0].splitlines()
        if line.startswith(("model name", "flags", "Features", "CPU part"))
    )


def _load(file: pathlib.Path) -> jax.stages.Compiled | None:
    """Loads a program; returns None, with a warning, if its file is damaged or not trusted."""
    try:
        for path in (file.parent, file):
            _check_owner(path)
        return serialize_executable.deserialize_and_load(
            *pickle.loads(zlib.decompress(file.read_bytes()))
        )
    except Exception as error:  # unpickling and XLA raise anything on damaged bytes
        logging.warning(
            "%s cannot be loaded and is compiled again: %s: %s", file, type(error).__name__, error
        )
        return None


def _check_owner(path: pathlib.Path) -> None:
    """Raises PermissionError if other users may write: unpickling can run any code."""
    info = path.stat()
    if info.st_uid not in (0, os.getuid()) or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"other users may write {path}; remove it, or run chmod go-w on it")


def _store(program: jax.stages.Compiled, file: pathlib.Path) -> None:
    """Writes a program atomically; a failure is only a warning."""
    content = zlib.compress(pickle.dumps(serialize_executable.serialize(program)), 1)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, path = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        pathlib.Path(path).replace(file)
    except OSError as error:
        logging.warning("%s is not kept for the next start: %s", file.name, error)
