"""The device of a run, or the stated lack of it."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from experiments.runs.config import RunConfig
from jaxnas import parallel
from profiling.database import Store
from profiling.errors import DeviceUnavailable
from profiling.measurement import Setup
from profiling.progress import Progress
from profiling.recording import Recording
from profiling.registry import open_device


@dataclasses.dataclass(frozen=True)
class DeviceOfProcess0:
    """The device as the other processes of a run know it; process 0 alone measures."""

    setup: Setup


def find_device(
    config: RunConfig, store: Store, progress: Progress, without: str | None
) -> Recording | None:
    """Opens the run's device, recording; returns None, with a warning, where it is not available.

    Args:
      without: for the user, what the run does without its device; None where it cannot.

    Raises:
      DeviceUnavailable: it is not available and `without` is None.
    """
    try:
        return Recording(open_device(config.device, config.options), store)
    except DeviceUnavailable as error:
        if without is None:
            raise
        progress.print(f"the device is not available: {error}\n{without}", "yellow")
        return None


@contextlib.contextmanager
def shared_device(
    config: RunConfig, store: Store | None, progress: Progress, without: str | None
) -> Iterator[Recording | DeviceOfProcess0 | None]:
    """Yields process 0's `find_device` there, and its setup in the other processes of the run.

    Args:
      store: None in the other processes.
    """
    with contextlib.ExitStack() as stack:
        recording = None

        def find() -> dict[str, Any] | None:
            nonlocal recording
            device = find_device(config, store, progress, without)
            if device is None:
                return None
            recording = stack.enter_context(device)
            return dataclasses.asdict(recording.setup)

        setup = parallel.from_process_0(find)
        if recording is None and setup is not None:
            yield DeviceOfProcess0(Setup(**setup))
        else:
            yield recording
