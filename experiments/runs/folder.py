"""The folder of a run: one run at a time, one configuration, metrics line by line.

Of several processes the first alone reads and writes here; what it reads it tells the others. The
checkpoints' folder is orbax's, which wants it seen by all.
"""

import contextlib
import dataclasses
import fcntl
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Self, TextIO

import numpy as np

from experiments.runs.config import RunConfig
from jaxnas import parallel
from jaxnas.json_file import read_object

_MAKE_ANEW = "remove it, and the same command makes it anew"


class WorkdirHeld(ValueError):
    """Another process is at work in the folder."""


class Workdir:
    """A run's folder, held by this run until closed."""

    def __init__(self, config: RunConfig):
        """Makes the folder, or takes up the run that is in it.

        Raises:
          ValueError: the folder holds another run, something else, or (WorkdirHeld) a process at
            work; nothing in it is touched.
          ProcessesDiffer: they have other flags than the first.
        """
        parallel.check_same(
            "the configuration", np.frombuffer(json.dumps(config.identity()).encode(), np.uint8)
        )
        self.path = pathlib.Path(config.workdir)
        self._lock: TextIO | None = None
        self._metrics: TextIO | None = None
        parallel.from_process_0(lambda: self._open(config))

    def _open(self, config: RunConfig) -> None:
        check_workdir(config)
        file = self.path / "config.json"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"--workdir={self.path} cannot be made ({error.strerror}); name another folder"
            ) from error
        self._lock = (self.path / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise WorkdirHeld(
                f"--workdir={self.path}: another process is at work in it; wait for "
                f"it or name another folder"
            ) from None
        if not file.exists():
            self.write_json("config.json", {"schema": 1, **dataclasses.asdict(config)})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._metrics, self._lock):
            if file is not None:
                file.close()

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        """Writes a file whole or not at all."""
        if not parallel.is_process_0():
            return
        partial = self.path / f"{name}.partial"
        partial.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        partial.replace(self.path / name)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A file that this run wrote, or None where it has not yet."""
        file = self.path / name
        return parallel.from_process_0(
            lambda: json.loads(file.read_text()) if file.exists() else None
        )

    def withdraw(self) -> None:
        """Removes the folder of a run that is refused before it began, unless it holds more."""
        if not parallel.is_process_0():
            return
        for name in ("config.json", ".lock"):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: not ours to remove
            self.path.rmdir()

    def open_metrics(self, step: int) -> None:
        """Starts or continues metrics.jsonl at a step; lines of what comes again are dropped."""
        if not parallel.is_process_0():
            return
        if self._metrics is not None:
            self._metrics.close()
        file = self.path / "metrics.jsonl"
        derived = (self.path / "architecture.json").exists()
        kept = [
            text
            for text in _lines(file)
            if (line := json.loads(text))["step"] <= step and (derived or line["phase"] != "derive")
        ]
        partial = file.with_name("metrics.jsonl.partial")
        partial.write_text("".join(kept))
        partial.replace(file)
        self._metrics = file.open("a")

    def log(self, step: int, phase: str, **values: object) -> None:
        """Adds a line to metrics.jsonl."""
        if not parallel.is_process_0():
            return
        self._metrics.write(json.dumps({"step": step, "phase": phase, **values}) + "\n")
        self._metrics.flush()


def finished(config: RunConfig) -> dict[str, Any] | None:
    """The result of this run, if it has come to its end before; raises as `check_workdir`."""
    check_workdir(config)
    file = pathlib.Path(config.workdir) / "result.json"
    return read_object(file, _MAKE_ANEW) if file.exists() else None


def is_held(path: pathlib.Path) -> bool:
    """Whether a process is at work in a run's folder."""
    if not (path / ".lock").exists():
        return False
    with (path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def check_workdir(config: RunConfig) -> None:
    """Raises ValueError where `--workdir` holds another run or something else; changes nothing."""
    path = pathlib.Path(config.workdir)
    if path.exists() and not path.is_dir():
        raise ValueError(f"--workdir={path} is a file; name a folder")
    if (path / "config.json").exists():
        _check_same(path / "config.json", config)
    elif path.exists() and any(
        f.name != ".lock" and f.suffix != ".partial" for f in path.iterdir()
    ):
        raise ValueError(
            f"--workdir={path} holds files of something else (no config.json); name a new folder"
        )


def _lines(file: pathlib.Path) -> Iterator[str]:
    """The file's whole lines; a kill may have left half of one at the end."""
    if file.exists():
        yield from (line for line in file.read_text().splitlines(True) if line.endswith("\n"))


def _check_same(file: pathlib.Path, config: RunConfig) -> None:
    found = read_object(file, "name a new --workdir")
    wanted = json.loads(json.dumps(config.identity()))
    other = [
        f"--{k}={found.get(k)!r} there, {v!r} now"
        for k, v in wanted.items()
        if found.get(k) != v and k != "pictures"
    ]
    if not other and found.get("pictures") != wanted["pictures"]:
        raise ValueError(
            f"--workdir={file.parent} holds a run on other pictures: files in "
            f"{config.dataset} were added, removed or changed since; name a new "
            f"folder, or restore them to go on with it"
        )
    if other:
        raise ValueError(
            f"--workdir={file.parent} holds another run ({'; '.join(other)}): name a "
            f"new folder, or give the flags of that run to go on with it"
        )
