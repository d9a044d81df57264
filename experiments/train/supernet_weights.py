"""Extracts a network with the weights of a search's supernet."""

import contextlib
import pathlib

import jax

from experiments.runs.config import identity_of
from experiments.runs.loop import SEARCH, checkpoint_folder
from experiments.runs.networks import GIVE_RUN, read_architecture
from experiments.runs.run_folder import lock_folder
from experiments.train.config import TrainConfig
from jaxnas import data, search_state, supernet
from jaxnas.checkpoint import Checkpoints
from jaxnas.json_file import read_object
from jaxnas.network import Network
from jaxnas.space_file import find_space


def check_split(folder: pathlib.Path, config: TrainConfig) -> None:
    """Checks that a training holds out the pictures that the search of its supernet held out.

    Others would choose the best epoch by pictures that the supernet's weights have learned.

    Raises:
      ValueError: it would not; the message names the flags.
    """
    document = read_object(folder / "config.json", GIVE_RUN)
    if document.get("pictures") != config.pictures:
        raise ValueError(
            f"--start=supernet: the search in {folder} had other pictures than "
            f"--dataset={config.dataset} has now; restore the files, or give --start=scratch"
        )
    default = data.dataset(config.dataset).held_out
    wanted = []
    for name in ("dataset", "seed", "held_out", "train_examples"):
        searched, mine = (
            default if name == "held_out" and value is None else value
            for value in (document.get(name), getattr(config, name))
        )
        if mine != searched:
            wanted.append(
                f"leave --{name} out" if searched is None else f"give --{name}={searched}"
            )
    if wanted:
        raise ValueError(
            f"--start=supernet: the search in {folder} held out other pictures; "
            f"{', '.join(wanted)}, or give --start=scratch"
        )


def from_supernet(folder: pathlib.Path, num_classes: int, text: str | None = None) -> Network:
    """Returns a network with the weights of the newest checkpoint of a search.

    Args:
      folder: folder of the search.
      num_classes: number of classes of the data set to train on.
      text: text form of the architecture; None is the one that the search derived.

    Raises:
      ValueError: the folder is not that of a search or is in use, or its weights are of another
        space or number of classes.
      CheckpointUnreadable: all checkpoints are damaged.
    """
    architecture = read_architecture(folder)
    document = read_object(folder / "config.json", GIVE_RUN)
    for name in ("space", "dataset", "search_epochs"):
        if not document.get(name):
            raise ValueError(
                f"{folder} holds no supernet of this version's search (its config.json lacks "
                f"{name}): give the folder of a search, or --start=scratch"
            )
    dataset, space = document["dataset"], find_space(document["space"])
    classes = data.dataset(dataset).num_classes
    if classes != num_classes:
        raise ValueError(
            f"--start=supernet: the supernet in {folder} was trained on {dataset} with {classes} "
            f"classes, this data set has {num_classes}; give the same data set, or --start=scratch"
        )
    if architecture.space != document["space"]:
        raise ValueError(
            f"{folder}: architecture.json is of the space {architecture.space}, the supernet of "
            f"{document['space']}; give the unchanged folder of a search"
        )
    like = jax.eval_shape(
        lambda: search_state.init_state(space, classes, search_state.Hyperparameters(), 0)
    )
    # Opening checkpoints deletes the files of an unfinished save.
    with lock_folder(folder):
        # Checked before `Checkpoints` opens the folder, which creates it if it is missing.
        checkpoints_folder = checkpoint_folder(folder, SEARCH)
        if not checkpoints_folder.is_dir():
            raise ValueError(
                f"{folder} has no checkpoints: give the unchanged folder of a search, or "
                f"--start=scratch"
            )
        with contextlib.closing(
            Checkpoints(checkpoints_folder, identity_of(document))
        ) as checkpoints:
            if checkpoints.latest_step() is None:
                raise ValueError(
                    f"{checkpoints_folder} is empty: give the unchanged folder of a search, or "
                    f"--start=scratch"
                )
            state, _ = checkpoints.restore(like)
    return supernet.extract(
        space,
        state.params,
        state.stats,
        space.path(space.parse(architecture.text if text is None else text)),
        classes,
        name="jaxnas",
    )
