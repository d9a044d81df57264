import dataclasses
import json

import numpy as np
import pytest

from jaxnas.builtin_spaces import PROXYLESS
from jaxnas.latency import LatencyTable, TableMismatch
from tests.conftest import SMALL, make_table, random_table


def test_path_latency_literal():
    table = make_table(SMALL, np.array([[1, 2, 3, 4, 0]] * 5) / 10, fixed_ms=0.7)
    assert table.path_ms(np.array([0, 1, 4, 3, 2])) == pytest.approx(0.7 + 0.1 + 0.2 + 0.4 + 0.3)
    assert table.range_ms == pytest.approx((0.7 + 0.1 + 0.1, 0.7 + 5 * 0.4))
    assert table.path_ms(np.array([4, 0, 0, 0, 0])) == np.inf


def test_round_trip(tmp_path):
    table = dataclasses.replace(
        random_table(SMALL, 0),
        additivity={"held_out_networks": 4},
        provenance={"date": "2026-01-01"},
    )
    table.save(tmp_path / "t.json", SMALL)
    loaded = LatencyTable.load(tmp_path / "t.json", SMALL)
    np.testing.assert_array_equal(loaded.candidate_ms, table.candidate_ms)
    assert {**vars(loaded), "candidate_ms": 0} == {**vars(table), "candidate_ms": 0}


def test_scaling_is_of_every_entry_and_is_remembered():
    table = random_table(SMALL, 0).scaled(11.0, 10.0).scaled(12.1, 11.0)
    assert table.range_ms[0] == pytest.approx(1.21 * random_table(SMALL, 0).range_ms[0])
    assert table.provenance["scaled_by"] == pytest.approx(1.21)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["candidate_ms"]["block03"].pop("k5e2"), "no entry 'k5e2'"),
        (lambda d: d["candidate_ms"].pop("block02"), "no entry 'block02'"),
        (lambda d: d["fixed_ms"].pop("head"), "no entry 'head'"),
        (lambda d: d["candidate_ms"]["block03"].update(k5e2=-1.0), "block03 k5e2 is -1.0 ms"),
        (lambda d: d["candidate_ms"]["block03"].update(k5e2=0.0), "block03 k5e2 is 0.0 ms"),
        (lambda d: d["candidate_ms"]["block03"].update({"-": 0.5}), "block03 - is 0.5 ms"),
        (lambda d: d.update(schema=99), "schema 99, this version reads 2"),
    ],
)
def test_a_wrong_table_is_an_error_that_names_the_entry(tmp_path, change, message):
    file = tmp_path / "t.json"
    random_table(SMALL, 0).save(file, SMALL)
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=message):
        LatencyTable.load(file, SMALL)


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", "\x00"])
def test_what_is_no_table_is_an_error(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ValueError, match="t.json .*build (one|it again) with `python -m profiling"):
        LatencyTable.load(tmp_path / "t.json", SMALL)


def test_a_table_of_something_else_is_refused(tmp_path):
    table = random_table(SMALL, 0)
    table.save(tmp_path / "t.json", SMALL)
    with pytest.raises(TableMismatch, match="space small, this run has proxyless"):
        LatencyTable.load(tmp_path / "t.json", PROXYLESS)
    with pytest.raises(TableMismatch, match="image size 224, this run has 192"):
        table.check(["MYRIADX_COMPILER"], 192, {"shaves": None})
    with pytest.raises(TableMismatch, match="shaves unset, this run has 6"):
        table.check(["MYRIADX_COMPILER"], 224, {"shaves": 6})
    with pytest.raises(TableMismatch, match="device MYRIADX_COMPILER, this run has CPU or GPU"):
        table.check(["CPU", "GPU"], 224, {})
    table.check(["CPU", "MYRIADX_COMPILER"], 224, {})


def test_a_setting_is_what_was_asked_for_or_what_was_granted(tmp_path):
    table = dataclasses.replace(
        random_table(SMALL, 0),
        device="CPU",
        settings={"threads": 2},
        asked={"shaves": None, "threads": 64},
    )
    table.save(tmp_path / "t.json", SMALL)
    loaded = LatencyTable.load(tmp_path / "t.json", SMALL)
    for threads in (64, 2):
        loaded.check(["CPU"], 224, {"shaves": None, "threads": threads})
    with pytest.raises(TableMismatch, match="made for threads 64, this run has unset"):
        loaded.check(["CPU"], 224, {"shaves": None})
    # A device that has no such setting took no notice of it.
    other = dataclasses.replace(loaded, settings={"shaves": None})
    other.check(["CPU"], 224, {"shaves": None})
    with pytest.raises(TableMismatch, match="made for threads 64, this run has 3"):
        loaded.check(["CPU"], 224, {"shaves": None, "threads": 3})
