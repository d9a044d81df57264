"""JSON files as this project reads them: one object."""

import json
import pathlib
from typing import Any


def read_object(file: pathlib.Path, remedy: str) -> dict[str, Any]:
    """The object in a file.

    Args:
      remedy: what the user can do where it is none.

    Raises:
      ValueError: no file, or none of a JSON object; names it, the reason and the remedy.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{file} cannot be read ({reason}); {remedy}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{file} is no JSON object; {remedy}")
    return document
