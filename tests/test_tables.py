"""Tables from the real compiler. Every network here is compiled for the MyriadX."""

import dataclasses
import datetime
import hashlib
import json
import pathlib

import numpy as np
import pytest

from jaxnas import export
from jaxnas.budget import budgeted_path
from jaxnas.builtin_spaces import MYRIADX, PROXYLESS, PROXYLESS_TINY
from jaxnas.latency import LatencyTable
from jaxnas.network import Network, count_macs, network_of
from profiling import tables
from profiling.database import Store, StoreError
from profiling.device import Options, measure_repeatedly
from profiling.measurement import LayerTime, Measurement, Setup, pooled
from profiling.myriad.compiler import MyriadXCompiler
from profiling.recording_device import Recording
from profiling.registry import open_device
from tests.programs import Program, run_program

TINY = ["--space=proxyless_tiny", "--image_size=64", "--num_classes=10"]
TINY_NETWORKS = 7 + 4  # the covering set and the held-out networks


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
    return Measurement(
        setup,
        sum(ms for _, ms in layers),
        0.0,
        0.0,
        0,
        tuple(LayerTime(*layer) for layer in layers),
    )


def test_layers_are_attributed_by_name():
    parts = tables.ms_by_part(
        measurement(
            ("image@FP16", 0.1),
            ("stem/conv", 0.2),
            ("block07/expand", 0.3),
            ("block07/project", 0.4),
            (export.OUTPUT, 0.5),
            ("logits@FP16", 0.6),
        )
    )
    assert parts == pytest.approx(
        {"host": 0.0, "input": 0.1, "stem": 0.2, "block07": 0.7, "classifier": 0.5, "output": 0.6}
    )


def test_a_layer_of_no_block_is_an_error():
    with pytest.raises(ValueError, match="'mystery' that belongs to no block"):
        tables.ms_by_part(measurement(("mystery", 0.1)))


@pytest.mark.usefixtures("myriad")
@pytest.mark.parametrize(("space", "entries"), [(PROXYLESS, 141), (MYRIADX, 114)])
def test_shipped_table_is_within_1_percent_of_the_compiler_on_random_networks(space, entries):
    file = tables.shipped("MYRIADX_COMPILER", space, 224, Options())
    table = LatencyTable.load(file, space)
    assert table.candidate_ms[space.allowed].size == entries
    rng = np.random.default_rng(2026)
    errors = []
    with open_device("MYRIADX_COMPILER") as device:
        for _ in range(3):
            path = space.random_path(rng)
            spec = network_of(space, space.arch(path), table.num_classes)
            latency_ms = measure_repeatedly(
                device, tables.exported(spec, table.image_size)
            ).latency_ms
            errors.append(table.path_ms(path) / latency_ms - 1)
    assert np.abs(errors).max() < 0.01, errors


def test_the_space_of_the_myriadx_has_networks_of_900_million_macs_at_the_poster_s_latency():
    """The budgeted path of most multiply-accumulates."""
    table = LatencyTable.load(tables.shipped("MYRIADX_COMPILER", MYRIADX, 224, Options()), MYRIADX)
    low, high = table.range_ms
    assert low < 8 and high > 30
    first = np.array([row.argmax() for row in MYRIADX.allowed], np.int32)
    macs = np.full(MYRIADX.allowed.shape, -np.inf)
    for block, candidate in zip(*np.nonzero(MYRIADX.allowed), strict=True):
        path = first.copy()
        path[block] = candidate
        macs[block, candidate] = count_macs(network_of(MYRIADX, MYRIADX.arch(path), 1000), 224)
    path = budgeted_path(macs / 1e6, table, 17.2)
    assert count_macs(network_of(MYRIADX, MYRIADX.arch(path), 1000), 224) == 1_702_045_696
    assert table.path_ms(path) <= 17.2


@dataclasses.dataclass(frozen=True)
class Built:
    """Files of an undisturbed build."""

    file: pathlib.Path
    store: pathlib.Path
    output: str


