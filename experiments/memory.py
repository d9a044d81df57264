"""An allocator that keeps memory, and huge pages for it.

XLA allocates a step's temporaries for that step. The C library gives so large a piece back to the
system and takes it anew each time, cleared and mapped page by page: half the time of a step of the
quick start. jemalloc, where it is installed, is told to keep what it has; otherwise glibc is.
Both read their settings when a process begins, so it begins anew with them, once.
"""

import os
import pathlib
import platform
import sys
from collections.abc import Iterable, Mapping

JEMALLOC = "libjemalloc.so.2"
FOLDERS = (pathlib.Path(sys.prefix) / "lib", pathlib.Path("/usr/local/lib"),
           pathlib.Path(f"/usr/lib/{platform.machine()}-linux-gnu"), pathlib.Path("/usr/lib64"))

_JEMALLOC_SETTINGS = "dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always,oversize_threshold:0"
_GLIBC_SETTINGS = ("glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:"
                   "glibc.malloc.trim_threshold=17179869184:glibc.malloc.arena_max=1")
_SETTINGS = ("LD_PRELOAD", "MALLOC_CONF", "GLIBC_TUNABLES")
_BEGUN_ANEW = "JAXNAS_BEGUN_ANEW"


def keep_memory() -> None:
    """Begins this process anew with an allocator that keeps memory, unless it has begun anew.

    Programs that this one starts are not told to: they have the environment that it was given.
    """
    if os.environ.pop(_BEGUN_ANEW, None):
        for name in _SETTINGS:
            os.environ.pop(name, None)
        return
    environment = keeping(os.environ, FOLDERS) if platform.libc_ver()[0] == "glibc" else None
    if environment is not None:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def keeping(environment: Mapping[str, str],
            folders: Iterable[pathlib.Path]) -> dict[str, str] | None:
    """The environment of a process whose allocator keeps memory.

    Args:
      environment: of this process.
      folders: where jemalloc may be.

    Returns:
      None where the environment has settings of an allocator already: they stay.
    """
    if any(name in environment for name in _SETTINGS):
        return None
    jemalloc = next((file for folder in folders if (file := folder / JEMALLOC).exists()), None)
    settings = {"GLIBC_TUNABLES": _GLIBC_SETTINGS} if jemalloc is None else {
        "LD_PRELOAD": str(jemalloc), "MALLOC_CONF": _JEMALLOC_SETTINGS}
    return {**environment, **settings, _BEGUN_ANEW: "1"}
