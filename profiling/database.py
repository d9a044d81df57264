"""Database of all measurements and their setups: one SQLite file that several programs share.

Each run is one row. Rows never change, and only `python -m profiling.store prune` deletes them.
The file uses SQLite's rollback journal with full synchronization: committed rows survive a kill at
any time. Unlike a write-ahead log, this needs no memory shared between processes, so it also works
on a network folder whose server supports file locks.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import pathlib
import sqlite3
from collections.abc import Iterator
from typing import Any, Self

import onnx

from profiling.measurement import LayerTime, Measurement, Setup

SCHEMA = 1
APPLICATION = 0x6A784E53  # identifies the file as a store of this project
BUSY_S = 30.0

_CREATE = """
CREATE TABLE measurement (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  time TEXT NOT NULL,
  model_name TEXT NOT NULL, model_sha256 TEXT NOT NULL, model_bytes INTEGER NOT NULL, recipe TEXT,
  device TEXT NOT NULL, kind TEXT NOT NULL, hardware TEXT NOT NULL, precision TEXT NOT NULL,
  versions TEXT NOT NULL, settings TEXT NOT NULL,
  latency_ms REAL NOT NULL, p10_ms REAL NOT NULL, p90_ms REAL NOT NULL, count INTEGER NOT NULL,
  host_ms REAL NOT NULL, temperature_c TEXT NOT NULL, layers TEXT NOT NULL
)
"""
_DAMAGED = (
    "it is damaged. Move it aside to start a new one (`sqlite3 FILE .recover` may "
    "save its rows), or name another with --store"
)
_REMEDIES = {
    "SQLITE_NOTADB": _DAMAGED,
    "SQLITE_CORRUPT": _DAMAGED,
    "SQLITE_FULL": "free space on its disk, or name another with --store",
    "SQLITE_IOERR": "check its disk and the limits on file sizes, or name another with --store",
    "SQLITE_BUSY": f"another program has locked it for {BUSY_S:.0f} s; wait until it ends",
    "SQLITE_READONLY": "make it and its folder writable, or name another with --store",
    "SQLITE_CANTOPEN": "name a file in a writable folder with --store",
}


class StoreError(RuntimeError):
    """A store cannot be read or written; the message names the file and the remedy."""


class StoreUnwritable(StoreError):
    """The file of a store, or its folder, cannot be opened, created or written."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A stored measurement.

    Attributes:
      model_name: name of the ONNX graph.
      model_sha256, model_bytes: digest and size of the ONNX file.
      recipe: description of how this project made the network; None for any other network.
      measurement: measurement without the blob.
    """

    model_name: str
    model_sha256: str
    model_bytes: int
    recipe: str | None
    measurement: Measurement

    def document(self) -> dict[str, Any]:
        """Returns the JSON object of `profiling.store export`; extends `Measurement.document`."""
        return {
            **self.measurement.document(self.model_name),
            "model_sha256": self.model_sha256,
            "model_bytes": self.model_bytes,
            "recipe": self.recipe,
        }


class Store:
    """The measurements in one file; a context manager that closes it. Not thread-safe."""

    def __init__(self, file: pathlib.Path | None, *, create: bool = True):
        """Opens the file and checks all of it, before work whose results it is to store.

        An empty file counts as new: SQLite leaves one if the first program is killed early.

        Args:
          file: file of the store; None keeps measurements in memory while this program runs.
          create: whether to create a missing file and to require write access; for programs that
            record.

        Raises:
          StoreError: the file is missing, damaged, not a store or of another schema.
          StoreUnwritable: the file cannot be opened, created or written.
        """
        self.file = file
        if file is None:
            self._connection = sqlite3.connect(":memory:", isolation_level=None)
            self._check(create)
            return
        if not create and not file.exists():
            raise StoreError(
                f"there is no store of measurements {file}: programs that measure "
                f"create it; name another with --store"
            )
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnwritable(
                f"the folder of the store of measurements {file} cannot be created "
                f"({error.strerror}); name another file with --store"
            ) from error
        with self._sqlite_errors():
            self._connection = sqlite3.connect(
                f"{file.absolute().as_uri()}?mode={'rwc' if create else 'rw'}",
                uri=True,
                timeout=BUSY_S,
                isolation_level=None,
            )
        try:
            self._check(create)
        except StoreError:
            self._connection.close()
            raise

    def _check(self, create: bool) -> None:
        with self._sqlite_errors():
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA synchronous=FULL")
            if self._value("PRAGMA page_count") == 0:
                self._connection.execute("PRAGMA auto_vacuum=FULL")  # pruning shrinks the file
        if create:
            with self._transaction():  # of several programs, only one creates the table
                if not self._value("SELECT count(*) FROM sqlite_master") and not any(self._marks()):
                    self._connection.execute(_CREATE)
                    self._connection.execute(f"PRAGMA application_id={APPLICATION}")
                    self._connection.execute(f"PRAGMA user_version={SCHEMA}")
        with self._sqlite_errors():
            (application, schema), fault = self._marks(), self._value("PRAGMA quick_check(1)")
        if application != APPLICATION:
            raise StoreError(
                f"{self.file} is not a store of measurements; name another file with --store"
            )
        if schema != SCHEMA:
            raise StoreError(
                f"the store of measurements {self.file} has schema {schema}, this "
                f"program reads {SCHEMA}: use the program that created it, move it "
                f"aside, or name another with --store"
            )
        if fault != "ok":
            raise StoreError(
                f"the store of measurements {self.file} ({' '.join(fault.split())}): {_DAMAGED}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def __len__(self) -> int:
        with self._sqlite_errors():
            return self._value("SELECT count(*) FROM measurement")

    def add(self, measurement: Measurement, model: bytes, recipe: str | None = None) -> None:
        """Adds a run, which is on the disk when this returns.

        Args:
          measurement: measurement to store, without its blob.
          model: bytes of the measured ONNX file; its name, size and digest are stored.
          recipe: description of how the network was made, to find the run without exporting again.

        Raises:
          StoreError: the file cannot be written; earlier runs remain.
        """
        row = {
            "time": _text(measurement.time),
            "recipe": recipe,
            "model_name": onnx.load_model_from_string(model).graph.name,
            "model_sha256": hashlib.sha256(model).hexdigest(),
            "model_bytes": len(model),
            **_columns(measurement.setup),
            "latency_ms": measurement.latency_ms,
            "p10_ms": measurement.p10_ms,
            "p90_ms": measurement.p90_ms,
            "count": measurement.count,
            "host_ms": measurement.host_ms,
            "temperature_c": json.dumps(measurement.temperature_c),
            "layers": json.dumps([[layer.name, layer.ms] for layer in measurement.layers]),
        }
        with self._transaction():
            self._connection.execute(
                f"INSERT INTO measurement ({', '.join(row)}) "
                f"VALUES ({', '.join(f':{name}' for name in row)})",
                row,
            )

    def runs(
        self,
        *,
        device: str | None = None,
        since: datetime.datetime | None = None,
        model: str | None = None,
    ) -> list[Run]:
        """Returns the runs that meet every given criterion, in the order they were added.

        Args:
          device: name of the device.
          since: earliest time, with a time zone.
          model: name of the ONNX graph, or the beginning of the network's digest.

        Raises:
          StoreError: the file cannot be read.
        """
        where = _Where(device=device)
        if since is not None:
            where.add("time >= ?", _text(since))
        if model is not None:
            where.add(
                "(model_name = ? OR substr(model_sha256, 1, length(?)) = ?)",
                model,
                model.lower(),
                model.lower(),
            )
        return self._select(where)

    def runs_of(
        self, recipe: str, setup: Setup, since: datetime.datetime | None = None
    ) -> list[Measurement]:
        """Returns runs with an equal setup of the networks made from a recipe, in order of adding.

        A run of the same ONNX bytes without the recipe also counts: networks match by digest.

        Raises:
          StoreError: the file cannot be read.
        """
        where = _Where(**_columns(setup))
        where.add("model_sha256 IN (SELECT model_sha256 FROM measurement WHERE recipe = ?)", recipe)
        if since is not None:
            where.add("time >= ?", _text(since))
        return [dataclasses.replace(run.measurement, setup=setup) for run in self._select(where)]

    def prune(self, *, before: datetime.datetime | None = None, device: str | None = None) -> int:
        """Deletes the runs that meet every given criterion and returns their number.

        Raises:
          ValueError: no criterion is given.
          StoreError: the file cannot be written; all runs remain.
        """
        where = _Where(device=device)
        if before is not None:
            where.add("time < ?", _text(before))
        if not where.values:
            raise ValueError("prune needs a criterion: --older_than_days, --device or both")
        with self._transaction():
            return self._connection.execute(
                f"DELETE FROM measurement {where}", where.values
            ).rowcount

    def _select(self, where: "_Where") -> list[Run]:
        with self._sqlite_errors():
            # All at once: a slow reader, such as a pager, would block programs that record.
            rows = self._connection.execute(
                f"SELECT * FROM measurement {where} ORDER BY id", where.values
            ).fetchall()
        return list(map(_run, rows))

    def _marks(self) -> tuple[int, int]:
        """Returns application id and schema; both are 0 in a new file."""
        return self._value("PRAGMA application_id"), self._value("PRAGMA user_version")

    def _value(self, statement: str) -> Any:
        """Returns the single value that an SQL statement gives, in SQLite's type for it."""
        return self._connection.execute(statement).fetchone()[0]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._sqlite_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def _sqlite_errors(self) -> Iterator[None]:
        """Raises SQLite's errors as StoreError, with the file and the remedy."""
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            remedy = next(
                (text for start, text in _REMEDIES.items() if name.startswith(start)),
                "name another file with --store",
            )
            unwritable = name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN"))
            refusal = StoreUnwritable if unwritable else StoreError
            raise refusal(f"the store of measurements {self.file} ({error}): {remedy}") from error


