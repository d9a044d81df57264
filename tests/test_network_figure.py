"""The drawings: what is drawn of a network, read back from the figure."""

import xml.etree.ElementTree

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from jaxnas import network_figure
from jaxnas.builtin_spaces import MYRIADX, PROXYLESS_TINY
from jaxnas.network import network_of
from jaxnas.zoo import find_network

TINY = network_of(PROXYLESS_TINY, PROXYLESS_TINY.parse("k5e3 - k3e6 k7e6 -"), 10)


def boxes(figure: Figure) -> list[FancyBboxPatch]:
    return [p for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch)]


def test_color_is_kernel_and_width_is_expansion():
    drawn = boxes(network_figure.figure([TINY], ["tiny"]))
    white = "#ffffff"
    assert [to_hex(box.get_facecolor()) for box in drawn] == [
        white,
        white,
        network_figure.COLORS[5],
        network_figure.COLORS[3],
        network_figure.COLORS[7],
        white,
        white,
    ]
    widths = [box.get_width() for box in drawn]
    narrow, wide = widths[2], widths[3]
    assert wide == pytest.approx(2 * narrow) and widths[4] == wide


def test_each_network_has_a_row_with_its_caption_and_nothing_is_cut_off():
    specs = [find_network("mobilenet_v2"), find_network("proxyless_mobile"), TINY]
    figure = network_figure.figure(specs, ["MobileNetV2", "ProxylessNAS mobile", "found"])
    rows = [box.get_y() for box in boxes(figure)]
    assert len(set(rows)) == 3 and rows == sorted(rows, reverse=True)  # from top to bottom
    assert len(rows) == sum(len(spec.blocks) + 3 for spec in specs)
    for one in (figure, network_figure.figure([TINY], ["a row that is shorter than the legend"])):
        one.canvas.draw()
        edges = one.bbox
        for text in one.axes[0].texts:
            extent = text.get_window_extent()
            assert edges.x0 <= extent.x0 and extent.x1 <= edges.x1, text.get_text()
            assert edges.y0 <= extent.y0 and extent.y1 <= edges.y1, text.get_text()
    said = [text.get_text() for text in figure.axes[0].texts]
    assert {"MobileNetV2", "3×3", "7×7", "wide: expansion 6", "white: fixed layers"} <= set(said)


def test_dense_blocks_are_hatched_and_the_legend_says_so():
    path = "f3e1 f3e2 f5e2 f3e1 - - - f3e4 f3e4 - - - k7e6 - - - k5e3 - - - -"
    fused = network_of(MYRIADX, MYRIADX.parse(path), 10)
    hatched = [box.get_hatch() is not None for box in boxes(network_figure.figure([fused], ["x"]))]
    assert hatched == [False, False, *[True] * 6, False, False, False, False]
    widths = [box.get_width() for box in boxes(network_figure.figure([fused], ["x"]))]
    assert widths[6] == pytest.approx(2 * widths[3])  # f3e4 and f3e2
    texts = [text.get_text() for text in network_figure.figure([fused], ["x"]).axes[0].texts]
    assert "hatched: dense" in texts and "3×3  F4" in texts and "7×7  MB6" in texts
    alone = network_figure.figure([TINY], ["tiny"]).axes[0].texts
    assert "hatched: dense" not in [text.get_text() for text in alone]
    resnet = network_figure.figure([find_network("resnet_18")], ["ResNet-18"])
    assert "7×7  stem" in [text.get_text() for text in resnet.axes[0].texts]
    assert "f3" in network_figure.terminal(fused).plain


@pytest.mark.parametrize("spec", [TINY, find_network("repvgg_a0")], ids=["mbconv", "dense"])
def test_legend_does_not_overlap_itself(spec):
    figure = network_figure.figure([spec], ["tiny"])
    figure.canvas.draw()
    legend = sorted(
        (text.get_window_extent() for text in figure.axes[0].texts if text.get_position()[1] < 0),
        key=lambda extent: extent.x0,
    )
    assert len(legend) == (6 if spec is TINY else 7)
    assert all(a.x1 < b.x0 for a, b in zip(legend, legend[1:], strict=False))


def test_one_caption_for_each_network():
    with pytest.raises(ValueError, match="1 captions for 2 networks"):
        network_figure.figure([TINY, TINY], ["one"])


def test_the_same_figure_is_the_same_file(tmp_path):
    for name in ("a.svg", "b.svg"):
        network_figure.save(network_figure.figure([TINY], ["tiny"]), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    xml.etree.ElementTree.parse(tmp_path / "a.svg")
    network_figure.save(network_figure.figure([TINY], ["tiny"]), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_names_are_no_formulas(tmp_path):
    file = tmp_path / "drawn.svg"
    network_figure.save(network_figure.figure([TINY], [r"run $\bad{ of $5"]), file)
    assert file.stat().st_size > 0
