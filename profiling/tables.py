"""Builds a device's latency table from a few whole networks.

In network j of the covering set, block l takes the candidate (l + j) mod n of the n that it allows.
As many networks as the largest n thus contain every candidate of every block, each in its place in
a real network. The device's layer times are attributed to blocks by node name. The table is then
tested on random networks outside the covering set. Every run is stored, and stored runs are not
repeated.

    python -m profiling.tables --device=MYRIADX_COMPILER --space=proxyless --output=table.json
"""

import dataclasses
import datetime
import importlib.metadata
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from jaxnas import export
from jaxnas.builtin_spaces import SPACES
from jaxnas.latency import FIXED, LatencyTable
from jaxnas.network import Network, NetworkSpec, network_of
from jaxnas.space import Space
from jaxnas.space_file import find_space
from profiling import command, report
from profiling.device import Options
from profiling.measurement import Measurement, pooled
from profiling.progress import Progress
from profiling.recording_device import Recording
from profiling.registry import device_kind, device_names, open_device

RunsMade = Callable[[int, int], None]
SHIPPED = pathlib.Path(__file__).with_name("shipped_tables")
MEASURED_MAX_AGE_DAYS = 30
HELD_OUT_SEED = 20_17  # seed of the random networks that test a table


def covering_set(space: Space) -> list[np.ndarray]:
    """Returns paths int32 [blocks] that together contain every allowed candidate of every block."""
    choices = [np.flatnonzero(row) for row in space.allowed]
    return [
        np.array([own[(block + j) % len(own)] for block, own in enumerate(choices)], np.int32)
        for j in range(max(map(len, choices)))
    ]


def recipe(spec: NetworkSpec, image_size: int) -> str:
    """Describes everything that determines the exported graph, without exporting it.

    Another release of jax2onnx or another version of our exporter (`export.EXPORT`) gives another
    recipe, so that its networks are measured again.
    """
    return (
        f"export {export.EXPORT}, jax2onnx {importlib.metadata.version('jax2onnx')}, "
        f"{image_size} px: {spec}"
    )


def exported(spec: NetworkSpec, image_size: int) -> bytes:
    """Exports a network with random weights to ONNX; returns the same bytes on every call."""
    network = Network(spec, rng=np.random.default_rng(0))
    return export.to_onnx(network, image_size).SerializeToString()


def measure_specs(
    device: Recording,
    specs: Sequence[NetworkSpec],
    image_size: int,
    *,
    max_age_days: float | None = None,
    progress: RunsMade = lambda done, total: None,
) -> list[Measurement]:
    """Measures each network `device.repeats` times and returns the pooled measurements.

    The networks take turns, so that a device that slows down does so for all of them. Stored runs
    with an equal setup count if they are recent enough, so that an interrupted call resumes.

    Args:
      device: device to measure on, with the store.
      specs: specifications of the networks.
      image_size: image size in px.
      max_age_days: maximum age of stored runs that count; 0 for none. None is
        MEASURED_MAX_AGE_DAYS for measurements, since machines change in ways that a setup does not
        record, and no limit for estimates, which do not change.
      progress: called after each run with (runs made, runs to make).

    Raises:
      CompileError, DeviceUnavailable: as in `Device.measure`.
      StoreError: the store cannot be read.
    """
    if max_age_days is None and device.setup.kind == "measured":
        max_age_days = MEASURED_MAX_AGE_DAYS
    since = (
        None
        if max_age_days is None
        else (datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=max_age_days))
    )
    runs = [
        device.store.runs_of(recipe(spec, image_size), device.setup, since)[-device.repeats :]
        for spec in specs
    ]
    total = sum(device.repeats - len(of_one) for of_one in runs)
    models: dict[int, bytes] = {}
    done = 0
    for turn in range(device.repeats):
        for index, spec in enumerate(specs):
            if len(runs[index]) > turn:
                continue
            if index not in models:
                models[index] = exported(spec, image_size)
            runs[index].append(device.measure(models[index], recipe(spec, image_size)))
            if turn + 1 == device.repeats:
                del models[index]
            done += 1
            progress(done, total)
    return [pooled(of_one) for of_one in runs]


def ms_by_part(measurement: Measurement) -> dict[str, float]:
    """Returns milliseconds by block and by fixed part.

    Raises:
      ValueError: a layer belongs to no part, so that its time would be missing from the table.
    """
    parts = {"host": measurement.host_ms}
    for layer in measurement.layers:
        head = part_of(layer.name)
        if head not in FIXED and not head.startswith("block"):
            raise ValueError(
                f"{measurement.setup.device} reports a layer {layer.name!r} that "
                f"belongs to no block of the network"
            )
        parts[head] = parts.get(head, 0.0) + layer.ms
    return parts


def part_of(layer: str) -> str:
    """Returns the fixed part or the block that a layer's name belongs to; its head for another."""
    head = layer.split("/")[0]
    if head.startswith(f"{export.INPUT}@"):
        return "input"
    if head.startswith(f"{export.OUTPUT}@"):
        return "output"
    return "classifier" if head == export.OUTPUT else head


