"""Fused and MBConv candidates in one block: allowed candidates, export, space files."""

import dataclasses
import json

import numpy as np
import pytest

from jaxnas import export, parity
from jaxnas.network import Network, network_of
from jaxnas.pixels import Normalization
from jaxnas.space import format_arch
from jaxnas.space_file import find_space
from tests.conftest import NUM_CLASSES
from tests.kinds import KINDS

MIXED, TEXTS = KINDS["mixed"].space, KINDS["mixed"].texts


def test_blocks_allow_what_their_stage_does():
    assert [str(candidate) for candidate in MIXED.candidates] == [
        "f3e1",
        "f5e2",
        "k3e2",
        "f3e3",
        "k5e3",
        "f5e1",
        "-",
    ]
    assert MIXED.allowed.tolist() == [
        [True, True, True, False, False, False, False],
        [True, False, True, True, True, True, True],
        [True, False, True, True, True, True, True],
    ]
    for text in TEXTS:
        assert format_arch(MIXED.parse(text)) == text
    with pytest.raises(ValueError, match="block00: f3e3 is not allowed in this block, .* f3e1 f5"):
        MIXED.parse("f3e3 f3e1 -")
    with pytest.raises(ValueError, match="block01: unknown token 'f7e2'"):
        MIXED.parse("f3e1 f7e2 -")


def test_a_mixed_network_is_exported_with_its_names(tmp_path):
    spec = network_of(MIXED, MIXED.parse(TEXTS[0]), NUM_CLASSES)
    network = Network(spec, rng=np.random.default_rng(0))
    model = export.to_onnx(network, 32)
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert names == [
        "stem/conv",
        "block00/dense",
        "block00/project",
        "block01/dense",
        "block02/expand",
        "block02/depthwise",
        "block02/project",
        "head/conv",
    ]
    export.save(model, tmp_path / "m.onnx", tmp_path / "m.xml")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    assert parity.compare(network, tmp_path / "m.onnx", tmp_path / "m.xml", pixels).holds


STAGES = {"stem": 4, "first": 4, "widths": [6, 6], "counts": [1, 2], "strides": [2, 1], "head": 8}
CANDIDATES = [["f3e1", "f5e2", "k3e2"], ["k3e2", "f3e1", "f3e3", "k5e3", "f5e1"]]
FIRST_LAYERS = {"first_block": "-", "stem_stride": 1, "activation": "relu", "padding": "same"}


def test_a_json_file_gives_candidates_by_stage(tmp_path):
    file = tmp_path / "mixed.json"
    document = {**STAGES, "candidates": CANDIDATES, **FIRST_LAYERS}
    file.write_text(json.dumps(document))
    found = dataclasses.replace(find_space(str(file)), name="mixed")
    assert found == dataclasses.replace(MIXED, normalization=Normalization())
    file.write_text(json.dumps({**STAGES, "candidates": [["k5e6", "f3e4"]]}))
    found = find_space(str(file))
    assert format_arch(found.candidates) == "k5e6 f3e4 -" and str(found.first) == "k3e1"
    assert found.allowed.sum() == 3 * 2 + 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": [["f3e4"]] * 3}, "candidates are given for 3 stages of 2"),
        ({"candidates": [["f4e2"]]}, "'f4e2' has kernel 4"),
        ({"candidates": [["k3e1"]]}, "'k3e1' has kernel 3 and expansion 1"),
        ({"candidates": [["f3e0"]]}, "'f3e0' has kernel 3 and expansion 0"),
        ({"candidates": [["k3e6", "-"]]}, "a stage's candidates are k3e6 -"),
        ({"candidates": [["k3e6", "k3e6"]]}, "give each candidate once"),
        ({"candidates": [[]]}, "a stage's candidates are none"),
        ({"candidates": [["mb3"]]}, "'mb3' is no candidate: give k and f"),
        ({"candidates": ["k3e6"]}, "candidates is .'k3e6'.; give first_block as text"),
        ({"candidates": [[3]]}, "candidates is"),
        ({"candidates": []}, "candidates are given for 0 stages"),
        ({"candidates": [["k3e6"]], "kernels": [3]}, "has candidates beside kernels"),
        ({"first_block": "f3e4"}, "the first block is 'f3e4'; give one of k3e1, f3e1"),
        ({"first_block": "-", "first": 6}, "first is 6 without a first block; give the stem's 4 "),
        (
            {"first_block": "-", "widths": [4, 4], "strides": [1, 1]},
            "all blocks may be skipped, which would leave none",
        ),
        ({"stem_stride": 3}, "stem_stride is 3; give 1 or 2"),
        ({"stem_stride": "2"}, "stem_stride is '2'; give stem, first, head and stem_stride as"),
        ({"activation": "swish"}, "activation is 'swish'; give relu6 or relu"),
        ({"padding": "valid"}, "padding is 'valid'; give symmetric or same"),
        ({"activation": 6}, "activation is 6; give first_block as text"),
        ({"first_block": 3}, "first_block is 3"),
    ],
)
def test_refuses_candidates_that_make_no_space(change, message, tmp_path):
    file = tmp_path / "space.json"
    file.write_text(json.dumps({**STAGES, **change}))
    with pytest.raises(ValueError, match=message):
        find_space(str(file))
