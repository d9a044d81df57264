"""Makes report.html again, from the files of a run, a comparison or a sweep.

    python -m experiments.report runs/FOLDER ...

Search, train, compare and sweep make it at their end. It is one file, which a browser opens without
a network.
"""

import pathlib
from collections.abc import Callable, Sequence

from experiments.compare import page as compare_page
from experiments.runs.networks import GIVE_RUN
from experiments.runs.run_folder import REPORT
from experiments.search import page as search_page
from experiments.sweep import page as sweep_page
from experiments.sweep.state import FILE as SWEEP_FILE
from experiments.train import page as train_page
from jaxnas.json_file import read_object
from profiling import command


def main(argv: Sequence[str]) -> int:
    """Makes the page of each folder; returns the exit status."""
    with command.usage_errors():
        pages = [(folder, page_of(folder)) for folder in map(pathlib.Path, argv[1:])]
        for folder, write in pages:
            write(folder)
            print(folder / REPORT)
    return 0


def page_of(folder: pathlib.Path) -> Callable[[pathlib.Path], None]:
    """Returns the function that writes the page of a folder.

    Raises:
      ValueError: the folder belongs to no run, comparison or sweep.
    """
    if (folder / SWEEP_FILE).exists():
        return sweep_page.write
    if (folder / compare_page.FILE).exists():
        return compare_page.write
    if not (folder / "config.json").exists():
        raise ValueError(
            f"{folder} has no {SWEEP_FILE}, {compare_page.FILE} or config.json; give the folder "
            f"of a search, training, comparison or sweep"
        )
    if not (folder / "result.json").exists():
        raise ValueError(f"{folder} has no result.json; let the run finish first")
    config = read_object(folder / "config.json", GIVE_RUN)
    return train_page.write if "network" in config else search_page.write


if __name__ == "__main__":
    command.run(main, files="the folders of runs, comparisons or sweeps")
