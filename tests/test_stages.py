"""The stage graph of a small network, as the real compiler wrote it, read and estimated.

tests/data/stages.dot: image [1, 3, 224, 224], `stem/conv` 3×3 stride 2 to 32 channels with ReLU6,
`block00/depthwise` 3×3, `block00/project` 1×1 to 16 channels, whose output is called `out`.
Compiled with openvino 2021.4.2 for 7 SHAVEs and 9 CMX slices.
"""

import dataclasses
import json
import pathlib

import pytest

from profiling.myriad.calibration import CALIBRATION, Calibration
from profiling.myriad.stages import Hardware, Stage, estimate, estimate_stages, parse, stage_ms

GRAPH = pathlib.Path(__file__).parent / "data" / "stages.dot"


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    return parse(GRAPH.read_text())


def named(stages: list[Stage], name: str) -> Stage:
    (stage,) = (stage for stage in stages if stage.name == name)
    return stage


def copy_stage(order: int, megabytes: float, layer: str) -> Stage:
    """A copy: 0.02 ms and 0.2 ms a MB."""
    size = int(megabytes * 1e6)
    return Stage(f"{layer}@copy", "Copy", layer, order, 0, 0, None, size, size, 0, (8, 8))


def test_reads_a_convolution(stages):
    assert named(stages, "out") == Stage(
        name="out",
        type="MyriadXHwOp",
        layer="out",
        order=10,
        index=17,
        shaves=0,
        # 1×1 with 32 channels in 4 blocks, 8 each, and 11 to set the mode up.
        hardware=Hardware("CONV", (1, 1), 1, "MODE_4_64", 1, 19),
        input_bytes=2 * 112 * 112 * 32,
        output_bytes=2 * 112 * 112 * 16,
        weight_bytes=2 * (32 * 16 + 16 + 16),  # kernel, bias, scale
        output_size=(112, 112),
    )


def test_reads_a_conversion_that_belongs_to_no_layer(stages):
    stage = named(stages, "image@FP16")
    assert (stage.layer, stage.type, stage.order, stage.shaves) == (None, "Convert", 0, 7)
    assert stage.input_bytes == 4 * 224 * 224 * 3
    assert stage.output_bytes == 2 * 224 * 224 * 3


def test_traffic_of_an_injected_stage_is_its_hosts_too(stages):
    host = named(stages, "block00/depthwise@tile=2/2")
    (copy,) = (s for s in stages if s.order == host.order and s.type == "Copy")
    assert copy.output_bytes == 2 * 112 * 112 * 16
    assert host.input_bytes == host.output_bytes == 2 * 112 * 112 * 16 + copy.output_bytes
    assert host.output_size == (112, 112)


def test_stage_times_are_the_formula(stages):
    calibration = Calibration.load()
    # 0.99 · 112 · 112 · 19 / 700e3 + 0.105 · 0.001088 + 0.084 · 1.204224 + 0.010
    assert stage_ms(named(stages, "out"), calibration) == pytest.approx(0.448344, abs=1e-6)
    # 0.02 + 0.3 · (0.602112 + 0.301056)
    assert stage_ms(named(stages, "image@FP16"), calibration) == pytest.approx(0.290950, abs=1e-6)
    # 0.02 + 0.2 · 0.401408
    copy = named(stages, "out@FP16@move-to-DDR")
    assert stage_ms(copy, calibration) == pytest.approx(0.100282, abs=1e-6)


def test_width_is_computed_in_groups_of_eight(stages):
    calibration = Calibration.load()
    stage = named(stages, "out")
    narrow = dataclasses.replace(stage, output_size=(105, 112))
    narrower = dataclasses.replace(stage, output_size=(104, 112))
    assert stage_ms(narrow, calibration) == stage_ms(stage, calibration)
    assert stage_ms(narrower, calibration) < stage_ms(stage, calibration)


def test_whole_graph():
    result = estimate(GRAPH.read_text())
    assert result.latency_ms == pytest.approx(3.634491, abs=1e-6)
    assert result.interval_ms == pytest.approx((3.634491, 3.819403), abs=1e-6)
    assert {layer.name: layer.ms for layer in result.layers} == pytest.approx(
        {
            "image@FP16": 0.290950,
            "stem/conv": 0.777256,
            "block00/depthwise": 1.636392,
            "out": 0.448344,
            "out@FP16@move-to-DDR": 0.100282,
            "out@FP16": 0.381267,
        },
        abs=1e-6,
    )
    assert sum(layer.ms for layer in result.layers) == pytest.approx(result.latency_ms)


def test_side_by_side_the_longer_stage_carries_the_time():
    pair = [copy_stage(3, 1.0, "short"), copy_stage(3, 4.0, "long"), copy_stage(4, 1.0, "short")]
    result = estimate_stages(pair, Calibration.load())
    assert {layer.name: layer.ms for layer in result.layers} == pytest.approx(
        {"long": 0.82, "short": 0.22}
    )
    assert result.latency_ms == pytest.approx(1.04)
    assert result.interval_ms == pytest.approx((1.04, 1.26))


def test_order_minus_one_takes_no_time(stages):
    idle = [stage for stage in stages if stage.order == -1]
    assert {stage.type for stage in idle} == {"Expand", "Split", "Crop", "StubConcat"}
    calibration = Calibration.load()
    assert [stage_ms(stage, calibration) for stage in idle] == [0.0] * len(idle)
    assert estimate_stages([copy_stage(-1, 5.0, "idle")], calibration).latency_ms == 0.0


@pytest.mark.parametrize("text", ["", "digraph {", "no graph", "digraph a {\n}\n"])
def test_refuses_what_is_no_stage_graph(text):
    with pytest.raises(ValueError, match="stage graph"):
        parse(text)


def test_refuses_a_label_that_lacks_what_a_stage_must_have():
    with pytest.raises(ValueError, match="'cost'"):
        parse(GRAPH.read_text().replace("cost = 19", "costs = 19"))


def test_refuses_an_incomplete_calibration(tmp_path):
    content = json.loads(CALIBRATION.read_text())
    del content["coefficients"]["copy_ms"]
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="copy_ms"):
        Calibration.load(path)
    path.write_text(json.dumps({**content, "schema": 2}))
    with pytest.raises(ValueError, match="schema 2"):
        Calibration.load(path)
