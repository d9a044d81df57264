import numpy as np
import pytest

from jaxnas.space import PROXYLESS, SKIP, Candidate, find_space, format_arch, staged_space


def test_proxyless_is_the_published_space():
    assert [str(c) for c in PROXYLESS.candidates] == [
        "k3e3", "k3e6", "k5e3", "k5e6", "k7e3", "k7e6", "-"]
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


@pytest.mark.parametrize(("text", "message"), [
    ("k3e3 " * 20, r"20 tokens.*21 blocks \(none for block20\)"),
    ("k3e3 " * 22, r"22 tokens.*too many after block20"),
    ("k3e3 " * 5 + "k9e3 " + "k3e3 " * 15, r"block05: unknown token 'k9e3'"),
    ("k3e3 " * 5 + "k03e3 " + "k3e3 " * 15, r"block05: unknown token 'k03e3'"),
    ("k3e3 " * 4 + "- " + "k3e3 " * 16,
     r"block04: skip is not allowed.*24 channels into 40 at stride 2"),
])
def test_refuses_what_does_not_fit(text, message):
    with pytest.raises(ValueError, match=message):
        PROXYLESS.parse(text)


def test_refuses_a_path_that_does_not_fit():
    with pytest.raises(ValueError, match="20 blocks"):
        PROXYLESS.path(PROXYLESS.parse("k3e3 " * 21)[:20])
    with pytest.raises(ValueError, match="block12: skip"):
        PROXYLESS.arch([0] * 12 + [6] + [0] * 8)


def test_unknown_space_names_those_there_are():
    with pytest.raises(ValueError, match="'darts', allowed are proxyless"):
        find_space("darts")


@pytest.mark.parametrize("choices", [{"kernels": (3, 4)}, {"expansions": (1, 6)}])
def test_refuses_candidates_it_cannot_stack(choices):
    with pytest.raises(ValueError, match="odd kernels and expansions of 2 or more"):
        staged_space("s", stem=4, first=4, widths=(8,), counts=(1,), strides=(1,), head=8,
                     **choices)


def test_refuses_stages_of_different_lengths():
    with pytest.raises(ValueError, match="3, 2 and 3 stages"):
        staged_space("s", stem=4, first=4, widths=(8, 8, 8), counts=(1, 1), strides=(1, 1, 1),
                     head=8)
