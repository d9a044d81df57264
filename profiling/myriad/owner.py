"""A stick belongs to one process at a time: a lock file for each device of each host.

The kernel frees a lock with the process that holds it, however that ends; the file stays and says
who had it last. The folder is the user's: other users' processes are not seen.
"""

import fcntl
import hashlib
import json
import os
import pathlib
import tempfile
from typing import TextIO

from profiling.errors import DeviceUnavailable

THIS_HOST = "this host"


def claim(device: str, host: str) -> TextIO:
    """Makes this process the owner of a device until it closes what is returned, or ends.

    Args:
      device: its full name, such as MYRIAD.1.2-ma2480.
      host: THIS_HOST, or the command that reaches another.

    Raises:
      DeviceUnavailable: another process owns it; names that process.
    """
    file = open(_folder() / hashlib.sha256(f"{device} {host}".encode()).hexdigest(), "a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with file:
            raise DeviceUnavailable(_told(_owner(file))) from None
    file.truncate(0)
    file.write(json.dumps({"device": device, "host": host, "pid": os.getpid()}))
    file.flush()
    return file


def owned(host: str) -> list[str]:
    """What to say of each device of a host that another process owns."""
    told = []
    for path in sorted(_folder().iterdir()):
        with open(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = _owner(file)
                if owner["host"] == host:
                    told.append(_told(owner))
    return told


def _told(owner: dict[str, str | int]) -> str:
    return (
        f"{owner['device']} of {owner['host']} belongs to process {owner['pid']}, and a stick "
        f"to one process at a time: wait until that one has ended, end it (kill "
        f"{owner['pid']}), or plug a second stick in"
    )


def _owner(file: TextIO) -> dict[str, str | int]:
    file.seek(0)
    text = file.read()
    # Empty in the moment between an owner's lock and its first words.
    return json.loads(text or '{"device": "a stick", "host": "some host", "pid": "unknown"}')


def _folder() -> pathlib.Path:
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    folder = pathlib.Path(base) / f"jaxnas-owners-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise DeviceUnavailable(
            f"cannot lock a device in {folder}: {error}. Set XDG_RUNTIME_DIR "
            f"to a folder that can be written"
        ) from error
    return folder
