"""The cost model on stages whose amounts are counted by hand."""

import dataclasses
import json

import pytest

from profiling.myriad.calibration import CALIBRATION, COEFFICIENTS, Calibration
from profiling.myriad.cost import dram_share, estimate_stages, stage_amounts, total
from profiling.myriad.stages import Datum, Hardware, Stage

FREE = dict.fromkeys(COEFFICIENTS, 0.0)


def with_coefficients(**values: float) -> Calibration:
    assert values.keys() <= FREE.keys()
    return Calibration({**FREE, **values})


def datum(location: str, width: int, height: int, channels: int) -> Datum:
    row = -(-2 * width // 16) * 16
    return Datum(
        location, (width, height, channels), 2 * width * height * channels, row, row * height
    )


def convolution(source: str, *, descriptors: int = 2) -> Stage:
    """1×1, 10×7 px, 64 channels in 16 blocks of 4, to 2·64 channels."""
    return Stage(
        "c",
        "MyriadXHwOp",
        "c",
        0,
        0,
        False,
        0,
        Hardware("CONV", (1, 1), 1, "MODE_4_64", descriptors, 64, 16, ""),
        (datum(source, 10, 7, 64),),
        (datum("CMX", 10, 7, 128),),
        500_000,
    )


def copy(order: int, layer: str, megabytes: float, *, injected: bool = False) -> Stage:
    size = int(megabytes * 1e6)
    whole = Datum("BSS", (size // 2, 1, 1), size, 0, 0)
    chip = dataclasses.replace(whole, location="CMX")
    return Stage(f"{layer}@copy", "Copy", layer, order, 0, injected, 0, None, (chip,), (whole,), 0)


def milliseconds(stage: Stage, calibration: Calibration) -> float:
    return total(stage_amounts(stage, calibration), calibration)


def test_a_convolution_takes_multiplications_gathering_weights_and_its_start():
    calibration = with_coefficients(
        multiplication_clocks=2.0,
        mode_4_64_clocks=30.0,
        weight_ms_per_mb=0.1,
        engine_stage_ms=0.005,
    )
    # 10 · 7 · 2 · (2 · 16 + 30) clocks of 1/700000 ms, half a megabyte, and the start
    assert milliseconds(convolution("CMX"), calibration) == pytest.approx(
        140 * 62 / 700e3 + 0.05 + 0.005
    )


def test_writing_many_channels_bounds_a_convolution_of_few_multiplications():
    calibration = with_coefficients(multiplication_clocks=1.0, output_channel_clocks=0.5)
    assert milliseconds(convolution("CMX"), calibration) == pytest.approx(140 * 32 / 700e3)
    calibration = with_coefficients(multiplication_clocks=1.0, output_channel_clocks=0.2)
    assert milliseconds(convolution("CMX"), calibration) == pytest.approx(140 * 16 / 700e3)


def test_an_input_in_dram_is_read_once_a_descriptor_beside_the_work():
    reading = with_coefficients(
        read_ms_per_mb=1.0, read_ms_per_thousand_runs=1.0, multiplication_clocks=1.0
    )
    # Rows of 10 elements take 32 bytes; one piece without a gap.
    expected = 2 * (32 * 7 * 64 / 1e6 + 1 / 1e3)
    assert milliseconds(convolution("BSS"), reading) == pytest.approx(expected)
    assert milliseconds(convolution("CMX"), reading) == pytest.approx(140 * 16 / 700e3)
    slow = with_coefficients(read_ms_per_mb=0.01, multiplication_clocks=1.0)
    assert milliseconds(convolution("BSS"), slow) == pytest.approx(140 * 16 / 700e3)


def test_pooling_and_vector_stages():
    pool = dataclasses.replace(
        convolution("CMX"), hardware=Hardware("POOL", (3, 3), 1, "MODE_16_16", 8, 0, 0, "MAX")
    )
    calibration = with_coefficients(max_pool_clocks=14.0, average_pool_clocks=100.0)
    assert milliseconds(pool, calibration) == pytest.approx(10 * 7 * 8 * 14 / 700e3)
    add = Stage(
        "a",
        "Sum",
        "a",
        0,
        0,
        False,
        4,
        None,
        (datum("BSS", 8, 8, 1000),) * 2,
        (datum("CMX", 8, 8, 1000),),
        0,
    )
    calibration = with_coefficients(sum_ms_per_million=2.0, vector_ms_per_million=50.0)
    assert milliseconds(add, calibration) == pytest.approx(0.064 * 2 / 4)
    calibration = with_coefficients(sum_ms_per_million=2.0, vector_ms_per_mb=1.0)
    assert milliseconds(add, calibration) == pytest.approx(2 * 0.128)


def test_a_constant_is_copied_without_an_input():
    constant = dataclasses.replace(copy(0, "c", 1), inputs=(), weight_bytes=4_000_000)
    calibration = with_coefficients(copy_stage_ms=0.002, copy_ms_per_mb=0.1)
    assert milliseconds(constant, calibration) == pytest.approx(0.002 + 0.4)


def test_a_copy_takes_bytes_and_filled_rows():
    calibration = with_coefficients(
        copy_stage_ms=0.002,
        copy_ms_per_mb=0.1,
        copy_ms_per_thousand_rows=0.01,
        chip_copy_ms_per_thousand_rows=0.5,
    )
    even = dataclasses.replace(
        copy(0, "c", 1), inputs=(datum("CMX", 56, 10, 9),), outputs=(datum("BSS", 56, 10, 9),)
    )
    assert milliseconds(even, calibration) == pytest.approx(0.002 + 0.1 * 2 * 56 * 90 / 1e6)
    odd = dataclasses.replace(
        copy(0, "c", 1), inputs=(datum("CMX", 7, 10, 9),), outputs=(datum("BSS", 7, 10, 9),)
    )
    assert milliseconds(odd, calibration) == pytest.approx(
        0.002 + 0.1 * 2 * 7 * 90 / 1e6 + 0.01 * 90 / 1e3
    )
    within = dataclasses.replace(odd, outputs=(datum("CMX", 7, 10, 9),))
    assert milliseconds(within, calibration) == pytest.approx(0.002 + 0.5 * 90 / 1e3)


@pytest.mark.parametrize(("source", "share"), [("CMX", 0.0), ("BSS", 0.25)])
def test_an_injected_copy_is_hidden_but_for_the_hosts_own_reading(source, share):
    # The work takes 140 · 16 clocks, 3.2 µs; reading 2 · 14336 bytes a quarter of that.
    calibration = with_coefficients(
        multiplication_clocks=1.0, copy_ms_per_mb=0.1, read_ms_per_mb=0.25 * 0.0032 / 0.028672
    )
    host = convolution(source)
    assert dram_share(host, calibration) == pytest.approx(share)
    result = estimate_stages([host, copy(0, "other", 0.01, injected=True)], calibration)
    assert {layer.name: layer.ms for layer in result.layers} == pytest.approx(
        {"c": 0.0032 + share * 0.001}
    )
    longer = estimate_stages([host, copy(0, "other", 1.0, injected=True)], calibration)
    assert longer.latency_ms == pytest.approx(0.1 + share * 0.0032)


def test_host_time_and_interval_stand_beside_the_device():
    errors = {"convolution": 50.0, "depthwise": 50.0, "pooling": 50.0, "other": 20.0}
    calibration = dataclasses.replace(
        with_coefficients(copy_ms_per_mb=1.0), host_ms=1.3, error_percent=errors
    )
    result = estimate_stages(
        [copy(0, "a", 4.0), copy(1, "b", 6.0), copy(-1, "idle", 9.0)], calibration
    )
    assert [(layer.name, round(layer.ms, 9)) for layer in result.layers] == [("a", 4), ("b", 6)]
    assert result.latency_ms == pytest.approx(11.3)
    assert result.interval_ms == pytest.approx((8 + 1.3, 12 + 1.3))
    assert result.host_ms == 1.3


def test_kinds_of_layers_err_independently():
    errors = {"convolution": 3.0, "depthwise": 8.0, "pooling": 0.0, "other": 20.0}
    calibration = dataclasses.replace(
        with_coefficients(copy_ms_per_mb=1.0, engine_stage_ms=5.0), error_percent=errors
    )
    dense = dataclasses.replace(convolution("CMX"), order=1)
    other = dataclasses.replace(dense, name="d", layer="d", order=2)
    stages = [copy(0, "a", 4.0), dense, other]
    result = estimate_stages(stages, calibration, depthwise={"d"})
    half_ms = ((0.2 * 4) ** 2 + (0.03 * 5) ** 2 + (0.08 * 5) ** 2) ** 0.5
    assert result.interval_ms == pytest.approx((14 - half_ms, 14 + half_ms))


def test_calibration_goes_through_its_file(tmp_path):
    shipped = Calibration.load()
    shipped.save(tmp_path / "c.json", {"coefficients": "test"})
    assert Calibration.load(tmp_path / "c.json") == shipped


def test_refuses_an_incomplete_calibration(tmp_path):
    content = json.loads(CALIBRATION.read_text())
    del content["coefficients"]["copy_stage_ms"]
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="copy_stage_ms"):
        Calibration.load(path)
    path.write_text(json.dumps({**content, "schema": 1}))
    with pytest.raises(ValueError, match="schema 1"):
        Calibration.load(path)
