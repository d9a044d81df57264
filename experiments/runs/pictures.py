"""A folder's pictures are decoded once before they are worked with; that they were is kept."""

import pathlib

from absl import logging

from jaxnas import data
from profiling.progress import Progress
from profiling.user_folders import cache_folder

MOST_AT_START = 50_000  # more take minutes, even on many cores


def check_pictures(dataset: str) -> None:
    """Decodes the pictures of a folder, unless they were with these names and sizes.

    Args:
      dataset: a name of which nothing is to be checked where it is no folder of pictures.

    Raises:
      ValueError: one cannot be decoded; names it, and how to find the others.
    """
    if not data.is_folder(dataset) or _was_decoded(dataset):
        return
    count = sum(map(len, data.load(dataset, seed=0, held_out=0)))
    lists_all = f"`python -m experiments.prepare --dataset={dataset}` lists all"
    with Progress() as progress:
        if count > MOST_AT_START:
            progress.print(
                f"{count} pictures were not decoded before; {lists_all} that cannot be", "yellow"
            )
            return
        refusals = decode_all(dataset, count, progress)
    if refusals:
        others = f". {len(refusals) - 1} more cannot be: {lists_all}" if refusals[1:] else ""
        raise ValueError(f"{refusals[0]}{others}")


def decode_all(dataset: str, count: int, progress: Progress) -> list[str]:
    """Decodes the pictures of a folder, `count` of them; returns which cannot be, and why."""
    with progress.phase("pictures", count) as phase:
        refusals = data.undecodable(
            dataset, lambda done, refused: phase.update(done, f"{refused} cannot be decoded")
        )
        phase.end(f"{count - len(refusals)} of {count} can be decoded")
    if not refusals:
        try:
            _kept(dataset).parent.mkdir(parents=True, exist_ok=True)
            _kept(dataset).touch()
        except OSError as error:
            logging.warning("the next start decodes these pictures again: %s", error)
    return refusals


def _was_decoded(dataset: str) -> bool:
    try:
        return _kept(dataset).exists()
    except OSError:
        return False


def _kept(dataset: str) -> pathlib.Path:
    return cache_folder() / "pictures" / data.fingerprint(dataset)
