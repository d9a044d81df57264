"""Preparation of data sets by tensorflow-datasets, and lookup of prepared ones."""

import contextlib
import pathlib
import sys

import tensorflow_datasets as tfds

from jaxnas.data.digits import Digits
from jaxnas.data.digits_hard import DigitsHard
from jaxnas.data.folder import folder_spec, is_folder
from jaxnas.data.imagenet import INSTRUCTIONS, TRAIN, VALIDATION, Imagenet2012
from jaxnas.data.prepared import is_prepared, prepared_spec
from jaxnas.data.specs import SPECS, DatasetSpec

# The only format of tensorflow-datasets with random access that is read without TensorFlow.
_FORMAT = "array_record"
# Data sets that need no download and are prepared if missing.
_BUNDLED = {builder.name: builder for builder in (Digits, DigitsHard)}


class DatasetNotPrepared(ValueError):
    """A data set is not on disk in the required form; the message explains how to prepare it."""


def dataset(name: str) -> DatasetSpec:
    """Returns the specification of a data set.

    Args:
      name: one of `SPECS`, or the path of a folder: of pictures, with `train/CLASS/*.jpg` and
        `test/CLASS/*.jpg`, or of a set that tensorflow-datasets has prepared.

    Raises:
      ValueError: the name is none of these, or the folder has another layout.
    """
    if name in SPECS:
        return SPECS[name]
    if is_folder(name):
        return folder_spec(name)
    if is_prepared(name):
        return prepared_spec(name)
    raise ValueError(
        f"unknown data set {name!r}; known are {', '.join(sorted(SPECS))}, folders of pictures "
        "with train/CLASS/*.jpg and test/CLASS/*.jpg, and folders of other sets of "
        "tensorflow-datasets that experiments.prepare has prepared"
    )


def prepare(name: str, data_dir: str | pathlib.Path | None = None) -> pathlib.Path:
    """Ensures that a data set of tensorflow-datasets can be read.

    Uses no network and changes no other set. `digits` and `digits_hard` are prepared if missing, in
    seconds, and any number of processes may do so at once. The others are only looked up.

    Args:
      name: one of `SPECS`, or the folder of a prepared set.
      data_dir: folder of all data sets; None uses that of tensorflow-datasets, $TFDS_DATA_DIR or
        tensorflow_datasets in the home folder.

    Returns:
      The folder of the newest prepared version.

    Raises:
      ValueError: the name is unknown.
      DatasetNotPrepared: the set is not prepared, has another file format, or lacks a required
        split.
    """
    spec = dataset(name)
    root = _root(data_dir)
    if is_prepared(name):
        _check_prepared(spec, root, pathlib.Path(name))
        return pathlib.Path(name)
    folder = _newest_version(root / name)
    if folder is None and name in _BUNDLED:
        _prepare_bundled(name, root)
        folder = _newest_version(root / name)
    if folder is None:
        raise DatasetNotPrepared(
            f"data set {name!r} is not prepared in {root}. {_instructions(name, root)}"
        )
    _check_prepared(spec, root, folder)
    return folder


def make(name: str, data_dir: str | pathlib.Path | None = None) -> str:
    """Prepares a data set if needed, with tensorflow-datasets' progress on standard error.

    Args:
      name: one of `SPECS`; a folder, which is left unchanged; or another set of tensorflow-datasets
        with its configuration, such as `imagenette/320px-v2`.
      data_dir: as for `prepare`.

    Returns:
      The name by which `dataset` and `load` find it.

    Raises:
      ValueError: the name is unknown.
      DatasetNotPrepared: the set cannot be prepared here, for lack of archives, of the network, or
        of TensorFlow, which some builders of tensorflow-datasets need.
    """
    if is_folder(name) or is_prepared(name):
        return name
    if name in _BUNDLED:
        prepare(name, data_dir)
        return name
    root = _root(data_dir)
    if name in SPECS and _newest_version(root / name) is not None:
        return name
    if name == Imagenet2012.name:
        _check_archives(root / "downloads" / "manual")
    try:
        # TFDS reports on standard output, which is reserved for the program's results.
        with contextlib.redirect_stdout(sys.stderr):
            builder = (
                Imagenet2012(data_dir=root)
                if name == Imagenet2012.name
                else tfds.builder(name, data_dir=root)
            )
            builder.download_and_prepare(file_format=_FORMAT)
    except tfds.core.DatasetNotFoundError:
        dataset(name)  # raises an error that lists the known sets
        raise
    except (ImportError, OSError) as error:
        raise DatasetNotPrepared(
            f"data set {name!r} cannot be prepared: {error}. {_instructions(name, root)}"
        ) from error
    return name if name in SPECS else str(builder.data_dir)