def build(
    device: Recording,
    space: Space,
    image_size: int,
    num_classes: int,
    *,
    asked: Mapping[str, Any] | None = None,
    held_out: int = 4,
    max_age_days: float | None = None,
    progress: RunsMade = lambda done, total: None,
) -> LatencyTable:
    """Builds a table from the covering set and tests it on held-out networks; see the module.

    Args:
      device: device to measure on, with the store.
      space: search space of the table.
      image_size: deployment size in px.
      num_classes: number of outputs of the classifier.
      asked: settings that the user requested, from `Options.settings`.
      held_out: number of random networks that test the table.
      max_age_days, progress: as in `measure_specs`.

    Raises:
      CompileError, DeviceUnavailable, StoreError: as in `measure_specs`.
      ValueError: as in `ms_by_part`.
    """
    covering = covering_set(space)
    rng = np.random.default_rng(HELD_OUT_SEED)
    tests = [space.random_path(rng) for _ in range(held_out)]
    measurements = measure_specs(
        device,
        [network_of(space, space.arch(path), num_classes) for path in [*covering, *tests]],
        image_size,
        max_age_days=max_age_days,
        progress=progress,
    )
    parts = [ms_by_part(m) for m in measurements[: len(covering)]]
    entries = np.where(space.allowed, 0.0, np.inf)
    counts = np.zeros(space.allowed.shape, int)
    for path, ms in zip(covering, parts, strict=True):
        for row, column in enumerate(path):
            if not space.candidates[column].is_skip:
                entries[row, column] += ms[space.blocks[row].name]
                counts[row, column] += 1
    setup = measurements[0].setup
    table = LatencyTable(
        space=space.name,
        device=setup.device,
        kind=setup.kind,
        image_size=image_size,
        num_classes=num_classes,
        precision=setup.precision,
        settings=dict(setup.settings),
        asked=dict(asked or {}),
        fixed_ms={part: float(np.mean([ms.get(part, 0.0) for ms in parts])) for part in FIXED},
        candidate_ms=entries / np.maximum(counts, 1),
    )
    errors = [
        100 * (table.path_ms(path) / m.latency_ms - 1)
        for path, m in zip(tests, measurements[len(covering) :], strict=True)
    ]
    additivity: dict[str, float] = {"held_out_networks": held_out}
    if errors:
        additivity |= {
            "mean_error_percent": float(np.mean(errors)),
            "max_abs_error_percent": float(np.abs(errors).max()),
        }
    return dataclasses.replace(
        table,
        additivity=additivity,
        provenance={
            "versions": dict(setup.versions),
            "hardware": setup.hardware,
            "networks": len(covering),
            "date": min(m.time for m in measurements).date().isoformat(),
            "command": f"python -m profiling.tables --device={setup.device} --space={space.name} "
            f"--image_size={image_size} --num_classes={num_classes}"
            + "".join(
                f" --{name}={value}" for name, value in setup.settings.items() if value is not None
            ),
        },
    )


def additivity_note(table: LatencyTable) -> str:
    """Describes how well the table's sums match the latency of the held-out networks."""
    error = table.additivity
    if not error.get("held_out_networks"):
        return "not tested on held-out networks"
    return (
        f"against {error['held_out_networks']} held-out networks "
        f"{error['mean_error_percent']:+.2f} % on average, at most "
        f"{error['max_abs_error_percent']:.2f} %"
    )


def with_classes(
    table: LatencyTable, device: Recording, space: Space, num_classes: int
) -> LatencyTable:
    """Returns the table for another number of classes, with the fixed layers measured again."""
    spec = network_of(space, space.arch(covering_set(space)[0]), num_classes)
    (measurement,) = measure_specs(device, [spec], table.image_size)
    parts = ms_by_part(measurement)
    return dataclasses.replace(
        table,
        num_classes=num_classes,
        fixed_ms={part: parts.get(part, 0.0) for part in FIXED},
        provenance={
            **table.provenance,
            "fixed_layers_measured_for_classes": num_classes,
            "fixed_layers_versions": dict(measurement.setup.versions),
        },
    )


def shipped(devices: str, space: Space, image_size: int, options: Options) -> pathlib.Path | None:
    """Returns the shipped table of the first device that has one; None for non-default options."""
    if options.settings() != Options().settings():
        return None
    for device in map(device_kind, device_names(devices)):
        file = SHIPPED / f"{device.lower()}_{space.name}_{image_size}.json"
        if file.exists():
            return file
    return None


def main(argv: Sequence[str]) -> int:
    """Runs the program; see the module."""
    del argv
    args = flags.FLAGS
    with command.usage_errors():
        space = find_space(args.space)
        device_names(args.device)
        options = command.device_options()
        output = pathlib.Path(args.output)
        command.check_output("output", output)
    with (
        command.device_errors(),
        command.open_store(args.store) as store,
        Recording(open_device(args.device, options), store) as device,
        Progress() as progress,
        progress.phase("table", total=1) as phase,
    ):
        table = build(
            device,
            space,
            args.image_size,
            args.num_classes,
            asked=options.settings(),
            held_out=args.held_out_networks,
            max_age_days=args.max_age_days,
            progress=lambda done, total: phase.update(done / total, f"{done} of {total} runs"),
        )
    table.save(output, space)
    if args.json:
        print(output.read_text(), end="")
    else:
        report.show_table(table, space, f"{output}: {additivity_note(table)}")
    return 0


if __name__ == "__main__":
    command.define_device_flags()
    command.define_store_flag()
    flags.DEFINE_string(
        "space", "proxyless", f"One of {', '.join(SPACES)}, or a JSON file that describes a space."
    )
    flags.DEFINE_integer("image_size", 224, "Deployment size in px.", lower_bound=32)
    flags.DEFINE_integer("num_classes", 1000, "Number of outputs of the classifier.", lower_bound=2)
    flags.DEFINE_integer(
        "held_out_networks", 4, "Number of random networks that test the table.", lower_bound=0
    )
    flags.DEFINE_float(
        "max_age_days",
        None,
        f"Maximum age in days of stored runs that the table may use, 0 for none; unset is "
        f"{MEASURED_MAX_AGE_DAYS} for measured latency and no limit for estimates.",
        lower_bound=0,
        upper_bound=command.MOST_DAYS,
    )
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)
    flags.DEFINE_bool("json", False, "Print only the table as JSON on standard output.")
    command.run(main)
