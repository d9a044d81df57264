"""Memory in pages of 2 MB, where Linux gives them to those who ask.

XLA allocates a step's temporaries for that step, and the C library takes so large a piece from the
system anew each time. In pages of 4 KB the system then clears and maps 67,000 of them in every
weight step of the quick start's space at batch 16 and 96 px: a sixth of the step. glibc asks for
huge pages only where its environment says so when a process begins.
"""

import os
import pathlib
import sys
from collections.abc import Mapping

_SETTING = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
_TUNABLE = "glibc.malloc.hugetlb"
_BEGUN_ANEW = "JAXNAS_BEGUN_ANEW"  # glibc takes the tunable from an environment it does not trust


def ask_for_them() -> None:
    """Begins this process anew with an environment that asks, unless it does or cannot."""
    environment = asking(os.environ, _SETTING.read_text() if _SETTING.exists() else "")
    if environment is not None:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def asking(environment: Mapping[str, str], setting: str) -> dict[str, str] | None:
    """The environment of a process whose C library asks for huge pages.

    Args:
      environment: of this process.
      setting: the kernel's, such as `always [madvise] never`.

    Returns:
      None where there is nothing to ask: they are given always or never, the environment says
      whether to ask already, or this process is one that was begun anew.
    """
    tunables = environment.get("GLIBC_TUNABLES", "")
    if "[madvise]" not in setting or _TUNABLE in tunables or _BEGUN_ANEW in environment:
        return None
    return {**environment, _BEGUN_ANEW: "1",
            "GLIBC_TUNABLES": ":".join(filter(None, (tunables, f"{_TUNABLE}=1")))}
