"""Writes docs/performance.md from the results of benchmarks.

    python -m experiments.benchmark.performance --results=runs/benchmark/benchmark.json

Several results, such as one of a CPU and one of a GPU, become sections of one page.
"""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from matplotlib.figure import Figure

from experiments.benchmark import report
from experiments.benchmark.growth import FIGURES
from jaxnas import network_figure
from profiling import command

SCHEMA = 1
DOCUMENT = "performance.md"

_METHOD = """\
# Performance

Written by `python -m experiments.benchmark.performance` from the results of `python -m \
experiments.benchmark`.

## Method

- **Interleaved timing.** Programs that are compared are timed in one process, one call of each \
per repeat, so that drift of the machine affects all equally. A call ends when its results are \
ready. Two repeats are untimed. Figures are medians with p10 and p90. A ratio is a ratio of \
medians; its interval is a bootstrap over repeats.
- **The same path compiled statically.** The path's network as `experiments.train` trains it: the \
same layers and kernels in a separate program. The supernet's weight step adds gathering and \
scattering the path's slices, `lax.switch`, and padding of what is saved for the backward pass. \
In the static program, batch norm's scale and bias do not decay, the learning rate schedule is \
part of the step, dropout is 0 and no moving average is kept. Batches are on the device \
beforehand in both.
- **Memory** is XLA's analysis of the compiled programs.
- **Memory allocation.** The benchmark asks glibc for huge pages, as search and train do, because \
XLA allocates the temporaries of a step anew each time.
- **Compilation and starts** run in fresh processes. Each step is compiled separately without a \
persistent cache. A second start uses the cache of the first; its time runs from before the \
process starts until a weight step is done, while the α step is still loading. The search's start \
is the command of the README, stopped and repeated, up to the first step that it logs.
- **Pipeline.** The loop of the search at the quick start's size, which waits for the device at \
every tenth step. The share is the time spent in `next(batches)`.
- **Photographs.** Synthetic JPEGs of 500 x 375 px in memory, through ImageNet's augmentation in \
one thread of the pipeline, compared with Pillow decoding whole images.
- **Growth.** Each operation reads and writes whole tensors. A step on a CPU therefore grows \
faster than its batch or its pixels once its largest tensors exceed the processor's last-level \
cache; the copies by size show by how much.
- **Profile.** XLA's profiler, with operations grouped by the JAX operation that they come from. \
The rest of a step on an accelerator is waiting for the host, which waits for the index of every \
`lax.switch`."""


def main(argv: Sequence[str]) -> int:
    """Writes the page and its figures; returns the exit status."""
    del argv
    args = flags.FLAGS
    with command.usage_errors():
        documents = [load(pathlib.Path(file)) for file in args.results]
    output = pathlib.Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    lines = [_METHOD]
    for index, document in enumerate(documents):
        name = None
        if "growth" in document["parts"]:
            name = f"performance_growth{index or ''}.png"
            network_figure.save(growth_figure(document["parts"]["growth"]), output / name)
        lines += ["", *report.section(document, name)]
    (output / DOCUMENT).write_text("\n".join(lines) + "\n")
    print(f"{output / DOCUMENT} from {len(documents)} benchmarks", file=sys.stderr)
    return 0


def load(file: pathlib.Path) -> dict[str, Any]:
    """Returns the results of a benchmark; raises ValueError for anything else."""
    try:
        document = json.loads(file.read_text())
        schema = document["schema"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"--results: {file} is not a benchmark's result ({error!r}); `python -m "
            f"experiments.benchmark` writes one"
        ) from error
    if schema != SCHEMA:
        raise ValueError(
            f"--results: {file} has schema {schema}, this version reads {SCHEMA}; "
            f"run `python -m experiments.benchmark` again"
        )
    return document


def growth_figure(part: Mapping[str, Mapping]) -> Figure:
    """Draws every figure over every axis, relative to the axis's first point, in log-log scale."""
    drawing = Figure(figsize=(3.2 * len(part), 3.4), layout="constrained")
    panels = drawing.subplots(1, len(part), squeeze=False, sharey=True)[0]
    for axes, (axis, one) in zip(panels, part.items(), strict=True):
        points = one["points"]
        values = [point[axis] for point in points]
        for name in FIGURES:
            axes.plot(
                values,
                [point[name] / points[0][name] for point in points],
                marker="o",
                markersize=3,
                label=name,
            )
        power = 2 if axis == "image_size" else 1
        axes.plot(
            values,
            [(value / values[0]) ** power for value in values],
            color="black",
            linewidth=0.8,
            linestyle=":",
            label="linear",
        )
        axes.set(xscale="log", yscale="log", xlabel=axis)
        axes.set_xticks(values, [str(value) for value in values])
        axes.minorticks_off()
    panels[0].set_ylabel("relative to the first point")
    panels[0].legend(fontsize=7)
    return drawing


if __name__ == "__main__":
    flags.DEFINE_list(
        "results", None, "Files benchmark.json, comma-separated, a section each.", required=True
    )
    flags.DEFINE_string("output", "docs", "Folder to write to.")
    command.run(main)
