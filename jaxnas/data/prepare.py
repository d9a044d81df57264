"""Find a prepared data set on disk, and say how to prepare it where it is not."""

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

# The one format of tensorflow-datasets with random access that needs no TensorFlow to read.
_FORMAT = "array_record"
# What needs no download is prepared where it is missing.
_CARRIED = {builder.name: builder for builder in (Digits, DigitsHard)}


class DatasetNotPrepared(ValueError):
    """A data set is not on disk in the form it is read in; the message says how to prepare it."""


def dataset(name: str) -> DatasetSpec:
    """The specification of a data set.

    Args:
        name: one of `SPECS`, or the path of a folder: of pictures, with `train/CLASS/*.jpg` and
            `test/CLASS/*.jpg`, or of a set that tensorflow-datasets has prepared.

    Raises:
        ValueError: none of these, or a folder that is not laid out so.
    """
    if name in SPECS:
        return SPECS[name]
    if is_folder(name):
        return folder_spec(name)
    if is_prepared(name):
        return prepared_spec(name)
    raise ValueError(
        f"unknown data set {name!r}; known are {', '.join(sorted(SPECS))}, folders of pictures "
        "with train/CLASS/*.jpg and test/CLASS/*.jpg, and the folders of what experiments.prepare "
        "has made of others of tensorflow-datasets"
    )


def prepare(name: str, data_dir: str | pathlib.Path | None = None) -> pathlib.Path:
    """Makes sure that a data set of tensorflow-datasets can be read.

    Touches neither the network nor the other sets.
    `digits` and `digits_hard` are prepared where they are missing, in seconds, and any number of
    processes may do so at once. The others are only looked for.

    Args:
        name: one of `SPECS`, or the folder of a prepared set.
        data_dir: the folder of all data sets; where unset, that of tensorflow-datasets:
            $TFDS_DATA_DIR, or tensorflow_datasets in the home folder.

    Returns:
        The folder of the newest prepared version.

    Raises:
        ValueError: unknown name.
        DatasetNotPrepared: not prepared, prepared in another file format, or without a split
            that is needed.
    """
    spec = dataset(name)
    root = _root(data_dir)
    if is_prepared(name):
        _check_prepared(spec, root, pathlib.Path(name))
        return pathlib.Path(name)
    folder = _newest_version(root / name)
    if folder is None and name in _CARRIED:
        _prepare_carried(name, root)
        folder = _newest_version(root / name)
    if folder is None:
        raise DatasetNotPrepared(
            f"data set {name!r} is not prepared in {root}. {_instructions(name, root)}"
        )
    _check_prepared(spec, root, folder)
    return folder


def make(name: str, data_dir: str | pathlib.Path | None = None) -> str:
    """Prepares a data set where it is not, with tensorflow-datasets' progress on standard error.

    Args:
        name: one of `SPECS`; a folder, which is left as it is; or another set of
            tensorflow-datasets with its configuration, such as `imagenette/320px-v2`.
        data_dir: as for `prepare`.

    Returns:
        What `dataset` and `load` know it by.

    Raises:
        ValueError: unknown name.
        DatasetNotPrepared: it cannot be prepared here: archives are missing, or TensorFlow is,
            which some builders of tensorflow-datasets need, or the network.
    """
    if is_folder(name) or is_prepared(name):
        return name
    if name in _CARRIED:
        prepare(name, data_dir)
        return name
    root = _root(data_dir)
    if name in SPECS and _newest_version(root / name) is not None:
        return name
    if name == Imagenet2012.name:
        _check_archives(root / "downloads" / "manual")
    try:
        # On standard output, which belongs to the program's own results, it reports, too.
        with contextlib.redirect_stdout(sys.stderr):
            builder = (
                Imagenet2012(data_dir=root)
                if name == Imagenet2012.name
                else tfds.builder(name, data_dir=root)
            )
            builder.download_and_prepare(file_format=_FORMAT)
    except tfds.core.DatasetNotFoundError:
        dataset(name)  # says what is known
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
            f"{root} is in no folder, for this user has no home; name one with --data_dir"
        ) from error


def _newest_version(folder: pathlib.Path) -> pathlib.Path | None:
    versions = [
        info.parent
        for info in folder.glob("*/dataset_info.json")
        if tfds.core.Version.is_valid(info.parent.name)
    ]
    return max(versions, key=lambda path: tfds.core.Version(path.name), default=None)


def _prepare_carried(name: str, root: pathlib.Path) -> None:
    tfds.disable_progress_bar()
    builder = _CARRIED[name](data_dir=root)
    try:
        # TFDS reports on standard output, which belongs to the program's own results.
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(file_format=_FORMAT)
    except OSError as error:
        # TFDS writes into a folder of its own and renames it at the end, which fails where
        # another process was first. Its files are as good as ours.
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
        f"Run once, with network access: {command}. TensorFlow (pip install tensorflow-cpu) "
        f"may be needed for that, though not later."
    )
