import dataclasses
import json
import re

import numpy as np
import pytest

from jaxnas.builtin_spaces import PROXYLESS, PROXYLESS_TINY
from jaxnas.space import SKIP, Candidate, format_arch, staged_space
from jaxnas.space_file import find_space


def test_proxyless_is_the_published_space():
    assert [str(c) for c in PROXYLESS.candidates] == [
        "k3e3",
        "k3e6",
        "k5e3",
        "k5e6",
        "k7e3",
        "k7e6",
        "-",
    ]
    assert len(PROXYLESS.blocks) == 21
    assert PROXYLESS.allowed.sum() == 141
    assert (PROXYLESS.allowed.sum(1) == 6).sum() == 6
    assert [b.out_channels for b in PROXYLESS.blocks[::4]] == [24, 40, 80, 96, 192, 320]
    assert [b.stride for b in PROXYLESS.blocks[::4]] == [2, 2, 2, 1, 2, 1]
    assert list(PROXYLESS.runs())[:4] == [(0, 1), (1, 3), (4, 1), (5, 3)]


def test_text_form_round_trips():
    rng = np.random.default_rng(0)
    for _ in range(50):
        path = PROXYLESS.random_path(rng)
        arch = PROXYLESS.arch(path)
        assert PROXYLESS.parse(format_arch(arch)) == arch
        assert (PROXYLESS.path(arch) == path).all()


def test_text_form_literal():
    space = staged_space("s", stem=4, first=4, widths=(8,), counts=(2,), strides=(2,), head=8)
    assert space.parse("k7e3 -") == (Candidate(7, 3), SKIP)
    assert format_arch((Candidate(7, 3), SKIP)) == "k7e3 -"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k3e3 " * 20, r"20 tokens.*21 blocks \(none for block20\)"),
        ("k3e3 " * 22, r"22 tokens.*too many after block20"),
        ("k3e3 " * 5 + "k9e3 " + "k3e3 " * 15, r"block05: unknown token 'k9e3'"),
        ("k3e3 " * 5 + "k03e3 " + "k3e3 " * 15, r"block05: unknown token 'k03e3'"),
        (
            "k3e3 " * 4 + "- " + "k3e3 " * 16,
            r"block04: skip is not allowed.*24 channels to 40 at stride 2",
        ),
    ],
)
def test_refuses_what_does_not_fit(text, message):
    with pytest.raises(ValueError, match=message):
        PROXYLESS.parse(text)


def test_refuses_a_path_that_does_not_fit():
    with pytest.raises(ValueError, match="20 blocks"):
        PROXYLESS.path(PROXYLESS.parse("k3e3 " * 21)[:20])
    with pytest.raises(ValueError, match="block12: skip"):
        PROXYLESS.arch([0] * 12 + [6] + [0] * 8)


def test_blocks_that_change_the_shape_are_no_run_of_equal_ones():
    """Two blocks of equal channels and stride 2 lie on pictures of different sizes."""
    space = staged_space(
        "halved", stem=4, first=4, widths=(4, 4, 6), counts=(1, 1, 3), strides=(2, 2, 1), head=8
    )
    assert [*space.runs()] == [(0, 1), (1, 1), (2, 1), (3, 2)]


def test_unknown_space_names_those_there_are():
    with pytest.raises(ValueError, match="'darts', allowed are proxyless"):
        find_space("darts")


@pytest.mark.parametrize("choices", [{"kernels": (3, 4)}, {"expansions": (1, 6)}])
def test_refuses_candidates_it_cannot_stack(choices):
    with pytest.raises(ValueError, match="odd kernels and expansions of 2 or more"):
        staged_space(
            "s", stem=4, first=4, widths=(8,), counts=(1,), strides=(1,), head=8, **choices
        )


def test_refuses_stages_of_different_lengths():
    with pytest.raises(ValueError, match="3, 2 and 3 stages"):
        staged_space(
            "s", stem=4, first=4, widths=(8, 8, 8), counts=(1, 1), strides=(1, 1, 1), head=8
        )


STAGES = {
    "stem": 8,
    "first": 8,
    "widths": [16, 24],
    "counts": [2, 3],
    "strides": [2, 2],
    "head": 64,
}


def test_a_json_file_describes_a_space(tmp_path):
    file = tmp_path / "camera.json"
    file.write_text(json.dumps(STAGES))
    found = find_space(str(file))
    assert dataclasses.replace(found, name="proxyless_tiny") == PROXYLESS_TINY
    file.write_text(json.dumps({**STAGES, "kernels": [3], "expansions": [2, 4]}))
    other = find_space(str(file))
    assert [str(c) for c in other.candidates] == ["k3e2", "k3e4", "-"]
    # A table of the one is none of the other.
    assert re.fullmatch(r"camera-[0-9a-f]{8}", found.name) and found.name != other.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "space.json is not a JSON object; give a JSON file, or one of proxyless, "),
        (
            "{}",
            "describes no space: give an object with stem, first, widths, counts, strides, head, ",
        ),
        (json.dumps({**STAGES, "depth": 3}), "describes no space"),
        (
            json.dumps({**STAGES, "stem": [8]}),
            r"stem is \[8\]; give stem, first, head ",
        ),
        (json.dumps({**STAGES, "widths": [16, "24"]}), r"widths is \[16, '24'\]"),
        (
            json.dumps({**STAGES, "counts": [2]}),
            "widths, counts and strides are given for 2, 1 and 2",
        ),
    ],
)
def test_refuses_a_file_that_describes_no_space(text, message, tmp_path):
    file = tmp_path / "space.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        find_space(str(file))


def test_refuses_a_space_file_that_is_not_there():
    with pytest.raises(ValueError, match="nowhere.json cannot be read"):
        find_space("nowhere.json")
