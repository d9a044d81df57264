"""glibc's malloc keeps the memory that XLA frees after each step, and uses huge pages.

By default it returns large pieces to the system and maps them anew in every step, cleared page by
page: a quarter of a step of the quick start on some machines. Huge pages shorten the quick start's
training at 224 px from 3:04 to 1:54 minutes; glibc reads that setting only when a process starts.
Another malloc that is preloaded, jemalloc or tcmalloc, crashes when OpenVINO compiles for the CPU:
TBB loads libtbbbind bound to glibc's own free.
"""

import ctypes
import os
import platform
import sys

_TUNABLES = "GLIBC_TUNABLES"
_KEEP = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:"
    "glibc.malloc.trim_threshold=17179869184:glibc.malloc.arena_max=1"
)
_RESTARTED = "JAXNAS_RESTARTED"
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # <malloc.h>


def keep_memory() -> None:
    """Sets glibc's malloc to keep freed memory, unless the environment configures malloc.

    A program that `python -m` started re-executes itself once, with huge pages enabled; elsewhere
    malloc is set in the running process, without them. Programs that this one starts have the
    environment that it was given.
    """
    if os.environ.pop(_RESTARTED, None):
        os.environ.pop(_TUNABLES, None)
        return
    if platform.libc_ver()[0] != "glibc" or {_TUNABLES, "LD_PRELOAD"} & set(os.environ):
        return
    if "-m" in sys.orig_argv:
        sys.stdout.flush()
        environment = {**os.environ, _TUNABLES: _KEEP, _RESTARTED: "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    mallopt(_M_MMAP_MAX, 0)  # all from the heap, which is returned at its end alone
    mallopt(_M_TRIM_THRESHOLD, -1)  # never
    mallopt(_M_ARENA_MAX, 1)  # a thread's own arena would return memory by other rules
