"""A MyriadX on a stick, the Neural Compute Stick 2: networks timed on it by OpenVINO 2021.4.2.

Latency is what benchmark_app calls so: from the request to the answer, over USB, images as 8-bit
pixels. The stick's own counters, one a stage of the schedule, are put together by ONNX node
through the stage graph of the same compilation, in which each stage names its node. What of the
latency is in no counter is the host's and the bus's.
"""

import contextlib
import pathlib
from collections.abc import Container, Iterable, Iterator
from typing import Self

import numpy as np
import onnx

from profiling.device import Options
from profiling.errors import DeviceUnavailable, WorkerError
from profiling.execution import batched, onnx_bytes
from profiling.measurement import LayerTime, Measurement, Setup
from profiling.myriad import owner
from profiling.myriad.answers import Inferences
from profiling.myriad.client import Worker
from profiling.myriad.stages import parse

NAME = "MYRIAD"
_BATCH_BYTES = 32 << 20  # of images in one request

UDEV_RULE = 'SUBSYSTEM=="usb", ATTRS{idVendor}=="03e7", MODE="0666"'
NO_STICK = (
    f"Plug a Neural Compute Stick 2 in; lsusb then shows 03e7:2485, or 03e7:f63b once a program "
    f"has booted it. If lsusb shows it, it may not be yours to open: `echo '{UDEV_RULE}' | sudo "
    f"tee /etc/udev/rules.d/97-myriad.rules && sudo udevadm control --reload-rules && sudo udevadm "
    f"trigger`, then plug it in again (a container needs /dev/bus/usb too). If it shows "
    f"03e7:f63b, another program has it, or one left it so: end that, or plug it in again. A port "
    f"of USB 2 will do, but adds ms to every inference. Without a stick, "
    f"--device=MYRIADX_COMPILER estimates"
)


class Stick:
    """The device MYRIAD; `MYRIAD.1.2-ma2480` is one among several sticks.

    Three passes: a stick's times are steady to below a percent, and a network takes seconds to
    load, but a pass that met a hot stick should be outvoted.
    """

    repeats = 3

    def __init__(self, name: str, options: Options):
        """Takes the stick, for this process alone, until close.

        Args:
          name: OpenVINO's. Without a port the first stick that no other process owns. `CPU`, the
            CPU plugin of the same OpenVINO, takes the same way without a stick: for tests.
          options: shaves and worker_prefix count here.

        Raises:
          ValueError: worker_prefix is no command.
          DeviceUnavailable: no stick is there, another process owns it, or the worker cannot run;
            says what to do.
        """
        self._shaves = options.shaves
        self._host = options.worker_prefix or owner.THIS_HOST
        self._worker = Worker(prefix=options.worker_prefix)
        try:
            versions = self._worker.hello()
            full_name = self._take(name)
        except BaseException:
            self._worker.close()
            raise
        plugin, _, port = self._device.partition(".")
        stick = plugin == NAME
        hardware = f"{full_name} {port}".strip()
        self.setup = Setup(
            NAME if stick else f"MYRIAD's worker on {plugin}",
            "measured",
            hardware if options.worker_prefix is None else f"{hardware} by {self._host}",
            "FP16" if stick else "chosen by the plugin",
            versions,
            {"shaves": options.shaves},
        )

    def _take(self, name: str) -> str:
        """Becomes the owner of a device that answers to a name; returns its model."""
        present = {
            device: model
            for device, model in self._worker.devices().items()
            if device == name or device.startswith(f"{name}.")
        }
        reasons = (
            []
            if present
            else [f"{name} is not to be seen from {self._host}", *owner.owned(self._host), NO_STICK]
        )
        for device, model in present.items():
            try:
                self._claim = owner.claim(device, self._host)
            except DeviceUnavailable as error:
                reasons.append(str(error))
            else:
                self._device = device
                return model
        raise DeviceUnavailable(". ".join(reasons))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker and gives the stick back."""
        self._worker.close()
        self._claim.close()

    def scores(self, file: pathlib.Path, images: Iterable[np.ndarray]) -> np.ndarray:
        """As `Executor.scores`; the network is loaded anew for every 32 MB of images."""
        model = onnx_bytes(file, self.setup.device)
        found = []
        for batch in batched(images, _BATCH_BYTES):
            with self._remedy():
                found.append(self._worker.scores(model, self._device, batch, shaves=self._shaves))
        return np.concatenate(found)

    @contextlib.contextmanager
    def _remedy(self) -> Iterator[None]:
        try:
            yield
        except WorkerError:
            raise
        except DeviceUnavailable as error:
            raise DeviceUnavailable(
                f"{error}. Unplug it from {self._host}, plug it in again and start anew"
            ) from error

    def measure(self, model: bytes) -> Measurement:
        compiled = self._worker.compile(model, shaves=self._shaves)
        with self._remedy():
            inferences = self._worker.infer(model, self._device, shaves=self._shaves)
        latency_ms, p10_ms, p90_ms = np.percentile(inferences.latency_ms, (50, 10, 90)).tolist()
        layers = by_node(
            inferences,
            {output for node in onnx.load_from_string(model).graph.node for output in node.output},
        )
        return Measurement(
            self.setup,
            latency_ms,
            p10_ms,
            p90_ms,
            len(inferences.latency_ms),
            layers,
            host_ms=latency_ms - sum(layer.ms for layer in layers),
            temperature_c=inferences.temperature_c,
            blob=compiled.blob,
        )


def by_node(inferences: Inferences, nodes: Container[str]) -> tuple[LayerTime, ...]:
    """A device's counters by ONNX node, in order of execution; their sum stays the same.

    A stage goes by the node that the stage graph names for it, a fused layer of the CPU plugin by
    the first node in it. What belongs to no node, such as a conversion of the network's input
    (`image@FP16`), keeps the device's name for it.

    Args:
      inferences: as the worker gave them.
      nodes: the network's nodes by their outputs' names, which are OpenVINO 2021.4.2's for them;
        export.py names all nodes but the last like their outputs.
    """
    if inferences.graph is not None:
        names = {stage.name: stage.layer or stage.name for stage in parse(inferences.graph)}
    else:
        names = {
            name: next((layer for layer in layers if layer in nodes), name)
            for name, layers in inferences.originals.items()
        }
    times: dict[str, float] = {}
    for counter in inferences.counters:
        name = names.get(counter.name, counter.name)
        times[name] = times.get(name, 0.0) + counter.ms
    return tuple(LayerTime(name, ms) for name, ms in times.items())
