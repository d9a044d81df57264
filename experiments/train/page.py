"""The page of a training: report.html in its folder."""

import pathlib
from typing import Any

from experiments.pages.curves import training
from experiments.pages.drawings import run_drawing
from experiments.pages.html import page, save, section, tag
from experiments.pages.milliseconds import milliseconds
from experiments.pages.pictures import pictures
from experiments.pages.repeat import repeat
from experiments.pages.run_files import RunFiles
from experiments.pages.verdict import verdict
from experiments.train.config import TrainConfig


def write(folder: pathlib.Path, result: dict[str, Any] | None = None) -> None:
    """Writes the page from the files of the run.

    Args:
      folder: folder of the run.
      result: content of a result.json that is not written yet; None reads it.

    Raises:
      ValueError: a file of the run is missing or damaged.
    """
    run = RunFiles.read(folder, result)
    result, config = run.result, run.configuration(TrainConfig)
    sections = [
        verdict(result),
        section(
            "network",
            "The network",
            tag("p", tag("code", result["architecture"])),
            run_drawing(result),
        ),
        section(
            "course",
            "How the training went",
            training(run.lines("train"), run.lines("evaluate")),
        ),
    ]
    if run.latency is not None:
        sections.append(milliseconds(result, run.latency, None, ""))
    sections += [
        pictures(run.answers, result),
        repeat(run, "experiments.train", config),
    ]
    save(page("Training", config.title, sections), folder)