def _check_archives(folder: pathlib.Path) -> None:
    missing = [name for name in (TRAIN, VALIDATION) if not (folder / name).is_file()]
    if missing:
        raise DatasetNotPrepared(
            f"imagenet2012 is prepared from two archives, and {folder} lacks "
            f"{' and '.join(missing)}: {INSTRUCTIONS}"
        )


def _root(data_dir: str | pathlib.Path | None) -> pathlib.Path:
    root = data_dir or tfds.core.constants.get_default_data_dir()
    try:
        return pathlib.Path(root).expanduser()
    except RuntimeError as error:
        raise DatasetNotPrepared(
            f"{root} cannot be resolved, since this user has no home; give a folder with --data_dir"
        ) from error


def _newest_version(folder: pathlib.Path) -> pathlib.Path | None:
    versions = [
        info.parent
        for info in folder.glob("*/dataset_info.json")
        if tfds.core.Version.is_valid(info.parent.name)
    ]
    return max(versions, key=lambda path: tfds.core.Version(path.name), default=None)


def _prepare_bundled(name: str, root: pathlib.Path) -> None:
    tfds.disable_progress_bar()
    builder = _BUNDLED[name](data_dir=root)
    try:
        # TFDS reports on standard output; see `make`.
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(file_format=_FORMAT)
    except OSError as error:
        # TFDS writes into a temporary folder and renames it at the end, which fails if another
        # process was first. That process's files are equally good.
        if not builder.is_prepared():
            raise DatasetNotPrepared(
                f"data set {name!r} cannot be prepared in {root} ({error}); "
                f"name a folder that can be written with --data_dir"
            ) from error


def _check_prepared(spec: DatasetSpec, root: pathlib.Path, folder: pathlib.Path) -> None:
    info = tfds.builder_from_directory(folder).info
    if info.file_format is None or info.file_format.value != _FORMAT:
        found = info.file_format.value if info.file_format else "unknown"
        raise DatasetNotPrepared(
            f"data set {spec.name!r} in {folder} has the file format {found}, and only {_FORMAT} "
            f"can be read at random. Convert it into another data folder, with TensorFlow "
            f"installed: tfds convert_format --dataset_version_dir={folder} "
            f"--out_file_format={_FORMAT} --out_dir=NEW_DATA_DIR/{spec.name}/{folder.name}"
        )
    missing = sorted({spec.train_split, spec.test_split} - set(info.splits))
    if missing:
        raise DatasetNotPrepared(
            f"data set {spec.name!r} in {folder} has the splits {sorted(info.splits)} and lacks "
            f"{missing}. Remove that folder and prepare again. {_instructions(spec.name, root)}"
        )


def _instructions(name: str, root: pathlib.Path) -> str:
    command = f"python -m experiments.prepare --dataset={name} --data_dir={root}"
    if name == Imagenet2012.name:
        return f"In {root}/downloads/manual, {INSTRUCTIONS}; then run once: {command}."
    return (
        f"Run once, with network access: {command}. This may require TensorFlow (pip install "
        f"tensorflow-cpu), which is not needed later."
    )
