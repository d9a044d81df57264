"""glibc's malloc is told to keep memory, and to ask for huge pages.

XLA allocates a step's temporaries for that step. By itself glibc gives so large a piece back to the
system and takes it anew each time, cleared and mapped page by page: on some machines a quarter of a
step of the quick start. It reads its settings when a process begins, so the process begins anew
with them, once. Another malloc that is preloaded, jemalloc or tcmalloc, ends the process where
OpenVINO compiles for the CPU: TBB loads libtbbbind bound to glibc's own free.
"""

import os
import platform
import sys
from collections.abc import Mapping

SETTING = "GLIBC_TUNABLES"
KEEP = ("glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:"
        "glibc.malloc.trim_threshold=17179869184:glibc.malloc.arena_max=1")
_BEGUN_ANEW = "JAXNAS_BEGUN_ANEW"


def keep_memory() -> None:
    """Begins this process anew with a malloc that keeps memory, unless it has begun anew.

    Programs that this one starts are not told to: they have the environment that it was given.
    """
    if os.environ.pop(_BEGUN_ANEW, None):
        os.environ.pop(SETTING, None)
        return
    environment = keeping(os.environ) if platform.libc_ver()[0] == "glibc" else None
    if environment is not None:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def keeping(environment: Mapping[str, str]) -> dict[str, str] | None:
    """The environment of a process that keeps memory, for the one of this process.

    None where that has settings of malloc, or another malloc, already: they stay.
    """
    if SETTING in environment or "LD_PRELOAD" in environment:
        return None
    return {**environment, SETTING: KEEP, _BEGUN_ANEW: "1"}
