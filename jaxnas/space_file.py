"""Search spaces by name or from a JSON file."""

import inspect
import json
import pathlib
import zlib

from jaxnas.builtin_spaces import SPACES
from jaxnas.json_file import read_object
from jaxnas.space import MOST_BLOCKS, MOST_CHANNELS, Space, staged_space


def find_space(name: str) -> Space:
    """Returns the space of this name, or the one that a JSON file describes.

    Args:
      name: one of SPACES, or the path of a `.json` file that holds an object of `staged_space`'s
        arguments. Its space is named after the file and its content, so a latency table made before
        a change of the file is refused after it.

    Raises:
      ValueError: the name is unknown, or the file describes no space.
    """
    if name in SPACES:
        return SPACES[name]
    if not name.endswith(".json"):
        raise ValueError(
            f"unknown space {name!r}, allowed are {', '.join(SPACES)}, or a JSON file "
            f"that describes one"
        )
    return _read_space(pathlib.Path(name))


def _read_space(file: pathlib.Path) -> Space:
    document = read_object(file, f"give a JSON file, or one of {', '.join(SPACES)}")
    parameters = inspect.signature(staged_space).parameters
    keys = [key for key in parameters if key != "name"]
    optional = [key for key in keys if parameters[key].default is not inspect.Parameter.empty]
    required = set(keys) - set(optional)
    if not required <= set(document) <= set(keys):
        raise ValueError(
            f"--space={file} describes no space: give an object with "
            f"{', '.join(keys)} and nothing else; {' and '.join(optional)} may be "
            f"left out"
        )
    if "candidates" in document and {"kernels", "expansions"} & set(document):
        raise ValueError(
            f"--space={file} has candidates beside kernels or expansions; give one or the others"
        )
    for key, value in document.items():
        if key in ("candidates", "first_block", "activation", "padding"):
            _check_tokens(file, key, value)
        else:
            _check_numbers(file, key, value)
    if sum(document["counts"]) > MOST_BLOCKS:
        raise ValueError(
            f"--space={file} has {sum(document['counts'])} blocks; {MOST_BLOCKS} are allowed"
        )
    text = json.dumps(document, sort_keys=True)
    return staged_space(f"{file.stem}-{zlib.crc32(text.encode()):08x}", **document)


def _check_numbers(file: pathlib.Path, key: str, value: object) -> None:
    numbers = value if isinstance(value, list) else [value]
    if (
        isinstance(value, list) != (key not in ("stem", "first", "head", "stem_stride"))
        or not numbers
        or any(type(number) is not int or not 1 <= number <= MOST_CHANNELS for number in numbers)
    ):
        raise ValueError(
            f"--space={file}: {key} is {value!r}; give stem, first, head and stem_stride as "
            f"whole numbers from 1 to {MOST_CHANNELS} and the others as lists of "
            f"them"
        )


def _check_tokens(file: pathlib.Path, key: str, value: object) -> None:
    if key != "candidates":
        right = isinstance(value, str)
    else:
        right = isinstance(value, list) and all(
            isinstance(stage, list) and all(isinstance(token, str) for token in stage)
            for stage in value
        )
    if not right:
        raise ValueError(
            f"--space={file}: {key} is {value!r}; give first_block as text such as f3e1, "
            f"activation as relu6 or relu, padding as symmetric or same, and candidates as a list "
            f'for each stage, or one for all, such as [["f3e1", "k5e6"]]'
        )
