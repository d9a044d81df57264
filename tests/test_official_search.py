"""The official code's search: what it is given, what is refused, and itself where it is at hand."""

import dataclasses
import importlib.util
import os
import pathlib

import numpy as np
import pytest

from experiments.search.config import Config
from experiments.study import official_search
from experiments.study.contenders import contenders_of
from experiments.study.official_inputs import OfficialTable
from experiments.study.study_runs import Runs
from jaxnas.builtin_spaces import PROXYLESS
from jaxnas.latency import FIXED, LatencyTable
from profiling.progress import Progress
from profiling.tables import SHIPPED
from tests.conftest import make_table

CONFIG = Config(
    dataset="digits",
    device="MYRIADX_COMPILER",
    shaves=None,
    threads=None,
    worker_prefix=None,
    store=None,
    target_ms=17.2,
    batch_size=16,
    search_image_size=32,
    warmup_epochs=1,
    search_epochs=2,
    warmup_learning_rate=0.05,
    train_examples=50,
    held_out=50,
)


@pytest.fixture
def code(tmp_path) -> pathlib.Path:
    """A folder that looks like the official one."""
    (tmp_path / "nas_manager.py").touch()
    return tmp_path


@pytest.fixture
def installed(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def test_layers_as_the_official_code_asks_for_them_add_up_to_the_table():
    space = PROXYLESS
    rng = np.random.default_rng(0)
    shapes = [(block.in_channels, block.out_channels) for block in space.blocks]
    by_shape = {shape: rng.uniform(0.1, 2, len(space.candidates)) for shape in {*shapes}}
    candidate_ms = np.array([by_shape[shape] for shape in shapes])
    candidate_ms[:, -1] = 0
    table = dataclasses.replace(
        make_table(space, candidate_ms), fixed_ms={part: 2.0**-i for i, part in enumerate(FIXED)}
    )
    official = OfficialTable(space, table)
    path = np.array([rng.choice(np.flatnonzero(row)) for row in space.allowed])
    total_ms = (
        official.predict("Conv", [224, 224, 3], [112, 112, 32])
        + official.predict(
            "expanded_conv", [112, 112, 32], [112, 112, 16], expand=1, kernel=3, stride=1, idskip=0
        )
        + official.predict("Conv_1", [7, 7, 320], [7, 7, 1280])
        + official.predict("Logits", [7, 7, 1280], [1000])
    )
    for block, index in zip(space.blocks, path, strict=True):
        candidate = space.candidates[index]
        if not candidate.is_skip:  # which the official code leaves out
            total_ms += official.predict(
                "expanded_conv",
                [14, 14, block.in_channels],
                [14, 14, block.out_channels],
                expand=candidate.expansion,
                kernel=candidate.kernel,
                stride=block.stride,
                idskip=int(block.allows_skip),
            )
    assert total_ms == pytest.approx(table.path_ms(path), rel=1e-12)


def test_equal_blocks_have_the_mean_of_their_entries():
    candidate_ms = np.ones(PROXYLESS.allowed.shape)
    candidate_ms[1:4] = [[2.0], [3.0], [7.0]]  # the first stage's blocks after its first
    official = OfficialTable(PROXYLESS, make_table(PROXYLESS, candidate_ms))
    sizes = ([56, 56, 24], [56, 56, 24])
    assert official.predict("expanded_conv", *sizes, expand=3, kernel=5, stride=1, idskip=1) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": "myriadx"}, "--space=myriadx: a study with --official_code takes proxyless;"),
        ({"estimator": "gumbel"}, "--estimator=gumbel: .* takes two or full;"),
        ({"precision": "bf16"}, "--precision=bf16"),
        ({"warmup_learning_rate": 0.02}, "--warmup_learning_rate=0.02: .* takes 0.05;"),
        ({"base_batch_size": 8}, "--base_batch_size=8: .* takes 16;"),
        ({"batch_norm_group": 8}, "--batch_norm_group=8: .* takes at least 16;"),
        ({"latency_control": "mul_log"}, "--latency_control=mul_log: .* takes fixed or dual;"),
        ({"finalists": 3}, "--finalists=3: .* takes 1;"),
    ],
)
def test_what_the_official_code_cannot_do_is_refused(code, installed, change, message):
    official_search.check(code, CONFIG)
    with pytest.raises(ValueError, match=message):
        official_search.check(code, dataclasses.replace(CONFIG, **change))


