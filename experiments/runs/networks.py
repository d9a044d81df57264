"""Networks that a user names: by a published name, an architecture's text or a run's folder.

The folder of a search or training has its network in `architecture.json`.
"""

import dataclasses
import pathlib
import re
from typing import Any

from jaxnas.json_file import read_object
from jaxnas.network import NetworkSpec, network_of
from jaxnas.space import format_arch
from jaxnas.space_file import find_space
from jaxnas.zoo import ZOO, find_network

GIVE_RUN = "give the folder of a run"
_TOKEN = re.compile(r"[kf]\d+e\d+|-")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network without its number of classes.

    Attributes:
      text: one token for each block, or the name of a published network.
      space: space of the blocks; None for a published network.
    """

    text: str
    space: str | None

    def document(self) -> dict[str, str | None]:
        """Returns the entries in the JSON files of a run."""
        return {"architecture": self.text, "space": self.space}

    def spec(self, num_classes: int, name: str = "network") -> NetworkSpec:
        """Returns the network's specification; a published network keeps its own name."""
        if self.space is None:
            return find_network(self.text, num_classes)
        space = find_space(self.space)
        return network_of(space, space.parse(self.text), num_classes, name)


def find_architecture(text: str, space: str | None = None) -> Architecture:
    """Returns the architecture that a user names.

    Args:
      text: name of a published network, folder of a run, or text of an architecture.
      space: space of an architecture's text; None is proxyless.

    Raises:
      ValueError: the text is none of these, or does not match the space; says what is allowed.
    """
    if text in ZOO:
        if space is not None:
            raise ValueError(
                f"--space={space}: the published network {text} has no space; leave --space out"
            )
        return Architecture(text, None)
    if text and pathlib.Path(text).is_dir():
        found = read_architecture(pathlib.Path(text))
        if space not in (None, found.space):
            raise ValueError(
                f"--space={space}: the network in {text} belongs to {found.space or 'no space'}; "
                f"leave --space out"
            )
        return found
    if not all(map(_TOKEN.fullmatch, text.split())) or not text.split():
        raise ValueError(
            f"unknown network {text!r}: give one of {', '.join(ZOO)}, the folder of a run, or an "
            f"architecture such as 'k3e6 - k5e3 ...', one token for each block of --space"
        )
    space = "proxyless" if space is None else space
    chosen = find_space(space)
    return Architecture(format_arch(chosen.parse(text)), space)


def read_architecture(folder: pathlib.Path) -> Architecture:
    """Returns the network of a run's folder.

    Raises:
      ValueError: the folder is not that of a run, or the run has no network yet.
    """
    if not (folder / "config.json").exists():
        raise ValueError(
            f"{folder} is not the folder of a run (no config.json): give the --workdir of a search "
            f"or training"
        )
    if not (folder / "architecture.json").exists():
        raise ValueError(
            f"{folder} has no network yet (no architecture.json): let the search finish first"
        )
    document = read_object(folder / "architecture.json", GIVE_RUN)
    try:
        text, space = document["architecture"], document["space"]
        if not isinstance(text, str) or not isinstance(space, str | None):
            raise ValueError(f"architecture is {text!r} and space {space!r}; both must be strings")
        architecture = Architecture(text, space)
        architecture.spec(2)
        _check_space(folder, architecture)
    except KeyError as error:
        raise ValueError(
            f"{folder / 'architecture.json'} has no entry {error}; give the folder of a run of "
            f"this version"
        ) from error
    except ValueError as error:
        raise ValueError(f"{folder / 'architecture.json'} is invalid: {error}") from error
    return architecture


def _check_space(folder: pathlib.Path, architecture: Architecture) -> None:
    """Raises ValueError where the space's file has changed since the run."""
    then = read_object(folder / "config.json", GIVE_RUN).get("space_name")
    if architecture.space is None or then is None:  # none in a run of an earlier version
        return
    if find_space(architecture.space).name != then:
        raise ValueError(
            f"the file of its space, {architecture.space}, has changed since the run; restore it"
        )


def read_accuracy(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the accuracy in a run's result; None if the run has no result yet.

    Raises:
      ValueError: the result cannot be read, or has no accuracy.
    """
    if not (folder / "result.json").exists():
        return None
    accuracy = read_object(folder / "result.json", GIVE_RUN).get("accuracy")
    if not isinstance(accuracy, dict) or not {"dataset", "split", "top1"} <= set(accuracy):
        raise ValueError(
            f"{folder / 'result.json'} has no accuracy with dataset, split and top1; "
            f"give the folder of a run of this version"
        )
    return accuracy
