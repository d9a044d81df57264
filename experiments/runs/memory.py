"""glibc's malloc keeps the memory that XLA frees after each step.

By default it returns large pieces to the system and maps them anew in every step, cleared page by
page: on some machines a quarter of a step of the quick start. Another malloc that is preloaded,
jemalloc or tcmalloc, crashes when OpenVINO compiles for the CPU: TBB loads libtbbbind bound to
glibc's own free.
"""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # <malloc.h>


def keep_memory() -> None:
    """Sets glibc's malloc to keep freed memory, unless the environment configures malloc."""
    if platform.libc_ver()[0] != "glibc" or {"GLIBC_TUNABLES", "LD_PRELOAD"} & set(os.environ):
        return
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    mallopt(_M_MMAP_MAX, 0)  # all from the heap, which is returned at its end alone
    mallopt(_M_TRIM_THRESHOLD, -1)  # never
    mallopt(_M_ARENA_MAX, 1)  # a thread's own arena would return memory by other rules
