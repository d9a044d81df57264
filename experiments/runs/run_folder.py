"""The folder of a run: its lock, configuration, JSON files and metrics.

In a run of several processes only process 0 reads and writes these files; it broadcasts what it
reads. The folder of checkpoints belongs to orbax, which requires that all processes see it.
"""

import contextlib
import dataclasses
import fcntl
import json
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, TextIO

import numpy as np

from experiments.runs.config import RunConfig
from jaxnas import parallel
from jaxnas.json_file import read_object, write_object
from profiling.progress import Progress

if TYPE_CHECKING:
    import tensorboardX

REPORT, TIME, EVENTS = "report.html", "time.json", "tensorboard"
_WRITE_AGAIN = "remove it, and the same command writes it again"


class WorkdirHeld(ValueError):
    """Another process is using the folder."""


class Workdir:
    """A run's folder, locked by this run until it is closed."""

    def __init__(self, config: RunConfig):
        """Creates the folder, or opens the folder of the run to resume.

        Raises:
          ValueError: the folder contains another run or other files, or (WorkdirHeld) another
            process is using it; nothing in it is changed.
          ProcessesDiffer: processes of the run have different flags.
        """
        parallel.check_same(
            "the configuration", np.frombuffer(json.dumps(config.identity()).encode(), np.uint8)
        )
        self.path = pathlib.Path(config.workdir)
        self._is_new = False
        self._lock: TextIO | None = None
        self._metrics: TextIO | None = None
        self._tensorboard = config.tensorboard
        self._events: tensorboardX.SummaryWriter | None = None
        self._opened = time.monotonic()
        parallel.from_process_0(lambda: self._open(config))
        earlier = self.read_json(TIME)
        self._earlier_starts = [] if earlier is None else earlier["starts"]

    def _open(self, config: RunConfig) -> None:
        check_workdir(config)
        file = self.path / "config.json"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"--workdir={self.path} cannot be created ({error.strerror}); name another folder"
            ) from error
        self._lock = lock_folder(self.path)
        self._is_new = not file.exists()
        if self._is_new:
            self.write_json("config.json", {"schema": 1, **dataclasses.asdict(config)})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._metrics, self._events, self._lock):
            if file is not None:
                file.close()

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        """Writes a file atomically."""
        if parallel.is_process_0():
            write_object(self.path / name, document)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Reads a file that this run wrote; returns None if it has not written it yet."""
        file = self.path / name
        return parallel.from_process_0(
            lambda: json.loads(file.read_text()) if file.exists() else None
        )

    @contextlib.contextmanager
    def timing(self, progress: Progress) -> Iterator[None]:
        """Context that calls `record_time` where a start is stopped; a killed one is missing."""
        try:
            yield
        except BaseException:
            if (self.path / "config.json").exists():  # not withdrawn
                self.record_time(progress)
            raise

    def record_time(self, progress: Progress) -> None:
        """Writes this start's seconds, in all and by phase, to time.json, after earlier starts'."""
        phases = {name: round(seconds, 1) for name, seconds in progress.seconds.items()}
        start = {"seconds": round(time.monotonic() - self._opened, 1), "phases": phases}
        self.write_json(TIME, {"schema": 1, "starts": [*self._earlier_starts, start]})

    def withdraw(self) -> None:
        """Removes the files of a run that is refused before it starts, and its folder if empty.

        A run that is resumed keeps its files.
        """
        if not parallel.is_process_0() or not self._is_new:
            return
        for name in ("config.json", ".lock"):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            self.path.rmdir()

    def open_metrics(self, step: int) -> None:
        """Opens metrics.jsonl at a step and drops the lines of work that will be repeated.

        In event files, which are only appended to, TensorBoard drops what is later than the step.
        """
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
        if self._tensorboard and self._events is None:  # one start repeats no step of its own
            import tensorboardX  # optional

            folder = self.path / EVENTS
            self._events = tensorboardX.SummaryWriter(
                str(folder), purge_step=step + 1 if folder.exists() else None, flush_secs=5
            )

    def log(self, step: int, phase: str, **values: object) -> None:
        """Appends a line to metrics.jsonl."""
        if not parallel.is_process_0():
            return
        assert self._metrics is not None, "call open_metrics first"
        self._metrics.write(json.dumps({"step": step, "phase": phase, **values}) + "\n")
        self._metrics.flush()
        if self._events is not None:
            for name, value in values.items():
                if isinstance(value, float):
                    self._events.add_scalar(f"{phase}/{name}", value, step)


def finished(config: RunConfig) -> dict[str, Any] | None:
    """Returns the result of this run, or None if it has not finished; raises ValueError."""
    check_workdir(config)
    file = pathlib.Path(config.workdir) / "result.json"
    return read_object(file, _WRITE_AGAIN) if file.exists() else None


def lock_folder(path: pathlib.Path) -> TextIO:
    """Locks a folder until the returned file is closed or this process ends.

    Raises:
      WorkdirHeld: another process has locked it.
    """
    lock = (path / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise WorkdirHeld(
            f"{path}: another process is using it; wait for it, stop it or name another folder"
        ) from None
    return lock


def is_held(path: pathlib.Path) -> bool:
    """Returns whether a process is using a run's folder."""
    if not (path / ".lock").exists():
        return False
    try:
        lock_folder(path).close()
    except WorkdirHeld:
        return True
    return False


def check_workdir(config: RunConfig) -> None:
    """Raises ValueError if `--workdir` contains another run or other files; changes nothing."""
    path = pathlib.Path(config.workdir)
    if path.exists() and not path.is_dir():
        raise ValueError(f"--workdir={path} is a file; name a folder")
    if (path / "config.json").exists():
        _check_same(path / "config.json", config)
    elif path.exists() and any(
        f.name != ".lock" and f.suffix != ".partial" for f in path.iterdir()
    ):
        raise ValueError(
            f"--workdir={path} is not the folder of a run (no config.json); name a new folder"
        )


def _lines(file: pathlib.Path) -> Iterator[str]:
    """Yields the complete lines of a file; a killed run may leave an incomplete last line."""
    if file.exists():
        yield from (line for line in file.read_text().splitlines(True) if line.endswith("\n"))


def _check_same(file: pathlib.Path, config: RunConfig) -> None:
    """Raises ValueError if a config.json is that of another run."""
    found = read_object(file, "name a new --workdir")
    wanted = json.loads(json.dumps(config.identity()))
    changes = [
        f"--{k}={found.get(k)!r} there, {v!r} now"
        for k, v in wanted.items()
        if found.get(k) != v and k not in ("pictures", "space_name")
    ]
    if "space_name" not in found:
        raise ValueError(
            f"--workdir={file.parent} holds a run of an earlier version; name a new folder"
        )
    if not changes and found["space_name"] != wanted["space_name"]:
        raise ValueError(
            f"--workdir={file.parent} holds a run in another space: {found['space']} was changed "
            f"since; name a new folder, or restore the file to resume that run"
        )
    if not changes and found.get("pictures") != wanted["pictures"]:
        raise ValueError(
            f"--workdir={file.parent} holds a run on other pictures: files in {config.dataset} "
            f"were added, removed or changed since; name a new folder, or restore the files to "
            f"resume that run"
        )
    if changes:
        raise ValueError(
            f"--workdir={file.parent} holds another run ({'; '.join(changes)}): name a new folder, "
            f"or give the flags of that run to resume it"
        )
