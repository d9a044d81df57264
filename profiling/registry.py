"""Device registry: the classes of devices by the names that `--device` takes."""

from collections.abc import Callable

from absl import logging

from profiling import oak_device, openvino_device
from profiling.device import Device, Executor, Options
from profiling.errors import DeviceUnavailable
from profiling.myriad import compiler, stick

DEVICES: dict[str, Callable[[str, Options], Device]] = {
    compiler.NAME: compiler.MyriadXCompiler,
    stick.NAME: stick.Stick,
    oak_device.NAME: oak_device.Oak,
    **dict.fromkeys(openvino_device.NAMES, openvino_device.OpenVinoDevice),
}


def device_names(text: str) -> list[str]:
    """The names in a comma-separated preference list.

    What follows a name's first dot chooses one among several: `MYRIAD.1.2-ma2480`.

    Raises:
      ValueError: an unknown device; names those there are.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if device_kind(name) not in DEVICES:
            raise ValueError(
                f"unknown device {name!r}, allowed are {', '.join(DEVICES)} or a "
                f"comma-separated list of them, the preferred first"
            )
    return names


def device_kind(name: str) -> str:
    """A device's name without the number of one among several, as tables and setups have it."""
    return name.partition(".")[0]


def executor_name(text: str) -> str:
    """The name of one device that runs networks.

    Raises:
      ValueError: an unknown device, several, or the compiler alone, which runs nothing.
    """
    names = device_names(text)
    if len(names) > 1 or device_kind(names[0]) == compiler.NAME:
        runs = ", ".join(name for name in DEVICES if name != compiler.NAME)
        raise ValueError(f"--device={text}: give one device that runs networks: {runs}")
    return names[0]


def open_device(text: str, options: Options | None = None) -> Device | Executor:
    """The first device of a preference list that is there.

    Raises:
      ValueError: an unknown device.
      DeviceUnavailable: none is there; says why for each.
    """
    names, reasons = device_names(text), []
    for name in names:
        try:
            return DEVICES[device_kind(name)](name, options or Options())
        except DeviceUnavailable as error:
            reasons.append(f"{name}: {error}")
            if len(reasons) < len(names):
                logging.warning("%s is not there: %s", name, error)
    raise DeviceUnavailable(
        "no device is there. " + ". ".join(reason.rstrip(".") for reason in reasons)
    )
