"""Latency of every candidate of a space on one device, as one linear functional.

    E[LAT] = fixed + Σ_blocks Σ_candidates p · candidate_ms      (ProxylessNAS, §3.3, equation 6)

A table records what was measured or estimated, on which device and with which versions. A missing
entry is an error that names the entry, never a default.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.json_file import read_object, write_object
from jaxnas.space import Space

SCHEMA = 2
# Parts that every network has: host is what host and bus add to the device's own time.
FIXED = ("host", "input", "stem", "first", "head", "pool", "classifier", "output")

_MOST_MS = 1e9  # twelve days


class TableMismatch(ValueError):
    """A latency table was made for another space, device, image size or setting."""


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """Latencies in ms of a space's fixed parts and candidates on one device, at batch 1.

    Attributes:
      space: name of the space.
      device: name of the device, such as MYRIADX_COMPILER.
      kind: `measured` on the device, or `estimated` from its compiler's schedule.
      image_size: deployment size in px.
      num_classes: number of classes of the classifier, one of the fixed layers.
      precision: precision that the device computes in.
      fixed_ms: latency that every network of the space has, by part.
      candidate_ms: float64 [blocks, candidates]; 0 for skip, infinite where not allowed.
      settings: settings of the device by name, such as shaves or threads.
      asked: settings that the user requested, by name, which may differ: a CPU of two cores uses
        two threads if 64 are requested.
      additivity: errors of sums of entries on whole held-out networks.
      provenance: versions, date, command.
    """

    space: str
    device: str
    kind: Literal["measured", "estimated"]
    image_size: int
    num_classes: int
    precision: str
    fixed_ms: Mapping[str, float]
    candidate_ms: np.ndarray
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    asked: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    additivity: Mapping[str, float] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def path_ms(self, path: np.ndarray) -> float:
        """Returns the latency of a path int32 [blocks]; infinite if a choice is not allowed."""
        return float(
            sum(self.fixed_ms.values()) + self.candidate_ms[np.arange(len(path)), path].sum()
        )

    @property
    def range_ms(self) -> tuple[float, float]:
        """Latencies of the fastest and the slowest network of the space."""
        finite = np.where(np.isfinite(self.candidate_ms), self.candidate_ms, -np.inf)
        fixed = sum(self.fixed_ms.values())
        return float(fixed + self.candidate_ms.min(1).sum()), float(fixed + finite.max(1).sum())

    def scaled(self, measured_ms: float, predicted_ms: float) -> "LatencyTable":
        """Returns the table with entries times measured / predicted, recorded in the provenance."""
        factor = measured_ms / predicted_ms
        scaling = float(self.provenance.get("scaled_by", 1.0)) * factor
        return dataclasses.replace(
            self,
            fixed_ms={k: v * factor for k, v in self.fixed_ms.items()},
            candidate_ms=self.candidate_ms * factor,
            provenance={**self.provenance, "scaled_by": scaling},
        )

    def check(self, devices: Sequence[str], image_size: int, settings: Mapping[str, Any]) -> None:
        """Checks that the table is for one of the devices, the image size and the settings.

        Settings that the table does not have are not checked. A setting matches if the user
        requested it for the table, or if the device was set to it. One that was requested and that
        the device was set to must not be missing.

        Raises:
          TableMismatch: the table is for another value; the message names both and the remedy.
        """
        checks: list[tuple[str, Sequence[Any], Sequence[Any]]] = [
            ("device", [self.device], devices),
            ("image size", [self.image_size], [image_size]),
        ]
        for name, value in settings.items():
            found = [given[name] for given in (self.asked, self.settings) if name in given]
            checks.append((name, found, [value]))
        # What the device was set to for the table must be set for the run, too.
        for name in self.asked.keys() & self.settings.keys() - settings.keys():
            checks.append((name, [self.asked[name]], [None]))
        for what, own, wanted in checks:
            if own and not any(value in wanted for value in own):
                made, *has = ("unset" if one is None else str(one) for one in (own[0], *wanted))
                raise TableMismatch(
                    f"the latency table was made for {what} {made}, this run has "
                    f"{' or '.join(has)}: build one with `python -m profiling.tables` or change "
                    f"the flag"
                )

    def save(self, file: pathlib.Path, space: Space) -> None:
        """Writes the table as JSON, with entries keyed by block and candidate to be readable."""
        blocks = {
            block.name: {
                str(c): ms for c, ms in zip(space.candidates, row, strict=True) if np.isfinite(ms)
            }
            for block, row in zip(space.blocks, self.candidate_ms.tolist(), strict=True)
        }
        document = {
            "schema": SCHEMA,
            "unit": "ms",
            "batch": 1,
            "space": self.space,
            "device": self.device,
            "kind": self.kind,
            "image_size": self.image_size,
            "num_classes": self.num_classes,
            "precision": self.precision,
            "settings": dict(self.settings),
            "asked": dict(self.asked),
            "additivity": dict(self.additivity),
            "provenance": dict(self.provenance),
            "fixed_ms": dict(self.fixed_ms),
            "candidate_ms": blocks,
        }
        write_object(file, document)

    @classmethod
    def load(cls, file: pathlib.Path, space: Space) -> "LatencyTable":
        """Reads a table for `space`.

        Raises:
          ValueError: the file is not a JSON table, has another schema, or has an entry that is
            missing, out of range or of another type; the message names the file and the entry.
          TableMismatch: the table is for another space.
        """
        document = read_object(file, "build one with `python -m profiling.tables`")
        schema, name = document.get("schema"), document.get("space")
        if schema != SCHEMA:
            raise ValueError(
                f"{file} has table schema {schema!r}, this version reads {SCHEMA}: "
                f"build it again with `python -m profiling.tables`"
            )
        if name != space.name:
            raise TableMismatch(
                f"{file} was made for the space {name}, this run has {space.name}:"
                f" build one with `python -m profiling.tables`"
            )
        entries = np.full(space.allowed.shape, np.inf)
        try:
            for row, column in zip(*np.nonzero(space.allowed), strict=True):
                block, candidate = space.blocks[row].name, space.candidates[column]
                entries[row, column] = _milliseconds(
                    document["candidate_ms"][block][str(candidate)],
                    f"{file}: {block} {candidate}",
                    zero=candidate.is_skip,
                )
            fixed_ms = {
                part: _milliseconds(document["fixed_ms"][part], f"{file}: {part}", zero=None)
                for part in FIXED
            }
            fields = {
                key: _of_type(document[key], kind, f"{file}: {key}")
                for key, kind in _FIELDS.items()
            }
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{file} has no entry {error}: build it again with `python -m profiling.tables`"
            ) from error
        return cls(
            space=name,
            candidate_ms=entries,
            fixed_ms=fixed_ms,
            asked=_of_type(document.get("asked", {}), dict, f"{file}: asked"),
            **fields,
        )


_FIELDS = {
    "device": str,
    "kind": str,
    "image_size": int,
    "num_classes": int,
    "precision": str,
    "settings": dict,
    "additivity": dict,
    "provenance": dict,
}


def _of_type(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(
            f"{what} is {value!r}, not of type {kind.__name__}: build the table again "
            f"with `python -m profiling.tables`"
        )
    return value


def _milliseconds(value: object, what: str, *, zero: bool | None) -> float:
    """Returns a table's entry. `zero` is True if it must be 0, False if it must not, else None."""
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not 0 <= value < _MOST_MS
        or (zero is not None and (value == 0) != zero)
    ):
        raise ValueError(
            f"{what} is {value} ms; build the table again with `python -m profiling.tables`"
        )
    return float(value)


@dataclasses.dataclass(frozen=True)
class LatencyModel:
    """Arrays of a latency table that a jitted step needs.

    Attributes:
      fixed_ms: float32 [].
      candidate_ms: float32 [blocks, candidates], 0 where not allowed (its probability is 0).
    """

    fixed_ms: jax.Array
    candidate_ms: jax.Array

    @classmethod
    def of(cls, table: LatencyTable) -> "LatencyModel":
        """Returns the model of a table."""
        finite = np.where(np.isfinite(table.candidate_ms), table.candidate_ms, 0.0)
        return cls(jnp.float32(sum(table.fixed_ms.values())), jnp.asarray(finite, jnp.float32))

    def expected_ms(self, probabilities: jax.Array) -> jax.Array:
        """Returns E[LAT] in ms, float32 [], of probabilities float32 [blocks, candidates]."""
        return self.fixed_ms + jnp.sum(probabilities * self.candidate_ms)

    def path_ms(self, path: jax.Array) -> jax.Array:
        """Returns the latency in ms, float32 [], of an allowed path int32 [blocks]."""
        return self.fixed_ms + jnp.sum(self.candidate_ms[jnp.arange(path.shape[0]), path])


jax.tree_util.register_dataclass(LatencyModel)
