"""The programs, `python -m experiments.…`."""

import sys

from experiments import huge_pages

if sys.argv[:1] == ["-m"]:  # Python is about to run one of them, and has imported nothing large
    huge_pages.ask_for_them()
