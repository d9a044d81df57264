"""Networks as programs are told of them: a published name, an architecture's text, a run's folder.

A run's folder, of a search or of a training, names its network in `architecture.json`.
"""

import dataclasses
import pathlib
import re
from typing import Any

from jaxnas.json_file import read_object
from jaxnas.network import NetworkSpec, network_of
from jaxnas.space import find_space, format_arch
from jaxnas.zoo import ZOO, find_network

GIVE_RUN = "give the folder of a run"
_TOKEN = re.compile(r"k\d+e\d+|-")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network, whatever the number of classes.

    Attributes:
      text: one token a block, or the name of a published network.
      space: whose blocks they are; None for a published network.
    """

    text: str
    space: str | None

    def document(self) -> dict[str, str | None]:
        """What the JSON files of a run say of it."""
        return {"architecture": self.text, "space": self.space}

    def spec(self, num_classes: int, name: str = "network") -> NetworkSpec:
        """The network's specification; a published network keeps its own name."""
        if self.space is None:
            return find_network(self.text, num_classes)
        space = find_space(self.space)
        return network_of(space, space.parse(self.text), num_classes, name)


def find_architecture(text: str, space: str | None = None) -> Architecture:
    """The architecture that a user names.

    Args:
      text: a published network's name, a run's folder, or an architecture's text.
      space: of an architecture's text; None is proxyless.

    Raises:
      ValueError: nothing of these, or a space that does not go with it; says what is allowed.
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
                f"--space={space}: the network in {text} is of "
                f"{found.space or 'no space'}; leave --space out"
            )
        return found
    if not all(map(_TOKEN.fullmatch, text.split())) or not text.split():
        raise ValueError(
            f"unknown network {text!r}: give one of {', '.join(ZOO)}, the folder of "
            f"a run, or an architecture such as 'k3e6 - k5e3 ...', one token a block "
            f"of --space"
        )
    space = "proxyless" if space is None else space
    chosen = find_space(space)
    return Architecture(format_arch(chosen.parse(text)), space)


def read_architecture(folder: pathlib.Path) -> Architecture:
    """The network of a run's folder.

    Raises:
      ValueError: a folder of something else, or of a run without a network so far.
    """
    if not (folder / "config.json").exists():
        raise ValueError(
            f"{folder} is no folder of a run (no config.json): give the --workdir of "
            f"a search or a training"
        )
    if not (folder / "architecture.json").exists():
        raise ValueError(
            f"{folder} has no network yet (no architecture.json): let its search come "
            f"to its end first"
        )
    document = read_object(folder / "architecture.json", GIVE_RUN)
    try:
        text, space = document["architecture"], document["space"]
        if not isinstance(text, str) or not isinstance(space, str | None):
            raise ValueError(f"architecture is {text!r} and space {space!r}; both are texts")
        architecture = Architecture(text, space)
        architecture.spec(2)
    except KeyError as error:
        raise ValueError(
            f"{folder / 'architecture.json'} has no {error}; give the folder of a run "
            f"of this version"
        ) from error
    except ValueError as error:
        raise ValueError(f"{folder / 'architecture.json'} does not fit: {error}") from error
    return architecture


def read_accuracy(folder: pathlib.Path) -> dict[str, Any] | None:
    """What a run's result says of its network's accuracy; None where it has no result yet.

    Raises:
      ValueError: a result that cannot be read.
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
