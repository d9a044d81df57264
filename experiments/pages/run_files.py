"""The files of a finished run that its report shows."""

import dataclasses
import json
import pathlib
from typing import Any, Self, TypeVar

from experiments.runs import answers
from experiments.runs.config import RunConfig
from experiments.runs.delivery import LATENCY
from experiments.runs.run_folder import TIME
from jaxnas.json_file import read_object

GIVE_RUN = "give the folder of a finished run of this version"

Document = dict[str, Any]
Config = TypeVar("Config", bound=RunConfig)


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """Contents of a run's files.

    Attributes:
      folder: folder of the run.
      config, result, answers: contents of config.json, result.json and answers.json.
      latency: content of latency.json; None if the device was unavailable.
      time: content of time.json.
      metrics: lines of metrics.jsonl.
    """

    folder: pathlib.Path
    config: Document
    result: Document
    answers: Document
    latency: Document | None
    time: Document
    metrics: list[Document]

    @classmethod
    def read(cls, folder: pathlib.Path, result: Document | None = None) -> Self:
        """Reads the files of a folder.

        Args:
          folder: folder of the run.
          result: content of a result.json that is not written yet; None reads it.

        Raises:
          ValueError: a file is missing or damaged; the message names it.
        """
        result = result or read_object(folder / "result.json", GIVE_RUN)
        file = folder / "metrics.jsonl"
        try:
            metrics = [json.loads(line) for line in file.read_text().splitlines()]
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} cannot be read ({error}); {GIVE_RUN}") from error
        return cls(
            folder,
            read_object(folder / "config.json", GIVE_RUN),
            result,
            read_object(folder / answers.FILE, GIVE_RUN),
            read_object(folder / LATENCY, GIVE_RUN) if result.get("kind") else None,
            read_object(folder / TIME, GIVE_RUN),
            metrics,
        )

    def configuration(self, kind: type[Config]) -> Config:
        """Returns the configuration of the run; raises ValueError if config.json has another."""
        try:
            return kind(**{name: value for name, value in self.config.items() if name != "schema"})
        except TypeError as error:
            raise ValueError(f"{self.folder / 'config.json'}: {error}; {GIVE_RUN}") from error

    def lines(self, *phases: str) -> list[Document]:
        """Returns the lines of metrics.jsonl of some phases."""
        return [line for line in self.metrics if line["phase"] in phases]
