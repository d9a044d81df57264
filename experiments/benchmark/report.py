"""Report of a benchmark: the tables of figures and of each part."""

import shlex
from collections.abc import Mapping, Sequence

from experiments.benchmark.figures import AXES, GROWTH_TITLES, Figure, figures, milliseconds
from experiments.benchmark.growth import FIGURES
from experiments.runs import markdown


def without_folder(command: str) -> str:
    """Returns the command without --output, which means nothing on another machine."""
    return shlex.join(word for word in shlex.split(command) if not word.startswith("--output="))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Returns the lines of a Markdown table; floats below 100 get three significant digits."""
    return markdown.table(header, [[_rounded(cell) for cell in row] for row in rows])


def _rounded(cell: object) -> object:
    if not isinstance(cell, float):
        return cell
    return f"{cell:.3g}" if abs(cell) < 100 else f"{cell:.0f}"


def figures_table(figures: Sequence[Figure], skipped: Mapping[str, str]) -> list[str]:
    """Returns the figures as a Markdown table, and a line for each skipped part."""
    met = {None: "", True: "met", False: "**missed**"}
    lines = table(
        ("figure", "value", "bound", ""),
        [(one.name, one.value, one.bound, met[one.met]) for one in figures],
    )
    return [*lines, *(f"\nSkipped: {name}, {reason}." for name, reason in skipped.items())]


def section(document: Mapping, growth_figure: str | None) -> list[str]:
    """Returns the lines of one benchmark's section of docs/performance.md.

    Args:
      document: content of benchmark.json.
      growth_figure: file name of the figure, if the document has the part `growth`.
    """
    machine, settings, parts = (document[key] for key in ("machine", "settings", "parts"))
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"## {machine['accelerator'] or machine['cpu']}, {settings['precision']}, batch "
        f"{settings['batch_size']}, {settings['train_image_size']} px",
        "",
        f"{machine['cpu']}, {machine['cores']} cores"
        f"{', ' + machine['accelerator'] if machine['accelerator'] else ''}; load at the "
        f"start {machine['load']:.1f}; {document['date']}; {versions}. Space "
        f"{settings['space']}, {settings['num_classes']} classes, {settings['steps']} timed "
        f"repeats.",
        "",
        "    " + without_folder(document["command"]),
        "",
        *figures_table(figures(parts), document["skipped"]),
    ]
    for name, one in _SECTIONS.items():
        if name in parts:
            lines += ["", *one(parts[name])]
    if "growth" in parts:
        lines += ["", *_growth_tables(parts["growth"], growth_figure)]
    return lines


def _step_table(part: Mapping) -> list[str]:
    rows = [
        (
            f"`{row['architecture']}`" + (" (largest)" if row["largest"] else ""),
            milliseconds(row["weight"]),
            milliseconds(row["static"]),
            "{ratio:.2f} ({low:.2f} to {high:.2f})".format(**row["ratio"]),
        )
        for row in part["paths"]
    ]
    return [
        "### Steps",
        "",
        *table(
            ("path", "weight step, median (p10 to p90)", "static step", "ratio (95 % interval)"),
            rows,
        ),
    ]


def _memory_table(part: Mapping) -> list[str]:
    columns = ("temp_mb", "argument_mb", "output_mb", "aliased_mb")
    rows = [
        (name.replace("_", " "), *(one[column] for column in columns))
        for name, one in part["programs"].items()
    ]
    return [
        "### Memory by XLA's analysis, MB",
        "",
        *table(("program", "temporaries", "arguments", "outputs", "of these aliased"), rows),
    ]


def _compile_table(part: Mapping) -> list[str]:
    rows = [(name, *seconds.values()) for name, seconds in part["programs"].items()]
    return [
        "### Cold compilation, s",
        "",
        *table(("step", "tracing", "lowering", "compiling"), rows),
    ]


def _start_table(part: Mapping) -> list[str]:
    where = part["where"]
    rows = [
        ("interpreter and imports", where["interpreter_and_imports_s"]),
        ("initialization of the weights", where["init_s"]),
        *(
            (f"{name} step: {what.removesuffix('_s')}", seconds)
            for name, program in where["programs"].items()
            for what, seconds in program.items()
        ),
        ("first step", where["first_step_s"]),
    ]
    return [
        "### Second start of the steps, s",
        "",
        *table(("phase", "s"), rows),
        "",
        f"With an empty cache: {part['cold_s']:.1f} s.",
    ]


def _kernels_table(part: Mapping) -> list[str]:
    kinds = {
        "depthwise": {"shifted": "shifted slices", "xla": "XLA"},
        "dense": {
            "products": "ours",
            "xla": "XLA",
            "im2col": "im2col",
            "shifted": "a product a tap",
        },
    }
    lines: list[str] = []
    for kind, names in kinds.items():
        rows = [
            (
                f"{row['size']}×{row['size']}×{row['channels']}"
                + (f" to {row['out_channels']}" if kind == "dense" else ""),
                row["stride"],
                row["kernel"],
                *(
                    row[f"{name}_{what}"]["median_ms"]
                    for what in ("forward", "gradient")
                    for name in names
                ),
            )
            for row in part.get(kind, ())
        ]
        titles = [
            f"{title}, {what}" for what in ("forward", "with gradients") for title in names.values()
        ]
        if rows:
            lines += [
                *([""] if lines else []),
                f"### {kind.capitalize()} convolutions, median ms",
                "",
                *table(("input", "stride", "kernel", *titles), rows),
            ]
    return lines


def _profile_table(part: Mapping) -> list[str]:
    kinds = list(dict.fromkeys([*part["weight"]["kinds_ms"], *part["static"]["kinds_ms"]]))
    rows = [
        (kind, *(part[name]["kinds_ms"].get(kind, 0.0) for name in ("weight", "static")))
        for kind in kinds
    ]
    rows += [
        (what, part["weight"][key], part["static"][key])
        for what, key in (("total executed", "busy_ms"), ("wall time", "wall_ms"))
    ]
    return [
        "### Step of the largest path by kind of operation, ms",
        "",
        *table(("kind of operation", "weight step", "static step"), rows),
    ]


def _tpu_table(part: Mapping) -> list[str]:
    rows = [
        (
            name,
            one["temp_mb"],
            one["argument_mb"],
            ", ".join(f"{count} {kind}" for kind, count in one["collectives"].items()) or "none",
            one["conditionals"],
            one["gflops"],
            one["gb"],
            f"{one['compile_s']:.0f} ({one['cpu_s']:.0f})",
            *one["largest_batch"].values(),
        )
        for name, one in part["programs"].items()
    ]
    chips = next(iter(part["programs"].values()))["largest_batch"]
    return [
        "### Compiled for a TPU",
        "",
        f"By the TPU's compiler for {part['topology']}, {part['chips']} chips with "
        f"{part['batch_size']} images each; nothing ran. Figures are of one chip. Operations and "
        f"bytes are of the longest branches. The largest batches take temporaries to grow with the "
        f"batch.",
        "",
        *table(
            (
                "step",
                "temporaries, MB",
                "arguments, MB",
                "collectives",
                "conditionals",
                "10⁹ operations",
                "GB moved",
                "compilation, s (of a core)",
                *(f"largest batch, {chip}" for chip in chips),
            ),
            rows,
        ),
    ]


_SECTIONS = {
    "step": _step_table,
    "memory": _memory_table,
    "compile": _compile_table,
    "start": _start_table,
    "profile": _profile_table,
    "kernels": _kernels_table,
    "tpu": _tpu_table,
}


def _growth_tables(part: Mapping, figure: str | None) -> list[str]:
    lines = [
        "### Growth",
        "",
        "One axis at a time, the largest path. The exponent is the slope of "
        "log figure over log axis (an image's pixels, not its side): 1 is linear.",
    ]
    if figure is not None:
        lines += ["", f"![Growth]({figure})"]
    for axis, one in part.items():
        rows = [(point[axis], *(point[name] for name in FIGURES)) for point in one["points"]]
        rows.append(("exponent", *(f"{one['exponents'][name]:.2f}" for name in FIGURES)))
        lines += ["", *table((AXES[axis], *(GROWTH_TITLES[name] for name in FIGURES)), rows)]
    return lines