def test_an_epoch_has_as_many_alpha_steps_in_both():
    official_search.check_epoch(CONFIG, 156)
    with pytest.raises(ValueError, match="has 155 weight steps; .* multiple of --alpha_every=2"):
        official_search.check_epoch(CONFIG, 155)


def test_a_study_searches_once_and_derives_within_the_budget(code, tmp_path, monkeypatch, capsys):
    """With an α that stands for the official code's."""
    table = LatencyTable.load(SHIPPED / "myriadx_compiler_proxyless_224.json", PROXYLESS)
    alpha = np.random.default_rng(0).normal(size=PROXYLESS.allowed.shape).astype(np.float32)
    config = dataclasses.replace(CONFIG, latency_control="dual", workdir=str(tmp_path / "study"))
    calls, commit = [], ["1a2b"]

    def learned_alpha(code, config, parts, table, folder):
        calls.append(config.seed)
        return alpha

    def provenance(code):
        return {"commit": commit[0], "pytorch": "2.13.0"}

    monkeypatch.setattr(official_search, "learned_alpha", learned_alpha)
    monkeypatch.setattr(official_search, "provenance", provenance)
    with Progress() as progress:
        runs = Runs(config, progress)
        found = [runs.official_search(code, table, seed) for seed in (0, 3, 0)]
        commit[0] = "3c4d"
        with pytest.raises(SystemExit, match="2"):
            runs.official_search(code, table, 3)
    assert "searched by commit 1a2b with PyTorch 2.13.0, and this is commit 3c4d" in (
        capsys.readouterr().err
    )
    assert calls == [0, 3] and found[0] == found[2] and found[1].seed == 3
    path = PROXYLESS.path(PROXYLESS.parse(found[0].architecture))
    assert found[0].predicted_ms == pytest.approx(table.path_ms(path))
    assert 0.99 * 17.2 <= found[0].predicted_ms <= 17.2
    greatest = np.where(PROXYLESS.allowed, alpha, -np.inf).argmax(1)
    assert found[0].most_probable_ms == pytest.approx(table.path_ms(greatest))
    networks = contenders_of(config, table, "official", "group", [found[0], None, found[1]])
    assert [(one.name, one.number) for one in networks] == [("official0", 0), ("official3", 2)]


def test_another_folder_and_missing_packages_are_refused(code, monkeypatch):
    with pytest.raises(ValueError, match=r"has no nas_manager.py: give the folder `search` of"):
        official_search.check(code.parent, CONFIG)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else 1)
    with pytest.raises(ValueError, match="needs torch: pip install torch pyyaml"):
        official_search.check(code, CONFIG)


def test_the_official_code_learns_an_alpha(tmp_path):
    """Its repository and PyTorch are not among the project's packages."""
    folder = os.environ.get("PROXYLESSNAS_SEARCH")
    if folder is None:
        pytest.skip("PROXYLESSNAS_SEARCH does not name the folder `search` of a clone")
    code = pathlib.Path(folder)
    official_search.check(code, CONFIG)
    table = make_table(PROXYLESS, np.ones(PROXYLESS.allowed.shape))
    alpha = official_search.learned_alpha(code, CONFIG, CONFIG.parts(), table, tmp_path)
    assert alpha.shape == PROXYLESS.allowed.shape and alpha.dtype == np.float32
    assert (alpha[~PROXYLESS.allowed] == 0).all()
    # Initialized with deviation 0.001; an α step of Adam is about the rate, 0.05.
    assert 0.02 < np.abs(alpha).max() < 0.5
    assert "Valid [2/2]" in (tmp_path / "official.log").read_text()
