"""The stage graph of a small network, as the real compiler wrote it, read.

tests/data/stages.dot: image [1, 3, 224, 224], `stem/conv` 3×3 stride 2 to 32 channels with ReLU6,
`block00/depthwise` 3×3, `block00/project` 1×1 to 16 channels, whose output is called `out`.
Compiled with openvino 2021.4.2 for 7 SHAVEs and 9 CMX slices.
"""

import pathlib

import pytest

from profiling.myriad.stages import Datum, Hardware, Stage, parse

GRAPH = pathlib.Path(__file__).parent / "data" / "stages.dot"


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    return parse(GRAPH.read_text())


def named(stages: list[Stage], name: str) -> Stage:
    (stage,) = (stage for stage in stages if stage.name == name)
    return stage


def test_reads_a_convolution(stages):
    assert named(stages, "out") == Stage(
        name="out",
        type="MyriadXHwOp",
        layer="out",
        order=10,
        index=17,
        injected=False,
        shaves=0,
        # 1×1 with 32 channels in 8 blocks of 4.
        hardware=Hardware("CONV", (1, 1), 1, "MODE_4_64", 1, 16, 8, ""),
        inputs=(Datum("BSS", (112, 112, 32), 2 * 112 * 112 * 32, 224, 224 * 112),),
        outputs=(Datum("CMX", (112, 112, 16), 2 * 112 * 112 * 16, 224, 224 * 112),),
        weight_bytes=2 * (32 * 16 + 16 + 16),
    )  # kernel, bias, scale


def test_a_depthwise_convolution_is_dense_tiles(stages):
    tile = named(stages, "block00/depthwise@tile=1/2").hardware
    # 16 channels in 2 blocks of 8, each against the 9 places of the window.
    assert (tile.mode, tile.multiplications, tile.outputs) == ("MODE_8_32", 18, 16)


def test_reads_a_conversion_that_belongs_to_no_layer(stages):
    stage = named(stages, "image@FP16")
    assert (stage.layer, stage.type, stage.order, stage.shaves) == (None, "Convert", 0, 7)
    assert [datum.bytes for datum in stage.inputs] == [4 * 224 * 224 * 3]
    assert [datum.bytes for datum in stage.outputs] == [2 * 224 * 224 * 3]
    assert not stage.inputs[0].on_chip and not stage.outputs[0].on_chip


def test_data_of_an_injected_stage_are_not_its_hosts(stages):
    host = named(stages, "block00/depthwise@tile=2/2")
    (copy,) = (s for s in stages if s.order == host.order and s.type == "Copy")
    assert copy.injected and not host.injected
    assert [d.location for d in copy.inputs + copy.outputs] == ["CMX", "BSS"]
    assert [d.location for d in host.inputs + host.outputs] == ["BSS", "CMX"]


def test_pieces_and_filling_of_a_tensor():
    whole = Datum("BSS", (17, 17, 8), 2 * 17 * 17 * 8, 48, 48 * 17)
    assert (whole.runs, whole.filled_rows, whole.padded_bytes) == (1, 17 * 8, 48 * 17 * 8)
    rows = Datum("BSS", (17, 3, 8), 2 * 17 * 3 * 8, 48, 48 * 17)  # three rows of each channel
    assert (rows.runs, rows.filled_rows, rows.padded_bytes) == (8, 3 * 8, 48 * 3 * 8)
    even = Datum("CMX", (112, 56, 32), 2 * 112 * 56 * 32, 224, 224 * 56)
    assert (even.runs, even.filled_rows, even.padded_bytes) == (1, 0, even.bytes)
    vector = Datum("BSS", (1, 1, 1000), 2000, 0, 0)
    assert (vector.runs, vector.filled_rows, vector.padded_bytes) == (1, 0, 2000)


def test_order_minus_one_is_not_executed(stages):
    idle = {stage.type for stage in stages if not stage.executed}
    assert idle == {"Expand", "Split", "Crop", "StubConcat"}


@pytest.mark.parametrize("text", ["", "digraph {", "no graph", "digraph a {\n}\n"])
def test_refuses_what_is_no_stage_graph(text):
    with pytest.raises(ValueError, match="stage graph"):
        parse(text)


def test_refuses_a_label_that_lacks_what_a_stage_must_have():
    with pytest.raises(ValueError, match="'numDescr'"):
        parse(GRAPH.read_text().replace("numDescr = 1", "numDescrs = 1"))


def test_reads_a_layer_whose_name_has_a_quotation_mark():
    text = GRAPH.read_text().replace("block00/depthwise", 'block "a", b')
    assert any(stage.layer == 'block "a", b' for stage in parse(text))


def test_refuses_a_graph_that_is_cut():
    text = GRAPH.read_text()
    with pytest.raises(ValueError, match="stage graph"):
        parse(text[: len(text) // 2])
