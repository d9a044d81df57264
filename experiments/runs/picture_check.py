"""Decodes the pictures of a folder once before the first run, and remembers the success."""

import pathlib

from absl import logging

from jaxnas import data
from profiling.cache_folders import cache_folder
from profiling.progress import Progress

MOST_AT_START = 50_000  # more pictures take minutes, even on many cores


def check_pictures(dataset: str) -> None:
    """Decodes the pictures of a folder, unless they were decoded with the same names and sizes.

    Args:
      dataset: name of a data set; nothing is checked if it is not a folder of pictures.

    Raises:
      ValueError: a picture cannot be decoded; names it and the command that lists all.
    """
    if not data.is_folder(dataset) or _was_decoded(dataset):
        return
    count = sum(map(len, data.load(dataset, seed=0, held_out=0)))
    lists_all = f"`python -m experiments.prepare --dataset={dataset}` lists all"
    with Progress() as progress:
        if count > MOST_AT_START:
            progress.print(
                f"{count} pictures were not decoded before; {lists_all} that cannot be decoded",
                "yellow",
            )
            return
        refusals = decode_all(dataset, count, progress)
    if refusals:
        more = len(refusals) - 1
        others = f". {more} more cannot be decoded: {lists_all}" if more else ""
        raise ValueError(f"{refusals[0]}{others}")


def decode_all(dataset: str, count: int, progress: Progress) -> list[str]:
    """Decodes the `count` pictures of a folder; returns an error message for each failure."""
    with progress.phase("pictures", count) as phase:
        refusals = data.undecodable(
            dataset, lambda done, refused: phase.update(done, f"{refused} cannot be decoded")
        )
        phase.end(f"{count - len(refusals)} of {count} can be decoded")
    if not refusals:
        try:
            _marker(dataset).parent.mkdir(parents=True, exist_ok=True)
            _marker(dataset).touch()
        except OSError as error:
            logging.warning("the next run decodes these pictures again: %s", error)
    return refusals


def _was_decoded(dataset: str) -> bool:
    try:
        return _marker(dataset).exists()
    except OSError:
        return False


def _marker(dataset: str) -> pathlib.Path:
    """Returns the empty file that marks a folder's pictures as decoded."""
    return cache_folder() / "pictures" / data.fingerprint(dataset)
