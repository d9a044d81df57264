"""A device's latency table from a handful of whole networks.

In network j of the covering set block l takes its candidate (l + j) mod n: as many networks as the
largest block has candidates show every candidate of every block, each in its place in a real
network. The device's per-layer times are attributed to blocks by node name. What the table is
worth is then tested on random networks that were not among them. Every run is kept in the store,
and a run that the store has is not made again.

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
from jaxnas.latency import FIXED, LatencyTable
from jaxnas.network import Network, NetworkSpec, network_of
from jaxnas.space import SPACES, Space, find_space
from profiling import command, report
from profiling.device import Options
from profiling.measurement import Measurement, pooled
from profiling.progress import Progress
from profiling.recording import Recording
from profiling.registry import device_kind, device_names, open_device

RunsMade = Callable[[int, int], None]
SHIPPED = pathlib.Path(__file__).with_name("shipped_tables")
MEASURED_MAX_AGE_DAYS = 30
HELD_OUT_SEED = 20_17  # of the random networks that test a table


def covering_set(space: Space) -> list[np.ndarray]:
    """Paths int32 [blocks] that together show every allowed candidate of every block."""
    counts = space.allowed.sum(1)
    return [((np.arange(len(counts)) + j) % counts).astype(np.int32) for j in range(counts.max())]


def recipe(spec: NetworkSpec, image_size: int) -> str:
    """What decides the graph that a specification is exported as; found without exporting it.

    Another release of jax2onnx, or another graph by our exporter (`export.EXPORT`), is another
    recipe, whose networks are measured anew.
    """
    return (
        f"export {export.EXPORT}, jax2onnx {importlib.metadata.version('jax2onnx')}, "
        f"{image_size} px: {spec}"
    )


def exported(spec: NetworkSpec, image_size: int) -> bytes:
    """ONNX of a specification's network with drawn weights; the same bytes every time."""
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
    """Specifications' networks, each measured `device.repeats` times and pooled.

    The networks take turns, so that a device that grows slow does so for all of them. What the
    store has of them counts, with an equal setup and no older than allowed: an interrupted call
    goes on where it was.

    Args:
      max_age_days: of the runs in the store that count, 0 for none. None is MEASURED_MAX_AGE_DAYS
        for what was measured, since machines change in ways that a setup does not tell; and no
        limit for estimates, which do not.
      progress: called after each run with (runs made, runs to make).

    Raises:
      CompileError, DeviceUnavailable: as `Device.measure`.
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
    """Milliseconds by block and by fixed part.

    Raises:
      ValueError: a layer that belongs to no part; it would be lost to the table.
    """
    parts = {"host": measurement.host_ms}
    for layer in measurement.layers:
        head = layer.name.split("/")[0]
        if head.startswith(f"{export.INPUT}@"):
            head = "input"
        elif head.startswith(f"{export.OUTPUT}@"):
            head = "output"
        elif head == export.OUTPUT:
            head = "classifier"
        if head not in FIXED and not head.startswith("block"):
            raise ValueError(
                f"{measurement.setup.device} reports a layer {layer.name!r} that "
                f"belongs to no block of the network"
            )
        parts[head] = parts.get(head, 0.0) + layer.ms
    return parts


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
    """A table of the covering set, tested on the held-out networks; see the module.

    Args:
      device: where to measure what its store does not have.
      image_size: deployment size in px.
      num_classes: of the classifier.
      asked: what the user asked of the device, `Options.settings`.
      held_out: random networks that test the table.
      max_age_days, progress: as for `measure_specs`.

    Raises:
      CompileError, DeviceUnavailable, StoreError: as `measure_specs`.
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
    shown = np.zeros(space.allowed.shape, int)
    for path, ms in zip(covering, parts, strict=True):
        for row, column in enumerate(path):
            if not space.candidates[column].is_skip:
                entries[row, column] += ms[space.blocks[row].name]
                shown[row, column] += 1
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
        candidate_ms=entries / np.maximum(shown, 1),
    )
    errors = [
        100 * (table.path_ms(path) / m.latency_ms - 1)
        for path, m in zip(tests, measurements[len(covering) :], strict=True)
    ]
    additivity = {"held_out_networks": held_out}
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
    """How the table's sums met whole networks, in words."""
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
    """The table with the fixed layers of a network of another number of classes, measured anew."""
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
    """The table that ships with the project for the first of these devices that has one."""
    if options.settings() != Options().settings():
        return None
    for device in map(device_kind, device_names(devices)):
        file = SHIPPED / f"{device.lower()}_{space.name}_{image_size}.json"
        if file.exists():
            return file
    return None


def main(argv: Sequence[str]) -> int:
    """Builds a table as the flags say; see the module."""
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
        "space", "proxyless", f"One of {', '.join(SPACES)}, or a JSON file that describes one."
    )
    flags.DEFINE_integer("image_size", 224, "Deployment size in px.", lower_bound=32)
    flags.DEFINE_integer("num_classes", 1000, "Outputs of the classifier.", lower_bound=2)
    flags.DEFINE_integer(
        "held_out_networks", 4, "Random networks that test the table.", lower_bound=0
    )
    flags.DEFINE_float(
        "max_age_days",
        None,
        f"Age of stored runs that the table may be made of, 0 "
        f"for none; unset is {MEASURED_MAX_AGE_DAYS} where the device is measured "
        f"and no limit where it is estimated.",
        lower_bound=0,
    )
    flags.DEFINE_string("output", None, "File to write, JSON.", required=True)
    flags.DEFINE_bool(
        "json", False, "Print the table as JSON, and nothing else, on standard output."
    )
    command.run(main)
