"""Checkpoints of a run: complete after a kill, verified when read, never silently replaced."""

import contextlib
import json
import os
import pathlib
import tempfile
import weakref
import zlib
from collections.abc import Iterator, Mapping
from importlib import metadata as installed
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

State = TypeVar("State")

_SCHEMA = 1
_PACKAGES = ("jax", "jaxlib", "numpy", "orbax-checkpoint")


class CheckpointUnreadable(RuntimeError):
    """A checkpoint exists but its files are damaged; the message names the step and the cause."""


class Checkpoints:
    """The checkpoints of one run in one folder.

    `save` copies the state to host memory and returns. The files are written in the background,
    into a folder that gets its final name last, so a process killed at any time leaves either a
    complete checkpoint or none. Every process of a distributed run makes the same calls. Process 0
    writes, so the arrays must be the same in all processes.
    """

    def __init__(self, directory: str | os.PathLike, config: Mapping[str, Any], keep: int = 2):
        """Opens the folder, creates it if missing, and removes what a killed save left in it.

        Args:
          directory: folder of this run alone.
          config: values that distinguish runs, in JSON types; a checkpoint saved with another
            configuration is refused. Leave out what may change on resuming.
          keep: number of newest checkpoints to keep; with two, one remains if the newest is
            damaged.

        Raises:
          ValueError: `keep` is below 1.
          TypeError: `config` holds a value that JSON cannot represent.
        """
        if keep < 1:
            raise ValueError(f"keep is {keep}; it must be at least 1, and 2 survives damage to one")
        self._directory = pathlib.Path(directory).expanduser().absolute()
        # Through JSON and back, since a tuple would differ from the list that is read back.
        self._config = json.loads(json.dumps(dict(config)))
        self._manager = ocp.CheckpointManager(
            self._plain_path(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=True, cleanup_tmp_directories=True
            ),
            item_names=("state", "metadata"),
        )

    def _plain_path(self) -> pathlib.Path:
        """Returns the folder's path, its parents replaced if the path contains [, * or ?.

        orbax (0.11) takes these for a pattern: it finds no files and writes unreadable checkpoints.
        """
        if not set("[*?") & set(str(self._directory)):
            return self._directory
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._directory.parent, os.O_PATH | os.O_DIRECTORY)
        weakref.finalize(self, os.close, descriptor)
        return pathlib.Path(f"/proc/self/fd/{descriptor}", self._directory.name)

    def save(self, step: int, state: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """Saves the state that step `step` starts from.

        Args:
          step: step number, greater than every step saved before.
          state: pytree of non-empty arrays of any numeric dtype and shape, which may be donated
            afterwards. Pass a typed PRNG key as `jax.random.key_data(key)`.
          metadata: further values in JSON types, which `restore` returns.

        Raises:
          ValueError: the step is not greater than the last, or a leaf is not such an array.
          TypeError: `metadata` holds a value that JSON cannot represent.
          OSError: this or the previous checkpoint could not be written.
        """
        latest = self.latest_step()
        if latest is not None and step <= latest:
            raise ValueError(
                f"step {step} cannot be saved, {self._directory} holds step {latest}; restore it "
                "and resume from there, or use an empty folder"
            )
        arrays = {name: _host(name, leaf) for name, leaf in _named(state).items()}
        facts = {
            "schema": _SCHEMA,
            "step": step,
            "config": self._config,
            "versions": {package: installed.version(package) for package in _PACKAGES},
            "metadata": dict(metadata or {}),
            "arrays": {name: _describe(array) for name, array in arrays.items()},
        }
        json.dumps(facts)  # fails here and not in the writing thread, where no caller would see it
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays), metadata=ocp.args.JsonSave(facts)
                ),
            )

    def wait(self) -> None:
        """Waits until every saved checkpoint is on disk; raises OSError if a write failed."""
        with self._writing():
            self._manager.wait_until_finished()

    def latest_step(self) -> int | None:
        """Returns the newest step that is saved or being written, or None."""
        return self._manager.latest_step()

    def restore(self, like: State) -> tuple[State, dict[str, Any]]:
        """Restores the newest readable checkpoint.

        A damaged checkpoint is logged and renamed to a name that begins with `unreadable`, and the
        one before it is used.

        Args:
          like: pytree of arrays or `jax.ShapeDtypeStruct`s: the expected structure, shapes and
            dtypes, and the sharding where a leaf has one.

        Returns:
          The state, bit for bit as saved, as jax arrays in the structure of `like`; and a
          dictionary of `schema`, `step`, `config`, `versions` and the `metadata` given to `save`.

        Raises:
          FileNotFoundError: the folder holds no checkpoint.
          CheckpointUnreadable: every checkpoint in the folder is damaged.
          ValueError: the checkpoint has another schema, configuration or arrays; the message names
            the differences.
        """
        self.wait()
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise FileNotFoundError(
                f"no checkpoint in {self._directory}; save one first, or start without resuming"
            )
        damaged: list[CheckpointUnreadable] = []
        for step in steps:
            try:
                facts, arrays = self._read(step, like)
            except CheckpointUnreadable as error:
                logging.warning("%s", error)
                damaged.append(error)
                continue
            self._move_aside(steps[: len(damaged)])
            if damaged:
                logging.warning("resuming from step %d of %s instead", step, self._directory)
            del facts["arrays"]
            return _placed(like, arrays), facts
        raise CheckpointUnreadable(
            f"none of the checkpoints of steps {steps[::-1]} in {self._directory} can be read; "
            "restore the folder from a backup, or start again in an empty one. "
            + " ".join(str(error) for error in damaged)
        ) from damaged[0]

    def close(self) -> None:
        """Waits for pending writes and closes; raises OSError if a write failed."""
        with self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Converts errors of writing to OSError; for a full disk orbax raises ValueError, later."""
        try:
            yield
        except Exception as error:
            raise OSError(
                f"a checkpoint could not be written to {self._directory}, earlier ones are kept: "
                f"{error}"
            ) from error

    def _read(self, step: int, like: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        facts = self._item(step, "metadata", ocp.args.JsonRestore())
        if not isinstance(facts, dict) or facts.get("schema") != _SCHEMA:
            raise ValueError(
                f"checkpoint {step} in {self._directory} does not have schema {_SCHEMA}; it was "
                "written by another program or version, and only that one can read it"
            )
        _check_config(facts["config"], self._config, f"checkpoint {step} in {self._directory}")
        _check_arrays(facts["arrays"], like, f"checkpoint {step} in {self._directory}")
        # Into host memory, so that a failure here is due to the files, not to the device's memory.
        arrays = self._item(step, "state", ocp.args.StandardRestore())
        changed = sorted(
            name
            for name, description in facts["arrays"].items()
            if name not in arrays or _describe(np.asarray(arrays[name])) != description
        )
        if changed:
            raise CheckpointUnreadable(
                f"checkpoint {step} in {self._directory} is damaged: the checksums of "
                f"{_some(changed)} differ from those saved."
            )
        return facts, arrays

    def _item(self, step: int, name: str, how: ocp.args.CheckpointArgs) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{name: how}))[name]
        except Exception as error:  # orbax raises a bare Exception where a data file is cut short
            raise CheckpointUnreadable(
                f"the {name} of checkpoint {step} in {self._directory} cannot be read: "
                f"{type(error).__name__}: {error}."
            ) from error

    def _move_aside(self, steps: list[int]) -> None:
        if not steps:
            return
        # Not deleted, since a transient fault of the file system looks the same. Not left in place,
        # since the run will save these steps again. All processes must have finished reading first.
        multihost_utils.sync_global_devices("jaxnas checkpoints read")
        if jax.process_index() == 0:
            for step in steps:
                target = tempfile.mkdtemp(prefix=f"unreadable-{step}-", dir=self._directory)
                (self._directory / str(step)).rename(target)
        multihost_utils.sync_global_devices("jaxnas checkpoints moved")
        self._manager.reload()


def _named(tree: Any) -> dict[str, Any]:
    """Returns the leaves by their path in the tree, such as `params/stem/kernel`."""
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in named:
            raise ValueError(f"two leaves of the state are named {name!r}; rename one")
        named[name] = leaf
    return named


def _host(name: str, leaf: Any) -> np.ndarray:
    if not isinstance(leaf, jax.Array | np.ndarray):
        raise ValueError(
            f"{name!r} in the state is of type {type(leaf).__name__}; save arrays in the state "
            "and anything else in the metadata"
        )
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        raise ValueError(f"{name!r} in the state is a typed PRNG key; save jax.random.key_data")
    if not leaf.size:
        raise ValueError(
            f"{name!r} in the state has the shape {leaf.shape}; orbax stores no empty arrays, "
            "leave it out"
        )
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        if not leaf.is_fully_replicated:
            raise ValueError(
                f"{name!r} in the state is sharded across processes as {leaf.sharding}; replicate "
                "it before saving"
            )
        leaf = leaf.addressable_data(0)
    return np.asarray(leaf)


def _describe(array: np.ndarray) -> dict[str, Any]:
    # The storage format has no checksum of array contents: a changed byte is read as another number
    # without an error.
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return {"shape": list(array.shape), "dtype": array.dtype.name, "crc32": zlib.crc32(data.data)}


def _check_config(found: Mapping[str, Any], expected: Mapping[str, Any], what: str) -> None:
    missing = "absent"
    fields = sorted(set(found) | set(expected))
    differing = [
        f"{field} (saved: {found.get(field, missing)!r}, now: {expected.get(field, missing)!r})"
        for field in fields
        if field not in found or field not in expected or found[field] != expected[field]
    ]
    if differing:
        raise ValueError(
            f"{what} has another configuration: {', '.join(differing)}. Resume with the saved "
            "configuration, or use another folder"
        )


def _check_arrays(found: Mapping[str, Any], like: Any, what: str) -> None:
    expected = {name: (list(leaf.shape), leaf.dtype.name) for name, leaf in _named(like).items()}
    saved = {name: (entry["shape"], entry["dtype"]) for name, entry in found.items()}
    differing = [
        f"{name} (saved: {_form(saved.get(name))}, expected: {_form(expected.get(name))})"
        for name in sorted(set(saved) | set(expected))
        if saved.get(name) != expected.get(name)
    ]
    if differing:
        raise ValueError(
            f"{what} holds arrays that differ from this program's: {_some(differing)}. Resume "
            "with the version that saved it, or use another folder"
        )


def _form(shape_and_dtype: tuple[list[int], str] | None) -> str:
    if shape_and_dtype is None:
        return "absent"
    shape, dtype = shape_and_dtype
    return f"{dtype}{shape}"


def _some(names: list[str], most: int = 5) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _placed(like: State, arrays: Mapping[str, np.ndarray]) -> State:
    leaves = [
        _put(arrays[name], getattr(leaf, "sharding", None)) for name, leaf in _named(like).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _put(array: np.ndarray, sharding: jax.sharding.Sharding | None) -> jax.Array:
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    # device_put would compare each array across all processes, one after the other.
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
