"""The programs, `python -m experiments.…`."""

import sys

from experiments import memory

if sys.argv[:1] == ["-m"]:  # Python is about to run one of them, and has imported nothing large
    memory.keep_memory()
