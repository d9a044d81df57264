"""The Neural Compute Stick 2, a MyriadX on a stick, driven by OpenVINO 2021.4.2.

Latency is defined as in benchmark_app: from the request to the answer over USB, with images as
8-bit pixels. The stick has one counter per stage of the schedule. Counters are summed by ONNX node,
which the stage graph of the same compilation gives for each stage. Latency that no counter accounts
for is attributed to the host and the bus.
"""

import contextlib
import itertools
import pathlib
from collections.abc import Container, Iterable, Iterator
from typing import Self

import numpy as np
import onnx

from profiling.device import Options
from profiling.errors import CompileError, DeviceUnavailable, WorkerError
from profiling.measurement import LayerTime, Measurement, Setup
from profiling.myriad import stick_lock
from profiling.myriad.client import Worker
from profiling.myriad.stages import parse
from profiling.myriad.worker_answers import Inferences
from profiling.onnx_file import onnx_bytes

NAME = "MYRIAD"
_BATCH_BYTES = 32 << 20  # maximum size of the images in one request

UDEV_RULE = 'SUBSYSTEM=="usb", ATTRS{idVendor}=="03e7", MODE="0666"'
NO_STICK = (
    f"Plug in a Neural Compute Stick 2; lsusb then shows 03e7:2485, or 03e7:f63b after a program "
    f"has booted it. If lsusb shows it, you may lack the permission to open it: run `echo "
    f"'{UDEV_RULE}' | sudo tee /etc/udev/rules.d/97-myriad.rules && sudo udevadm control "
    f"--reload-rules && sudo udevadm trigger`, then plug it in again (a container also needs "
    f"/dev/bus/usb). If it shows 03e7:f63b, another program uses the stick or left it booted: end "
    f"that program, or plug the stick in again. A USB 2 port works, but adds milliseconds to every "
    f"inference. Without a stick, use --device=MYRIADX_COMPILER for estimates"
)


class Stick:
    """The device MYRIAD; `MYRIAD.1.2-ma2480` selects one of several sticks.

    Measurements are repeated three times. The times of a stick vary by less than 1 %, and loading a
    network takes seconds, but the median should exclude a repeat on a hot stick.
    """

    repeats = 3

    def __init__(self, name: str, options: Options):
        """Opens the stick for this process alone, until close.

        Args:
          name: OpenVINO's device name. Without a port, the first stick that no other process owns.
            `CPU`, the CPU plugin of the same OpenVINO, is for tests: same code, no stick.
          options: shaves and worker_prefix are used.

        Raises:
          ValueError: worker_prefix is not a command.
          DeviceUnavailable: there is no stick, another process owns it, or the worker cannot run;
            the message gives a remedy.
        """
        self._shaves = options.shaves
        self._host = options.worker_prefix or stick_lock.THIS_HOST
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
        """Makes this process the owner of a device with this name; returns its full name."""
        present = {
            device: full_name
            for device, full_name in self._worker.devices().items()
            if device == name or device.startswith(f"{name}.")
        }
        reasons = (
            []
            if present
            else [
                f"{name} is not visible from {self._host}",
                *stick_lock.owned(self._host),
                NO_STICK,
            ]
        )
        for device, full_name in present.items():
            try:
                self._claim = stick_lock.claim(device, self._host)
            except DeviceUnavailable as error:
                reasons.append(str(error))
            else:
                self._device = device
                return full_name
        raise DeviceUnavailable(". ".join(reasons))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker and releases the stick."""
        self._worker.close()
        self._claim.close()

    def scores(self, file: pathlib.Path, images: Iterable[np.ndarray]) -> np.ndarray:
        """Implements `Executor.scores`; reloads the network for every 32 MiB of images."""
        images = iter(images)
        first = next(images)
        if first.dtype not in (np.uint8, np.float32):
            raise CompileError(
                f"{file} takes {first.dtype} values; the stick's worker passes uint8 and float32"
            )
        model = onnx_bytes(file, self.setup.device, (1, *first.shape))
        self._worker.compile(model, shaves=self._shaves)  # which checks that it was read as sent
        found = []
        for batch in batched(itertools.chain([first], images), _BATCH_BYTES):
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
                f"{error}. Unplug it from {self._host}, plug it in again and restart the program"
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
    """Returns a device's counters summed by ONNX node, in order of execution.

    A stage counts for the node that the stage graph names, and a fused layer of the CPU plugin for
    the first node in it. A counter that belongs to no node, such as a conversion of the network's
    input (`image@FP16`), keeps the device's name. The total time is unchanged.

    Args:
      inferences: inferences as returned by the worker.
      nodes: names of the nodes' outputs, which OpenVINO 2021.4.2 uses as names of the nodes.
        export.py names every node except the last after its output.
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


def batched(images: Iterable[np.ndarray], max_bytes: int) -> Iterator[np.ndarray]:
    """Yields batches [count, ...] of at most `max_bytes`, but of at least one image."""
    batch: list[np.ndarray] = []
    for image in images:
        if batch and (len(batch) + 1) * image.nbytes > max_bytes:
            yield np.stack(batch)
            batch = []
        batch.append(image)
    if batch:
        yield np.stack(batch)
