"""Tables from the real compiler. Every network here is compiled for the MyriadX."""

import json

import numpy as np
import pytest

from jaxnas import export
from jaxnas.latency import LatencyTable
from jaxnas.network import network_of
from jaxnas.space import PROXYLESS, PROXYLESS_TINY
from profiling import tables
from profiling.device import open_device
from profiling.measurement import LayerTime, Measurement, Options, Setup
from tests.conftest import run_program


def test_covering_set_shows_every_candidate():
    covering = tables.covering_set(PROXYLESS)
    assert len(covering) == 7
    shown = np.zeros(PROXYLESS.allowed.shape, bool)
    for path in covering:
        PROXYLESS.arch(path)
        shown[np.arange(21), path] = True
    assert (shown == PROXYLESS.allowed).all()


def measurement(*layers: tuple[str, float]) -> Measurement:
    setup = Setup("MYRIADX_COMPILER", "estimated", "MyriadX", "FP16", {}, {"shaves": None})
    return Measurement(setup, sum(ms for _, ms in layers), 0.0, 0.0, 0,
                       tuple(LayerTime(*layer) for layer in layers))


def test_layers_are_attributed_by_name():
    parts = tables.ms_by_part(measurement(
        ("image@FP16", 0.1), ("stem/conv", 0.2), ("block07/expand", 0.3), ("block07/project", 0.4),
        (export.OUTPUT, 0.5), ("logits@FP16", 0.6)))
    assert parts == pytest.approx({"host": 0.0, "input": 0.1, "stem": 0.2, "block07": 0.7,
                                   "classifier": 0.5, "output": 0.6})


def test_a_layer_of_no_block_is_an_error():
    with pytest.raises(ValueError, match="'mystery' that belongs to no block"):
        tables.ms_by_part(measurement(("mystery", 0.1)))


@pytest.mark.usefixtures("myriad")
def test_shipped_table_is_within_1_percent_of_the_compiler_on_20_random_networks():
    file = tables.shipped("MYRIADX_COMPILER", PROXYLESS, 224, Options())
    table = LatencyTable.load(file, PROXYLESS)
    assert table.candidate_ms[PROXYLESS.allowed].size == 141
    rng = np.random.default_rng(2026)
    errors = []
    with open_device("MYRIADX_COMPILER") as device:
        for _ in range(20):
            path = PROXYLESS.random_path(rng)
            spec = network_of(PROXYLESS, PROXYLESS.arch(path), table.num_classes)
            latency_ms = tables.measure_spec(device, spec, table.image_size).latency_ms
            errors.append(table.path_ms(path) / latency_ms - 1)
    assert np.abs(errors).max() < 0.01, errors


@pytest.mark.usefixtures("myriad")
def test_program_builds_a_table(tmp_path):
    done = run_program("profiling.tables", "--space=proxyless_tiny", "--image_size=64",
                       "--num_classes=10", f"--output={tmp_path / 'tiny.json'}")
    assert done.returncode == 0, done.stderr
    assert "33 entries, MYRIADX_COMPILER (estimated)" in done.stdout
    table = LatencyTable.load(tmp_path / "tiny.json", PROXYLESS_TINY)
    assert table.additivity["held_out_networks"] == 4
    assert table.additivity["max_abs_error_percent"] < 2
    assert table.provenance["versions"]["openvino"].startswith("2021.4.2")
    document = json.loads((tmp_path / "tiny.json").read_text())
    assert document["unit"] == "ms" and document["candidate_ms"]["block01"]["-"] == 0


@pytest.mark.usefixtures("myriad")
@pytest.mark.parametrize(("name", "published_ms"), [("mobilenet_v2", 19.8),
                                                     ("proxyless_mobile", 24.1)])
def test_the_posters_networks_are_within_5_percent(name, published_ms):
    done = run_program("profiling.measure", f"--model={name}", "--device=MYRIADX_COMPILER")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["latency_ms"]["median"] == pytest.approx(published_ms, rel=0.05)
    assert document["latency_ms"]["count"] == 0 and document["kind"] == "estimated"
    assert sum(layer["ms"] for layer in document["layers"]) == pytest.approx(
        document["latency_ms"]["median"])


@pytest.mark.parametrize(("arguments", "message"), [
    (["--model=nothing.onnx"], "--model=nothing.onnx: no such file"),
    (["--model=README.md"], "--model=README.md is no ONNX file"),
    (["--model=mobilenet_v2", "--device=TOASTER"], "unknown device 'TOASTER', allowed are"),
    (["--model=mobilenet_v2", "--shaves=17"], "shaves"),
    (["--modell=mobilenet_v2"], "modell"),
    (["--model=mobilenet_v2", "again"], "unexpected argument 'again'"),
    ([], "--model must have a value"),
])
def test_measure_refuses_wrong_usage_with_one_line(arguments, message):
    done = run_program("profiling.measure", *arguments)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not done.stdout
