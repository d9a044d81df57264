"""Report of a benchmark: the figures with their bounds, and the tables."""

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from experiments.benchmark.growth import FIGURES, faster_than_linear
from experiments.runs import markdown

# Upper bounds of the figures.
STEP_RATIO, TEMP_RATIO, COMPILE_S, START_S, WAITED_SHARE = 1.25, 1.1, 60.0, 8.0, 0.05

_AXES = {
    "blocks": "blocks",
    "candidates": "candidates per block, without skip",
    "batch_size": "batch",
    "image_size": "image, px",
    "devices": "virtual CPU devices",
}
_FIGURES = {
    "weight_ms": "weight step, ms",
    "arch_ms": "α step, ms",
    "temp_mb": "temporaries of the weight step, MB",
    "compile_s": "compilation, s",
}


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure: its name, its value as text, and its bound if it has one."""

    name: str
    value: str
    bound: str = ""
    met: bool | None = None


def figures(parts: Mapping[str, Mapping]) -> list[Figure]:
    """Returns the figures of the measured parts, in the order of `_FIGURES_OF`."""
    return [
        figure for name, one in _FIGURES_OF.items() if name in parts for figure in one(parts[name])
    ]


def _bounded(name: str, value: float, bound: float, text: str = "{:.2f}", more: str = "") -> Figure:
    return Figure(name, text.format(value) + more, f"≤ {text.format(bound)}", value <= bound)


def _step(part: Mapping) -> Iterator[Figure]:
    ratios = [row["ratio"]["ratio"] for row in part["paths"]]
    yield _bounded(
        "weight step ÷ the same path compiled statically, median of paths",
        part["median_ratio"],
        STEP_RATIO,
        more=f" ({min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} paths)",
    )
    row = next(row for row in part["paths"] if row["largest"])
    yield Figure(
        "largest path: weight step, static step", f"{_ms(row['weight'])}, {_ms(row['static'])}"
    )
    yield Figure("α step", _ms(part["arch"]))


def _memory(part: Mapping) -> Iterator[Figure]:
    programs = part["programs"]
    yield _bounded(
        "temporaries of the weight step ÷ the largest static path's",
        part["temp_ratio"],
        TEMP_RATIO,
        more=(
            f" ({programs['weight']['temp_mb']:.0f} MB ÷ "
            f"{programs['static_largest']['temp_mb']:.0f} MB)"
        ),
    )
    yield Figure("temporaries of the α step", f"{programs['arch']['temp_mb']:.0f} MB")


def _compile(part: Mapping) -> Iterator[Figure]:
    yield _bounded("cold compilation of both steps", part["total_s"], COMPILE_S, "{:.1f} s")


def _start(part: Mapping) -> Iterator[Figure]:
    yield _bounded(
        "second start of the steps, up to the first step",
        part["median_s"],
        START_S,
        "{:.1f} s",
        f" ({part['min_s']:.1f} to {part['max_s']:.1f} of {part['count']})",
    )


def _search(part: Mapping) -> Iterator[Figure]:
    second = part["second"]
    yield _bounded(
        f"second start of the quick start's search, up to its step {second['steps']}",
        second["to_logged_s"],
        START_S,
        "{:.1f} s",
        f" (compiled after {second['to_compiled_s']:.1f} s)",
    )


def _growth(part: Mapping) -> Iterator[Figure]:
    faster = [
        f"{_FIGURES[name]} with {_AXES[axis]} ({value:.2f})"
        for axis, name, value in faster_than_linear(part)
    ]
    yield Figure("grows faster than linear (exponent)", "; ".join(faster) or "nothing")


def _profile(part: Mapping) -> Iterator[Figure]:
    for name, title in (("weight", "weight step"), ("static", "static step")):
        one = part[name]
        top = ", ".join(f"{kind} {ms:.1f}" for kind, ms in list(one["kinds_ms"].items())[:3])
        yield Figure(f"longest parts of the {title}, ms of {one['wall_ms']:.1f}", top)


def _kernels(part: Mapping) -> Iterator[Figure]:
    for kind, ours, name in (
        ("depthwise", "shifted", "shifted slices"),
        ("dense", "products", "ours"),
    ):
        for what in ("forward", "gradient"):
            ratios = [
                row[f"xla_{what}"]["median_ms"] / row[f"{ours}_{what}"]["median_ms"]
                for row in part.get(kind, ())
            ]
            if ratios:
                yield Figure(
                    f"{kind} {what}: XLA ÷ {name}",
                    f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} over "
                    f"{len(ratios)} shapes)",
                )
    yield Figure("cost of one lax.switch", f"{part['switch']['choice_us']:.1f} µs")


def _bandwidth(part: Mapping) -> Iterator[Figure]:
    rates = ", ".join(f"{point['mb']} MB {point['gb_per_s']:.0f}" for point in part["points"])
    yield Figure(f"copies with {part['threads']} threads, GB/s read and written", rates)


def _pipeline(part: Mapping) -> Iterator[Figure]:
    yield _bounded(
        "input pipeline: share of the loop spent waiting",
        100 * part["waited_share"],
        100 * WAITED_SHARE,
        "{:.1f} %",
        f" ({part['pictures_per_s_in_loop']:.0f} images/s, pipeline alone "
        f"{part['pictures_per_s_alone']:.0f})",
    )


def _photographs(part: Mapping) -> Iterator[Figure]:
    ratio = part["pipeline_per_s"] / part["pillow_per_s"]
    yield Figure(
        f"photographs per second and core, JPEG to {part['size']} px",
        f"{part['pipeline_per_s']:.0f}, {ratio:.2f} of Pillow's decoding alone",
    )


def _tpu(part: Mapping) -> Iterator[Figure]:
    for name, one in part["programs"].items():
        collectives = sum(one["collectives"].values())
        yield Figure(
            f"{name} step compiled for {part['topology']}, {part['batch_size']} images a chip",
            f"{(one['temp_mb'] + one['argument_mb']) / 1e3:.1f} GB a chip, {collectives} "
            f"collectives, {one['conditionals']} conditionals, {one['compile_s']:.0f} s",
        )


def _export(part: Mapping) -> Iterator[Figure]:
    for name, row in part["networks"].items():
        yield Figure(
            f"{name} at {part['image_size']} px, IR on OpenVINO's CPU",
            f"f32 {_ms(row['f32'])}, bf16 {_ms(row['bf16'])}",
        )


_FIGURES_OF = {
    "step": _step,
    "memory": _memory,
    "compile": _compile,
    "start": _start,
    "search": _search,
    "pipeline": _pipeline,
    "photographs": _photographs,
    "export": _export,
    "kernels": _kernels,
    "profile": _profile,
    "bandwidth": _bandwidth,
    "growth": _growth,
    "tpu": _tpu,
}


def _without_folder(command: str) -> str:
    """Returns the command without --output, which means nothing on another machine."""
    return shlex.join(word for word in shlex.split(command) if not word.startswith("--output="))


def _ms(summary: Mapping[str, float]) -> str:
    return f"{summary['median_ms']:.3g} ms ({summary['p10_ms']:.3g} to {summary['p90_ms']:.3g})"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Returns the lines of a Markdown table; floats below 100 get three significant digits."""
    return markdown.table(header, [[_rounded(cell) for cell in row] for row in rows])


def _rounded(cell: object) -> object:
    if not isinstance(cell, float):
        return cell
    return f"{cell:.3g}" if abs(cell) < 100 else f"{cell:.0f}"


def figures_table(parts: Mapping[str, Mapping], skipped: Mapping[str, str]) -> list[str]:
    """Returns the figures as a Markdown table, and a line for each skipped part."""
    met = {None: "", True: "met", False: "**missed**"}
    lines = table(
        ("figure", "value", "bound", ""),
        [(one.name, one.value, one.bound, met[one.met]) for one in figures(parts)],
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
        "    " + _without_folder(document["command"]),
        "",
        *figures_table(parts, document["skipped"]),
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
            _ms(row["weight"]),
            _ms(row["static"]),
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
        lines += ["", *table((_AXES[axis], *(_FIGURES[name] for name in FIGURES)), rows)]
    return lines
