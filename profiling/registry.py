"""Device registry: maps the names that `--device` takes to device classes."""

from collections.abc import Callable

from absl import logging

from profiling import oak_device, openvino_device
from profiling.device import Device, Options
from profiling.errors import DeviceUnavailable
from profiling.myriad import compiler, stick

DEVICES: dict[str, Callable[[str, Options], Device]] = {
    compiler.NAME: compiler.MyriadXCompiler,
    stick.NAME: stick.Stick,
    oak_device.NAME: oak_device.Oak,
    **dict.fromkeys(openvino_device.NAMES, openvino_device.OpenVinoDevice),
}


def device_names(text: str) -> list[str]:
    """Returns the names in a comma-separated preference list.

    The part after a name's first dot selects one of several devices: `MYRIAD.1.2-ma2480`.

    Raises:
      ValueError: a device is unknown; the message lists the known ones.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if device_kind(name) not in DEVICES:
            raise ValueError(
                f"unknown device {name!r}, allowed are {', '.join(DEVICES)} or a "
                f"comma-separated list of them in order of preference"
            )
    return names


def device_kind(name: str) -> str:
    """Returns a device's name without the part after the dot, as tables and setups store it."""
    return name.partition(".")[0]


def executor_name(text: str) -> str:
    """Returns the name of the one device that runs networks.

    Raises:
      ValueError: the device is unknown or cannot run networks, or several devices are given.
    """
    names = device_names(text)
    if len(names) > 1 or device_kind(names[0]) == compiler.NAME:
        runs = ", ".join(name for name in DEVICES if name != compiler.NAME)
        raise ValueError(f"--device={text}: give one device that runs networks: {runs}")
    return names[0]


def open_device(text: str, options: Options | None = None) -> Device:
    """Opens the first available device of a preference list.

    Raises:
      ValueError: a device is unknown.
      DeviceUnavailable: no device is available; the message gives the reason for each.
    """
    names, reasons = device_names(text), []
    for name in names:
        try:
            return DEVICES[device_kind(name)](name, options or Options())
        except DeviceUnavailable as error:
            reasons.append(f"{name}: {error}")
            if len(reasons) < len(names):
                logging.warning("%s is not available: %s", name, error)
    raise DeviceUnavailable(
        "no device is available. " + ". ".join(reason.rstrip(".") for reason in reasons)
    )
