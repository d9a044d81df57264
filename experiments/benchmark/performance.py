"""Makes docs/performance.md of benchmarks' documents.

    python -m experiments.benchmark.performance --results=runs/benchmark/benchmark.json

Several documents, such as one of a CPU and one of a GPU, become sections of one page.
"""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence

from absl import flags
from matplotlib.figure import Figure

from experiments.benchmark import report
from experiments.benchmark.growth import FIGURES
from jaxnas import draw
from profiling import command

SCHEMA = 1
DOCUMENT = "performance.md"

_METHOD = """\
# Performance

Made by `python -m experiments.benchmark.performance` of what `python -m experiments.benchmark`
measured.

## Method

- **In turn.** Programs that are compared are timed in one process, one call of each, round after \
round, so that a machine that drifts meets all alike. A call ends when its results are there. Two \
rounds go untimed. Figures are medians with p10 and p90; a ratio is of medians, its interval a \
bootstrap over rounds.
- **The same path, statically.** The path's network as `experiments.train` trains it: the same \
layers and kernels in a program of its own. It differs from the weight step in what the supernet \
adds: gathering and scattering the path's slices, `lax.switch`, and padding what is kept for the \
backward pass. Further, batch norm's scale and bias do not decay, the learning rate is scheduled \
inside, dropout is 0 and no average is kept. Batches lie on the device beforehand, for both.
- **Memory** is XLA's own analysis of the compiled programs.
- **Huge pages.** As search and train do, the benchmark asks glibc for them where Linux gives them \
to those who ask: XLA allocates a step's temporaries anew each time.
- **Compilation and starts** are fresh processes. Compilation is without a persistent cache, each \
step by itself; a second start has the cache of the first, and its time runs from before the \
process began until a weight step is done; the architecture step is loaded meanwhile. The search's \
start is the command of the README, stopped and given again, up to the first step it logs.
- **Pipeline.** The search's loop at the quick start's size, which waits for the device at every \
tenth step; the share is the time in `next(batches)`.
- **Photographs.** Made JPEGs of 500 x 375 px in memory, through ImageNet's augmentation by one \
thread of the pipeline, against Pillow decoding the same whole.
- **Growth.** Each operation reads and writes whole tensors, so that a step on a CPU grows faster \
than its batch or its image's pixels once its largest tensors leave the processor's last cache: \
the copies by size show by how much.
- **Profile.** XLA's profiler, operations sorted by the JAX operation that they come from. What an \
accelerator did not execute of a step it waited: for the host, which waits for the index of every \
`lax.switch`."""


def main(argv: Sequence[str]) -> int:
    """Writes the page and its figures."""
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
            draw.save(growth_figure(document["parts"]["growth"]), output / name)
        lines += ["", *report.section(document, name)]
    (output / DOCUMENT).write_text("\n".join(lines) + "\n")
    print(f"{output / DOCUMENT} of {len(documents)} benchmarks", file=sys.stderr)
    return 0


def load(file: pathlib.Path) -> dict:
    """A benchmark's document; raises ValueError for anything else."""
    try:
        document = json.loads(file.read_text())
        schema = document["schema"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"--results: {file} is no benchmark ({error!r}); `python -m "
            f"experiments.benchmark` makes one"
        ) from error
    if schema != SCHEMA:
        raise ValueError(
            f"--results: {file} has schema {schema}, this version reads {SCHEMA}; "
            f"run `python -m experiments.benchmark` again"
        )
    return document


def growth_figure(part: Mapping[str, Mapping]) -> Figure:
    """Every figure over every axis, relative to the axis's first point, both logarithmic."""
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
    flags.DEFINE_list("results", None, "Documents of benchmarks, comma-separated.", required=True)
    flags.DEFINE_string("output", "docs", "Folder to write to.")
    command.run(main)
