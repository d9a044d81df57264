"""The project's folders in the user's home folder."""

import os
import pathlib


def cache_folder() -> pathlib.Path:
    """Returns jaxnas in $XDG_CACHE_HOME (~/.cache), for files that only save time.

    Raises:
      OSError: the user has no home folder and the variable is not set.
    """
    return _folder("XDG_CACHE_HOME", ".cache")


def data_folder() -> pathlib.Path:
    """Returns jaxnas in $XDG_DATA_HOME (~/.local/share); raises OSError as `cache_folder`."""
    return _folder("XDG_DATA_HOME", ".local/share")


def _folder(variable: str, default: str) -> pathlib.Path:
    given = os.environ.get(variable)
    if given:
        return pathlib.Path(given, "jaxnas")
    try:
        return pathlib.Path.home() / default / "jaxnas"
    except RuntimeError as error:  # the user id has no name and $HOME is not set
        raise OSError(f"this user has no home folder; set HOME or {variable}") from error