class _Where:
    """SQL condition, built clause by clause."""

    def __init__(self, **equal: object):
        self.clauses: list[str] = []
        self.values: list[object] = []
        for name, value in equal.items():
            if value is not None:
                self.add(f"{name} = ?", value)

    def add(self, clause: str, *values: object) -> None:
        self.clauses.append(clause)
        self.values.extend(values)

    def __str__(self) -> str:
        return f"WHERE {' AND '.join(self.clauses)}" if self.clauses else ""


def _columns(setup: Setup) -> dict[str, Any]:
    return {
        "device": setup.device,
        "kind": setup.kind,
        "hardware": setup.hardware,
        "precision": setup.precision,
        # Sorted, so that equal mappings are equal text in SQL.
        "versions": json.dumps(dict(setup.versions), sort_keys=True),
        "settings": json.dumps(dict(setup.settings), sort_keys=True),
    }


def _text(time: datetime.datetime) -> str:
    return time.astimezone(datetime.UTC).isoformat(timespec="microseconds")


def _run(row: sqlite3.Row) -> Run:
    setup = Setup(
        row["device"],
        row["kind"],
        row["hardware"],
        row["precision"],
        json.loads(row["versions"]),
        json.loads(row["settings"]),
    )
    temperature = json.loads(row["temperature_c"])
    measurement = Measurement(
        setup,
        row["latency_ms"],
        row["p10_ms"],
        row["p90_ms"],
        row["count"],
        tuple(LayerTime(name, ms) for name, ms in json.loads(row["layers"])),
        row["host_ms"],
        None if temperature is None else tuple(temperature),
        time=datetime.datetime.fromisoformat(row["time"]),
    )
    return Run(
        row["model_name"], row["model_sha256"], row["model_bytes"], row["recipe"], measurement
    )
