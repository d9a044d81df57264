"""Figures of a benchmark, with the bounds of those that have one."""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from experiments.benchmark.growth import faster_than_linear

# Upper bounds of the figures.
STEP_RATIO, TEMP_RATIO, COMPILE_S, START_S, WAITED_SHARE = 1.25, 1.1, 60.0, 8.0, 0.05

AXES = {
    "blocks": "blocks",
    "candidates": "candidates per block, without skip",
    "batch_size": "batch",
    "image_size": "image, px",
    "devices": "virtual CPU devices",
}
GROWTH_TITLES = {
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
        "largest path: weight step, static step",
        f"{milliseconds(row['weight'])}, {milliseconds(row['static'])}",
    )
    yield Figure("α step", milliseconds(part["arch"]))


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
        f"{GROWTH_TITLES[name]} with {AXES[axis]} ({value:.2f})"
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
            f"f32 {milliseconds(row['f32'])}, bf16 {milliseconds(row['bf16'])}",
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


def milliseconds(summary: Mapping[str, float]) -> str:
    """Returns the text of a `timing.summary`: its median and, in brackets, 10 % and 90 %."""
    return f"{summary['median_ms']:.3g} ms ({summary['p10_ms']:.3g} to {summary['p90_ms']:.3g})"
