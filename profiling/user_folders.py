"""Folders of this project among the user's own."""

import os
import pathlib


def cache_folder() -> pathlib.Path:
    """jaxnas in $XDG_CACHE_HOME (~/.cache): what only saves time.

    Raises:
      OSError: the user has no home and the environment names no other folder.
    """
    return _folder("XDG_CACHE_HOME", ".cache")


def data_folder() -> pathlib.Path:
    """jaxnas in $XDG_DATA_HOME (~/.local/share); raises as `cache_folder`."""
    return _folder("XDG_DATA_HOME", ".local/share")


def _folder(variable: str, default: str) -> pathlib.Path:
    given = os.environ.get(variable)
    if given:
        return pathlib.Path(given, "jaxnas")
    try:
        return pathlib.Path.home() / default / "jaxnas"
    except RuntimeError as error:  # a user id without a name, and no $HOME
        raise OSError(f"this user has no home folder; set HOME or {variable}") from error
