"""Opens the device of a run and describes it to the other processes."""

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
from profiling.recording_device import Recording
from profiling.registry import open_device


@dataclasses.dataclass(frozen=True)
class DeviceOfProcess0:
    """Description of process 0's device in the other processes, which do not measure."""

    setup: Setup


def find_device(
    config: RunConfig, store: Store, progress: Progress, without: str | None
) -> Recording | None:
    """Opens the run's device for recording; returns None, with a warning, if it is unavailable.

    Args:
      config: names the device and its options.
      store: stores the measurements.
      progress: prints the warning.
      without: tells the user how the run continues without its device; None if it cannot.

    Raises:
      DeviceUnavailable: the device is unavailable and `without` is None.
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
    """Yields the result of `find_device` in process 0 and its description in other processes.

    Args:
      config, progress, without: as for `find_device`.
      store: stores the measurements; None in the other processes.
    """
    with contextlib.ExitStack() as stack:
        recording: Recording | None = None

        def find() -> dict[str, Any] | None:
            nonlocal recording
            assert store is not None  # this is process 0
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