@pytest.fixture(scope="module")
def built(myriad, tmp_path_factory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    file, store = folder / "tiny.json", folder / "store.sqlite"
    done = run_program(
        "profiling.tables", *TINY, f"--output={file}", f"--store={store}", COLUMNS="80"
    )
    assert done.returncode == 0, done.stderr
    return Built(file, store, done.stdout)


def test_program_builds_a_table(built):
    table = LatencyTable.load(built.file, PROXYLESS_TINY)
    assert table.additivity["held_out_networks"] == 4
    assert table.additivity["max_abs_error_percent"] < 2
    assert table.provenance["versions"]["openvino"].startswith("2021.4.2")
    document = json.loads(built.file.read_text())
    assert document["unit"] == "ms" and document["candidate_ms"]["block01"]["-"] == 0


def test_program_tells_people_what_the_table_holds(built):
    table = LatencyTable.load(built.file, PROXYLESS_TINY)
    lines = built.output.splitlines()
    assert lines[0].startswith("33 entries, MYRIADX_COMPILER (estimated), FP16, 64 px, 10 classes")
    assert max(map(len, lines)) <= 80
    words = " ".join(built.output.split())
    fastest, slowest = table.range_ms
    assert f"networks from {fastest:.2f} to {slowest:.2f} ms" in words
    assert "against 4 held-out networks" in words
    row = next(line.split() for line in lines if line.startswith("block01"))
    assert row[:2] == ["block01", "16→16"]
    k3e3, k7e6 = table.candidate_ms[1, 0], table.candidate_ms[1, 5]
    assert row[2:6] == ["k3e3", f"{k3e3:.3f}", "k7e6", f"{k7e6:.3f}"]
    part, ms = max(table.fixed_ms.items(), key=lambda item: item[1])
    whole_ms = sum(table.fixed_ms.values())
    assert f"fixed part of every network {whole_ms:.3f} ms: {part} {ms:.3f}, " in words


def test_a_second_build_measures_nothing(built, tmp_path):
    with Store(built.store) as store:
        before = store.runs()
    assert len(before) == len({run.model_sha256 for run in before}) == TINY_NETWORKS
    done = run_program(
        "profiling.tables",
        *TINY,
        f"--output={tmp_path / 'again.json'}",
        "--json",
        f"--store={built.store}",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / "again.json").read_text() == built.file.read_text()
    with Store(built.store) as store:
        assert store.runs() == before


def test_a_killed_build_measures_only_the_rest(built, tmp_path):
    file = tmp_path / "store.sqlite"
    arguments = ["profiling.tables", *TINY, f"--output={tmp_path / 'tiny.json'}", f"--store={file}"]
    process = Program(*arguments)
    process.wait_until(lambda: stored(file) >= 3)
    process.kill()
    there = stored(file)
    assert 3 <= there < TINY_NETWORKS and not (tmp_path / "tiny.json").exists()
    with Store(file) as store:
        before = store.runs()
    done = run_program(*arguments)
    assert done.returncode == 0, done.stderr
    with Store(file) as store:
        runs = store.runs()
    assert runs[:there] == before and len(runs) == TINY_NETWORKS
    assert len({run.model_sha256 for run in runs}) == TINY_NETWORKS
    tables_built = [json.loads(path.read_text()) for path in (tmp_path / "tiny.json", built.file)]
    for table in tables_built:
        table["provenance"].pop("date")  # midnight may have passed
    assert tables_built[0] == tables_built[1]


def stored(file: pathlib.Path) -> int:
    try:
        with Store(file, create=False) as store:
            return len(store)
    except StoreError:  # not made yet
        return 0


class InThreePasses(MyriadXCompiler):
    """The compiler, asked as often as a device that is measured."""

    repeats = 3


def test_passes_take_turns_and_what_the_store_has_counts(myriad, tmp_path):
    specs = [
        network_of(PROXYLESS_TINY, PROXYLESS_TINY.arch(path), 10)
        for path in tables.covering_set(PROXYLESS_TINY)[:2]
    ]
    told = []
    with (
        Store(tmp_path / "store.sqlite") as store,
        Recording(InThreePasses("MYRIADX_COMPILER", Options()), store) as device,
    ):
        device.measure(tables.exported(specs[0], 32), tables.recipe(specs[0], 32))
        measurements = tables.measure_specs(
            device, specs, 32, progress=lambda done, total: told.append((done, total))
        )
        digests = [run.model_sha256 for run in store.runs()]
        first, second = digests[:2]
        assert digests == [first, second, first, second, first, second] and first != second
        assert told == [(done, 5) for done in (1, 2, 3, 4, 5)]
        again = tables.measure_specs(device, specs, 32)
        assert again == [dataclasses.replace(one, blob=None) for one in measurements]
        assert len(store) == 6
        tables.measure_specs(device, specs[:1], 32, max_age_days=0)
        assert len(store) == 9
        tables.measure_specs(device, specs[:1], 64)
        assert len(store) == 12
        told.clear()
        whole = measure_repeatedly(
            device,
            tables.exported(specs[0], 32),
            lambda done, run: told.append((done, run.latency_ms)),
        )
        assert told == [(done, whole.latency_ms) for done in (1, 2, 3)] and whole.blob
        assert len(store) == 15


class Timed(InThreePasses):
    """The same under the label of a device that is measured, whose runs grow old."""

    def __init__(self, name: str, options: Options):
        super().__init__(name, options)
        self.setup = dataclasses.replace(self.setup, kind="measured")


@pytest.mark.parametrize(
    ("kind", "days", "counts"), [(Timed, 29, True), (Timed, 31, False), (InThreePasses, 4000, True)]
)
def test_measured_runs_count_for_30_days(kind, days, counts, myriad, tmp_path):
    spec = network_of(
        PROXYLESS_TINY, PROXYLESS_TINY.arch(tables.covering_set(PROXYLESS_TINY)[0]), 10
    )
    with (
        Store(tmp_path / "store.sqlite") as store,
        Recording(kind("MYRIADX_COMPILER", Options()), store) as device,
    ):
        now = datetime.datetime.now(datetime.UTC)
        old = Measurement(
            device.setup,
            1000.0,
            1000.0,
            1000.0,
            0,
            (LayerTime("stem/conv", 1000),),
            time=now - datetime.timedelta(days),
        )
        store.add(old, tables.exported(spec, 32), tables.recipe(spec, 32))
        (whole,) = tables.measure_specs(device, [spec], 32)
        assert len(store) == (3 if counts else 4)
        assert (whole.p90_ms > 100) == counts and whole.latency_ms < 10
        assert (whole.time == old.time) == counts


def test_another_graph_of_the_same_network_needs_another_export_number():
    path = tables.covering_set(PROXYLESS_TINY)[0]
    model = export.to_onnx(
        Network(
            network_of(PROXYLESS_TINY, PROXYLESS_TINY.arch(path), 10), rng=np.random.default_rng(0)
        ),
        32,
    )
    for weights in model.graph.initializer:
        if not weights.name.startswith("clip/"):
            weights.ClearField("raw_data")
    digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()[:16]
    # Where this fails, raise export.EXPORT: the store holds runs of the graph as it was.
    assert (export.EXPORT, digest) == (2, "d9e39eb6434dcaae")


def test_runs_are_pooled_by_their_medians():
    setup = Setup("CPU", "measured", "Some CPU", "f32", {}, {"threads": 1})

    def run(latency_ms, p10_ms, p90_ms, host_ms, celsius, **layers) -> Measurement:
        return Measurement(
            setup,
            latency_ms,
            p10_ms,
            p90_ms,
            10,
            tuple(LayerTime(name, ms) for name, ms in layers.items()),
            host_ms,
            celsius,
        )

    runs = [
        run(10, 9, 11, 1, (40, 41), a=6, b=3),
        run(12, 11, 13, 2, (41, 42), a=7, b=3),
        run(20, 12, 25, 3, (42, 43), a=17),
    ]
    assert pooled(runs[:1]) is runs[0]
    whole = pooled(runs)
    assert (whole.latency_ms, whole.count) == (12, 30)
    # Between 9 and 11, and between 13 and 25, near the outer ones.
    assert (whole.p10_ms, whole.p90_ms) == pytest.approx((9.4, 22.6))
    assert whole.temperature_c == (40, 43) and whole.setup == setup and whole.time == runs[0].time
    # The medians are a 7, b 3, host 2: 12 in all, as is the median of the latencies.
    assert whole.layers == (LayerTime("a", 7), LayerTime("b", 3)) and whole.host_ms == 2
    longer = pooled([run(24, 1, 2, 2, None, a=7, b=3), run(24, 1, 2, 2, None, a=7, b=3)])
    assert longer.layers == (LayerTime("a", 14), LayerTime("b", 6)) and longer.host_ms == 4
    assert longer.temperature_c is None


def test_runs_of_other_setups_are_not_pooled():
    one = measurement(("stem/conv", 0.2))
    other = dataclasses.replace(one, setup=dataclasses.replace(one.setup, hardware="MyriadY"))
    with pytest.raises(ValueError, match="MyriadX.*MyriadY.*cannot be pooled"):
        pooled([one, other])


@pytest.mark.usefixtures("myriad")
def test_measure_tells_people_the_slowest_layers_first(tmp_path):
    store = tmp_path / "store.sqlite"
    done = run_program(
        "profiling.measure",
        "--model=mobilenet_v2",
        "--image_size=64",
        f"--store={store}",
        COLUMNS="80",
    )
    assert done.returncode == 0, done.stderr
    with Store(store, create=False) as opened:
        (run,) = opened.runs(model="mobilenet_v2")
    latency_ms = run.measurement.latency_ms
    lines = done.stdout.splitlines()
    assert lines[0] == f"mobilenet_v2 on MYRIADX_COMPILER: {latency_ms:.3f} ms, estimated"
    assert max(map(len, lines)) <= 80
    for words in ("estimated, not timed", "MyriadX", "FP16", "openvino"):
        assert words in done.stdout
    layers = [line.split() for line in lines[lines.index("") + 2 :]]
    slowest = sorted(run.measurement.layers, key=lambda layer: -layer.ms)
    assert [line[:2] for line in layers[:20]] == [
        [layer.name, f"{layer.ms:.3f}"] for layer in slowest[:20]
    ]
    assert layers[0][2] == f"{slowest[0].ms / latency_ms:.1%}" and "█" in layers[0][3]
    rest_ms = sum(layer.ms for layer in slowest[20:])
    assert layers[20][:3] == [str(len(slowest) - 20), "others", f"{rest_ms:.3f}"]
    assert len(layers) == 21


@pytest.mark.usefixtures("myriad")
def test_mobilenet_v2_is_within_5_percent_of_the_stick():
    done = run_program(
        "profiling.measure", "--model=mobilenet_v2", "--device=MYRIADX_COMPILER", "--json"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["latency_ms"]["median"] == pytest.approx(19.8, rel=0.05)
    assert document["latency_ms"]["count"] == 0 and document["kind"] == "estimated"
    layers_ms = sum(layer["ms"] for layer in document["layers"])
    assert layers_ms + document["host_ms"] == pytest.approx(document["latency_ms"]["median"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=nothing.onnx"], "--model=nothing.onnx: no such file"),
        (["--model=README.md", "--image_size=160"], "has its own size; give --shape for another"),
        (["--model=README.md"], "README.md is not an ONNX file"),
        (["--model=mobilenet_v2", "--device=TOASTER"], "unknown device 'TOASTER', allowed are"),
        (["--model=mobilenet_v2", "--shaves=17"], "shaves"),
        (["--modell=mobilenet_v2"], "modell"),
        (["--model=mobilenet_v2", "again"], "unexpected argument 'again'"),
        ([], "--model must have a value"),
    ],
)
def test_measure_refuses_wrong_usage_with_one_line(arguments, message):
    done = run_program("profiling.measure", *arguments)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not done.stdout
