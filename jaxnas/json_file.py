"""JSON files that hold one object."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any


def read_object(file: pathlib.Path, remedy: str) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Args:
      file: file to read.
      remedy: what the user can do if it holds no JSON object.

    Raises:
      ValueError: the file cannot be read or holds no JSON object; the message names it, the reason
        and the remedy.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{file} cannot be read ({reason}); {remedy}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{file} is not a JSON object; {remedy}")
    return document


def write_object(file: pathlib.Path, document: Mapping[str, Any]) -> None:
    """Writes a JSON object atomically: the file has its old or its new content at any time."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(file)
