"""Compares published and found networks, like the poster's table and figure.

    python -m experiments.compare --found=runs/FOLDER --devices=MYRIADX_COMPILER,CPU

Latency and parameters are of networks with the same number of classes (--num_classes), whatever
the found ones were trained on. Top-1 of a found network is on its own data set, which is named.
Networks in the store of measurements are not measured again. Writes compare.json, compare.md,
report.html and drawings of all networks, compare.svg and compare.png.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence

from absl import flags

from experiments.compare import page, report
from experiments.compare.report import Comparison, Row
from experiments.runs.networks import find_architecture, read_accuracy, read_architecture
from experiments.runs.published_figures import PUBLISHED
from jaxnas import network_figure
from jaxnas.json_file import write_object
from jaxnas.network import NetworkSpec
from jaxnas.zoo import ZOO
from profiling import command, tables
from profiling.database import Store
from profiling.device import Options
from profiling.errors import DeviceUnavailable
from profiling.measurement import Measurement
from profiling.progress import Phase, Progress
from profiling.recording_device import Recording
from profiling.registry import DEVICES, device_names, open_device

NETWORKS = tuple(PUBLISHED)


def main(argv: Sequence[str]) -> int:
    """Runs the comparison that the flags describe; returns the exit status."""
    del argv
    args = flags.FLAGS
    with command.usage_errors():
        devices = distinct("--devices", device_names(args.devices))
        options = command.device_options()
        rows = network_rows(distinct("--networks", args.networks.split(",")), args.num_classes)
        rows = with_found(
            rows, [pathlib.Path(folder) for folder in args.found or ()], args.num_classes
        )
        check_size(rows, args.image_size)
        output = command.output_folder("output", args.output)
    with command.device_errors(), command.open_store(args.store) as store, Progress() as progress:
        columns, left_out = measure(rows, devices, options, args.image_size, store, progress)
    result = Comparison(rows, columns, left_out, args.image_size, args.num_classes)
    document = report.document(result)
    write(document, [row.spec for row in rows], output)
    report.show(document)
    print(f"files in {output}: report.html, compare.json, compare.md, compare.svg, compare.png")
    return 0


def distinct(flag: str, names: Sequence[str]) -> list[str]:
    """Returns the names of a list without blanks; raises ValueError where a name is repeated."""
    names = [name.strip() for name in names]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{flag} names {twice} twice; give each once")
    return names


def network_rows(names: Sequence[str], num_classes: int) -> list[Row]:
    """Returns a row for each published network; raises ValueError for an unknown name."""
    unknown = next((name for name in names if name not in ZOO), None)
    if unknown is not None:
        raise ValueError(
            f"--networks: unknown network {unknown!r}, allowed are {', '.join(ZOO)}; "
            f"give folders of runs with --found"
        )
    rows = []
    for name in names:
        architecture = find_architecture(name)
        rows.append(
            Row(
                PUBLISHED[name].title, architecture, architecture.spec(num_classes), PUBLISHED[name]
            )
        )
    return rows


def with_found(rows: Sequence[Row], folders: Sequence[pathlib.Path], num_classes: int) -> list[Row]:
    """Returns the rows and those of the folders; a network with a row adds its accuracy to it.

    Raises:
      ValueError: not the folder of a run, or its network does not fit its space.
    """
    rows = list(rows)
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(
                f"--found: {folder} is no folder; give folders of searches or trainings"
            )
        architecture = read_architecture(folder)
        accuracy = read_accuracy(folder)
        measured = () if accuracy is None else ({**accuracy, "folder": str(folder)},)
        # The same name for all: the store's key is the specification, which includes the name.
        spec = architecture.spec(num_classes, "found")
        known = next((i for i, row in enumerate(rows) if row.spec == spec), None)
        if known is not None:
            row = rows[known]
            rows[known] = dataclasses.replace(row, accuracy=(*row.accuracy, *measured))
            continue
        published = PUBLISHED[architecture.text] if architecture.space is None else None
        title = published.title if published else f"found: {folder.resolve().name}"
        rows.append(Row(title, architecture, spec, published, measured))
    return rows


def check_size(rows: Sequence[Row], image_size: int) -> None:
    """Raises ValueError for a size that is not a multiple of every network's total stride."""
    for row in rows:
        factor = row.spec.downsampling
        if image_size % factor:
            raise ValueError(
                f"--image_size={image_size}: give a multiple of {factor} px, the total stride of "
                f"{row.title}"
            )


def measure(
    rows: Sequence[Row],
    devices: Sequence[str],
    options: Options,
    image_size: int,
    store: Store,
    progress: Progress,
) -> tuple[dict[str, list[Measurement]], dict[str, str]]:
    """Returns measurements of the rows by device, and the error of each unavailable device.

    Raises:
      DeviceUnavailable: no device is available.
      CompileError: a device's compiler refuses a network.
    """
    columns: dict[str, list[Measurement]] = {}
    left_out: dict[str, str] = {}
    opened = {}
    with contextlib.ExitStack() as stack:
        for name in devices:
            try:
                opened[name] = stack.enter_context(Recording(open_device(name, options), store))
            except DeviceUnavailable as error:
                left_out[name] = str(error)
                progress.print(f"{name} is left out: {error}", "yellow")
        if not opened:
            raise DeviceUnavailable(
                f"none of --devices={','.join(devices)} is available; the lines above say why"
            )
        for name, device in opened.items():
            with progress.phase(name, total=1) as phase:

                def show(done: int, total: int, phase: Phase = phase) -> None:
                    phase.update(done / total, f"{done} of {total} runs")

                columns[name] = tables.measure_specs(
                    device, [row.spec for row in rows], image_size, progress=show
                )
                phase.end(f"{len(rows)} networks, {device.setup.kind}")
    return columns, left_out


def write(document: report.Document, specs: Sequence[NetworkSpec], output: pathlib.Path) -> None:
    """Writes compare.json, compare.md, compare.svg, compare.png and report.html.

    Args:
      document: content of compare.json.
      specs: specifications of its networks.
      output: folder to write to.
    """
    write_object(output / page.FILE, document)
    (output / "compare.md").write_text(report.markdown(document))
    page.write(output)
    figure = network_figure.figure(list(specs), report.captions(document))
    for name in ("compare.svg", "compare.png"):
        network_figure.save(figure, output / name)


if __name__ == "__main__":
    flags.DEFINE_list("found", None, "Folders of searches or trainings, comma-separated.")
    flags.DEFINE_string(
        "networks", ",".join(NETWORKS), f"Published networks, comma-separated: {', '.join(ZOO)}."
    )
    flags.DEFINE_string(
        "devices",
        "MYRIADX_COMPILER",
        f"Devices, comma-separated, one column each: {', '.join(DEVICES)}.",
    )
    flags.DEFINE_integer("image_size", 224, "Deployment size in px.", lower_bound=32)
    flags.DEFINE_integer(
        "num_classes", 1000, "Number of outputs of every network's classifier.", lower_bound=2
    )
    flags.DEFINE_string("output", "runs/compare", "Folder to write to.")
    command.define_option_flags()
    command.define_store_flag()
    command.run(main)
