"""Lock files that give each device of each host to one process at a time.

The kernel releases a lock when its process ends, in whatever way. The file remains and names the
last owner. The folder belongs to the user, so processes of other users are not detected.
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
    """Makes this process the owner of a device until it closes the returned file, or ends.

    Args:
      device: full name of the device, such as MYRIAD.1.2-ma2480.
      host: THIS_HOST, or the command that reaches another host.

    Raises:
      DeviceUnavailable: another process owns the device; the message names that process.
    """
    file = (_folder() / hashlib.sha256(f"{device} {host}".encode()).hexdigest()).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with file:
            raise DeviceUnavailable(_message(_owner(file))) from None
    file.truncate(0)
    file.write(json.dumps({"device": device, "host": host, "pid": os.getpid()}))
    file.flush()
    return file


def owned(host: str) -> list[str]:
    """Returns an error message for each device of a host that another process owns."""
    messages = []
    for path in sorted(_folder().iterdir()):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = _owner(file)
                if owner["host"] == host:
                    messages.append(_message(owner))
    return messages


def _message(owner: dict[str, str | int]) -> str:
    return (
        f"{owner['device']} on {owner['host']} is in use by process {owner['pid']}, and only one "
        f"process at a time can use a stick. Wait until that process ends, end it (kill "
        f"{owner['pid']}), or plug in a second stick"
    )


def _owner(file: TextIO) -> dict[str, str | int]:
    file.seek(0)
    text = file.read()
    # The file is empty for a moment after its owner has locked it.
    return json.loads(text or '{"device": "a stick", "host": "some host", "pid": "unknown"}')


def _folder() -> pathlib.Path:
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    folder = pathlib.Path(base) / f"jaxnas-owners-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise DeviceUnavailable(
            f"cannot lock a device in {folder}: {error}. Set XDG_RUNTIME_DIR to a writable folder"
        ) from error
    return folder
