"""Configures glibc's malloc to keep the memory that XLA frees after each step.

By default malloc returns large blocks to the system and maps them again in every step, and the
kernel clears each page: on some machines this takes a quarter of a step of the quick start. A
preloaded malloc, jemalloc or tcmalloc, crashes when OpenVINO compiles for the CPU, because TBB
loads libtbbbind bound to glibc's own free.
"""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # <malloc.h>


def keep_memory() -> None:
    """Makes glibc's malloc keep freed memory, unless the environment configures malloc."""
    if platform.libc_ver()[0] != "glibc" or {"GLIBC_TUNABLES", "LD_PRELOAD"} & set(os.environ):
        return
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    mallopt(_M_MMAP_MAX, 0)  # allocate from the heap, which is trimmed only at its end
    mallopt(_M_TRIM_THRESHOLD, -1)  # never trim
    mallopt(_M_ARENA_MAX, 1)  # arenas of threads return memory by other rules
