"""Drawing of networks as on the poster: a row of blocks, color for kernel, width for expansion.

Dense convolutions, of fused blocks among others, are hatched.
"""

import pathlib
from typing import NamedTuple

import matplotlib
import rich.text
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.text import Text

from jaxnas.block import BlockSpec
from jaxnas.network import NetworkSpec

_NAMES = {"plain": "conv", "separable": "dw", "residual": "res"}
COLORS = {3: "#5fae57", 5: "#f0993e", 7: "#d9483b"}
_OTHER_COLOR, _FIXED_COLOR, _WIDTH_COLOR = "#b39ddb", "white", "#dddddd"
_HATCH, _HATCH_COLOR = "///", "#ffffff"
_EDGE, _TEXT = "#333333", "#1a1a1a"
# Inches.
_UNIT, _GAP, _STAGE_GAP, _HEIGHT = 0.11, 0.10, 0.26, 1.0
_ROW_HEIGHT, _MARGIN, _LEGEND_WIDTH, _LEGEND_HEIGHT = 1.65, 0.3, 9.3, 0.6
_HATCHED_WIDTH = 1.7  # what the legend of dense convolutions adds


class _Box(NamedTuple):
    top: str
    bottom: str
    kernel: int  # 0 if fixed
    width: int  # in units
    dense: bool
    new_stage: bool


def _boxes(spec: NetworkSpec) -> list[_Box]:
    stem = f"{spec.stem_kernel}×{spec.stem_kernel}"
    head = [] if spec.head_channels is None else [_Box("1×1", "head", 0, 3, False, True)]
    return [
        _Box(stem, "stem", 0, 3, False, True),
        *map(_box, spec.blocks),
        *head,
        _Box("pool", "fc", 0, 3, False, not head),
    ]


def _box(block: BlockSpec) -> _Box:
    name = {"mbconv": f"MB{block.expansion}", "fused": f"F{block.expansion}"}.get(
        block.kind, _NAMES.get(block.kind, "")
    )
    fixed = block.name == "first"
    return _Box(
        f"{block.kernel}×{block.kernel}",
        name,
        0 if fixed else block.kernel,
        3 if fixed or block.kind not in ("mbconv", "fused") else max(2, block.expansion),
        block.layers[0].kind == "dense" and not fixed,
        block.in_channels != block.out_channels or block.stride != 1,
    )


def figure(specs: list[NetworkSpec], captions: list[str]) -> Figure:
    """Returns a figure of one row per network, its caption above; the size fits the longest row.

    Raises:
      ValueError: the numbers of captions and networks differ.
    """
    if len(specs) != len(captions):
        raise ValueError(f"{len(captions)} captions for {len(specs)} networks: give one each")
    dense = any(box.dense for spec in specs for box in _boxes(spec))
    widest = max(_LEGEND_WIDTH + dense * _HATCHED_WIDTH, *map(_row_width, specs))
    height = _ROW_HEIGHT * len(specs)
    fig = Figure(figsize=(widest + 2 * _MARGIN, height + _LEGEND_HEIGHT))
    FigureCanvasAgg(fig)
    axes = fig.add_axes((0, 0, 1, 1))
    axes.set_xlim(-_MARGIN, widest + _MARGIN)
    axes.set_ylim(-_LEGEND_HEIGHT, height)
    axes.axis("off")
    for row, (spec, caption) in enumerate(zip(specs, captions, strict=True)):
        base = height - _ROW_HEIGHT * (row + 1) + 0.12
        axes.text(0, base + _HEIGHT + 0.12, caption, fontsize=11, fontweight="bold", va="bottom")
        _draw_row(axes, spec, base)
    _draw_legend(axes, -_LEGEND_HEIGHT / 2, dense)
    return fig


def _draw_row(axes: Axes, spec: NetworkSpec, base: float) -> None:
    """Draws the boxes of a network on the line along which its data flows."""
    axes.plot(
        [0, _row_width(spec)],
        [base + _HEIGHT / 2] * 2,
        color=_EDGE,
        linewidth=1.2,
        solid_capstyle="butt",
        zorder=0,
    )
    x = 0.0
    for index, box in enumerate(_boxes(spec)):
        x += _STAGE_GAP if box.new_stage and index else _GAP if index else 0.0
        width = _UNIT * box.width
        axes.add_patch(
            FancyBboxPatch(
                (x, base),
                width,
                _HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.04",
                facecolor=COLORS.get(box.kernel, _OTHER_COLOR) if box.kernel else _FIXED_COLOR,
                edgecolor=_EDGE,
                linewidth=0.9,
                hatch=_HATCH if box.dense else None,
                hatchcolor=_HATCH_COLOR,
            )
        )
        axes.text(
            x + width / 2,
            base + _HEIGHT / 2,
            f"{box.top}  {box.bottom}",
            rotation=90,
            fontsize=8.5,
            ha="center",
            va="center",
            color=_TEXT,
        )
        x += width


def _draw_legend(axes: Axes, middle: float, dense: bool) -> None:
    """Draws the colors by kernel, and boxes as wide as those of the rows."""
    x = 0.0
    entries = [(f"{kernel}×{kernel}", color, 0.22, 0.95) for kernel, color in COLORS.items()]
    entries += [
        ("wide: expansion 6", _WIDTH_COLOR, 6 * _UNIT, 2.3),
        ("narrow: expansion 3", _WIDTH_COLOR, 3 * _UNIT, 2.15),
        ("white: fixed layers", _FIXED_COLOR, 3 * _UNIT, 2.0),
    ]
    if dense:
        entries.append(("hatched: dense", _WIDTH_COLOR, 3 * _UNIT, _HATCHED_WIDTH))
    for text, color, width, advance in entries:
        axes.add_patch(
            Rectangle(
                (x, middle - 0.11),
                width,
                0.22,
                facecolor=color,
                edgecolor=_EDGE,
                linewidth=0.9,
                hatch=_HATCH if text.startswith("hatched") else None,
                hatchcolor=_HATCH_COLOR,
            )
        )
        axes.text(x + width + 0.08, middle, text, fontsize=9, va="center")
        x += advance


def save(fig: Figure, file: pathlib.Path) -> None:
    """Writes a figure as SVG or PNG by the file's suffix; equal figures give equal bytes."""
    metadata = {"Date": None} if file.suffix == ".svg" else None
    without_math(fig)
    with matplotlib.rc_context({"svg.hashsalt": "jaxnas"}):
        fig.savefig(file, metadata=metadata, dpi=120)


def without_math(fig: Figure) -> None:
    """Makes a figure draw all its texts as they are: users' names may contain dollar signs."""
    for text in fig.findobj(Text):
        text.set_parse_math(False)


def _row_width(spec: NetworkSpec) -> float:
    boxes = _boxes(spec)
    gaps = sum(_STAGE_GAP if box.new_stage else _GAP for box in boxes[1:])
    return gaps + _UNIT * sum(box.width for box in boxes)


def terminal(spec: NetworkSpec) -> rich.text.Text:
    """Returns the row as text: the kernel's digit in its color, wider for a larger expansion.

    The digit of a dense convolution is underlined and begins with f.
    """
    text = rich.text.Text(no_wrap=False)
    for index, box in enumerate(_boxes(spec)):
        if index:
            text.append("  " if box.new_stage else " ")
        label = ("f" if box.dense else "") + (box.top[0] if box.top != "pool" else "p")
        style = f"bold white on {COLORS[box.kernel]}" if box.kernel in COLORS else "black on white"
        style = f"underline {style}" if box.dense else style
        text.append(label.center(max(1, 2 * box.width // 3 - 1) if box.kernel else 1), style)
    return text
