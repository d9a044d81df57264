"""What the C library does with memory that a step has given back."""

import ctypes
import platform

# malloc.h of glibc
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_KEPT_BYTES = 2 ** 31 - 1
_TOP_BYTES = 2 ** 26


def keep_freed_memory() -> None:
    """Lets the process keep up to 2 GB that is free, instead of asking the system anew every step.

    XLA allocates a step's temporaries for that step. glibc gets so large a piece from the system
    and gives it back each time, which then clears page after page: a fifth of a weight step at
    batch 16 and 96 px. One heap for all threads, which grows and is not trimmed, ends that. To be
    called before JAX starts its threads. Another C library is left as it is.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _KEPT_BYTES),
                             (_TOP_PAD, _TOP_BYTES)):
        mallopt(parameter, value)
