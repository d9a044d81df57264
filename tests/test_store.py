"""The store of measurements: real files, processes that are killed, and a disk that is full."""

import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys

import pytest
from onnx import TensorProto, helper

from profiling.database import Run, Store, StoreError
from profiling.measurement import LayerTime, Measurement, Setup
from tests.programs import ROOT, run_program

SETUP = Setup(
    "CPU", "measured", "Some CPU at 3 GHz", "f32", {"openvino": "2026.4.1"}, {"threads": 1}
)
NOON = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


def network(name: str = "chain", channels: int = 3) -> bytes:
    """ONNX of one pooling."""
    shape = [1, channels, 8, 8]
    graph = helper.make_graph(
        [
            helper.make_node(
                "MaxPool", ["x"], ["y"], name="pool", kernel_shape=[2, 2], strides=[2, 2]
            )
        ],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels, 4, 4])],
    )
    opset = helper.make_opsetid("", 13)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def measurement(
    latency_ms: float = 1.5, setup: Setup = SETUP, time: datetime.datetime = NOON
) -> Measurement:
    return Measurement(
        setup,
        latency_ms,
        1.25,
        2.0,
        100,
        (LayerTime("pool", latency_ms - 0.5),),
        host_ms=0.5,
        temperature_c=(41.0, 43.5),
        time=time,
    )


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        yield store


def test_a_run_comes_back_as_it_was(store):
    model, made = network(), dataclasses.replace(measurement(1 / 3), blob=b"kept elsewhere")
    store.add(made, model, "a recipe")
    (run,) = store.runs()
    assert run == Run(
        "chain",
        hashlib.sha256(model).hexdigest(),
        len(model),
        "a recipe",
        dataclasses.replace(made, blob=None),
    )
    assert run.measurement.time == NOON


def test_runs_of_a_recipe_are_those_of_its_digest(store):
    store.add(measurement(1.5), network(), "a recipe")
    store.add(measurement(1.75), network())
    store.add(measurement(2.5), network(channels=4), "another recipe")
    assert [run.latency_ms for run in store.runs_of("a recipe", SETUP)] == [1.5, 1.75]
    assert store.runs_of("a third", SETUP) == []


@pytest.mark.parametrize(
    "change",
    [
        {"device": "GPU"},
        {"kind": "estimated"},
        {"hardware": "Some CPU at 2 GHz"},
        {"precision": "bf16"},
        {"versions": {"openvino": "2026.5.0"}},
        {"settings": {"threads": 2}},
        {"settings": {}},
        {"versions": {"openvino": "2026.4.1", "cost model": "2"}},
    ],
)
def test_runs_with_another_setup_do_not_count(change, store):
    store.add(measurement(), network(), "a recipe")
    assert store.runs_of("a recipe", dataclasses.replace(SETUP, **change)) == []
    assert len(store.runs_of("a recipe", SETUP)) == 1


def test_older_runs_do_not_count(store):
    for day in (1, 2, 3):
        store.add(measurement(day, time=NOON.replace(day=day)), network(), "a recipe")
    since = datetime.datetime.fromisoformat("2026-03-02T14:00+02:00")  # noon, UTC
    assert [run.latency_ms for run in store.runs_of("a recipe", SETUP, since)] == [2, 3]


def test_filters(store):
    other = dataclasses.replace(SETUP, device="GPU")
    store.add(measurement(1), network("first"))
    store.add(measurement(2, other, NOON.replace(day=2)), network("second"))
    digest = store.runs()[1].model_sha256

    def found(**criteria) -> list[float]:
        return [run.measurement.latency_ms for run in store.runs(**criteria)]

    assert found() == [1, 2]
    assert found(device="GPU") == [2] and found(device="NPU") == []
    assert found(since=NOON.replace(day=2)) == [2]
    assert found(model="first") == [1] and found(model=digest[:12].upper()) == [2]
    assert found(model="first", device="GPU") == []


def test_prune_deletes_what_meets_every_criterion_and_frees_its_space(store):
    other = dataclasses.replace(SETUP, device="GPU")
    for day in range(1, 29):
        many = tuple(LayerTime(f"layer{index}", 0.5) for index in range(200))
        store.add(
            dataclasses.replace(measurement(1, time=NOON.replace(day=day)), layers=many), network()
        )
    store.add(measurement(2, other), network())
    size = store.file.stat().st_size
    with pytest.raises(ValueError, match="needs a criterion"):
        store.prune()
    assert store.prune(before=NOON.replace(day=28), device="CPU") == 27
    assert [run.measurement.setup.device for run in store.runs()] == ["CPU", "GPU"]
    assert store.file.stat().st_size < size / 4


def damaged(file: pathlib.Path) -> None:
    with Store(file) as store:
        for _ in range(40):
            store.add(measurement(), network(), "a recipe " * 100)
    content = bytearray(file.read_bytes())
    content[8192:16384] = bytes(8192)
    file.write_bytes(content)


def truncated(file: pathlib.Path) -> None:
    damaged(file)
    file.write_bytes(file.read_bytes()[:6000])


def of_another_schema(file: pathlib.Path) -> None:
    with Store(file):
        pass
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version=7")
    connection.close()


def of_another_program(file: pathlib.Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE measurement (x)")
    connection.commit()
    connection.close()


BAD_STORES = {
    "text": (lambda file: file.write_text("latency 17 ms\n" * 100), "Move it aside"),
    "damaged": (damaged, "Move it aside"),
    "truncated": (truncated, "Move it aside"),
    "schema": (of_another_schema, "has schema 7, this program reads 1: use the program that crea"),
    "another program's": (of_another_program, "is not a store of measurements; name another file"),
}


@pytest.mark.parametrize("fault", BAD_STORES)
@pytest.mark.parametrize("create", [True, False])
def test_a_bad_store_is_refused_and_left_as_it_is(fault, create, tmp_path):
    make, remedy = BAD_STORES[fault]
    file = tmp_path / "store.sqlite"
    make(file)
    content = file.read_bytes()
    with pytest.raises(StoreError, match=remedy) as refused:
        Store(file, create=create)
    assert str(file) in str(refused.value)
    assert file.read_bytes() == content


@pytest.mark.parametrize("name", ["", "file/below.sqlite"])
def test_a_place_that_no_store_can_be_in_is_refused(name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="--store"):
        Store(tmp_path / name)


def test_an_empty_file_is_a_new_store(tmp_path):
    file = tmp_path / "store.sqlite"
    file.touch()
    with Store(file) as store:
        assert len(store) == 0


WRITER = """
import pathlib, sys
from profiling.database import Store
from tests.test_store import measurement, network
first, count = map(int, sys.argv[2:])
with Store(pathlib.Path(sys.argv[1])) as store:
    for number in range(first, first + count):
        store.add(measurement(number), network())
        print(number, flush=True)
"""


def writer(file: pathlib.Path, first: int, count: int) -> subprocess.Popen[str]:
    """A process that adds runs of `first`, `first` + 1, … ms and prints each that is stored."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(file), str(first), str(count)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def stored_ms(file: pathlib.Path) -> list[float]:
    with Store(file) as store:
        return [run.measurement.latency_ms for run in store.runs()]


def test_several_writers_lose_nothing(tmp_path):
    file = tmp_path / "new" / "store.sqlite"
    processes = [writer(file, first, 25) for first in (0, 100, 200, 300)]
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    expected = [first + number for first in (0, 100, 200, 300) for number in range(25)]
    assert sorted(stored_ms(file)) == expected


def test_a_killed_writer_loses_nothing_that_was_stored(tmp_path):
    file = tmp_path / "store.sqlite"
    told = []
    for kill in range(5):
        with writer(file, 100_000 * kill, 100_000) as process:
            told += [float(process.stdout.readline()) for _ in range(10 + 3 * kill)]
            process.kill()
            told += map(float, process.stdout.read().split())
        assert process.returncode == -signal.SIGKILL
        there = stored_ms(file)
        # One run may be stored and not told yet.
        assert set(told) <= set(there) and len(there) <= len(told) + kill + 1


def limited(megabytes: int, *arguments: str) -> subprocess.CompletedProcess:
    """A program none of whose files may grow beyond this."""
    return subprocess.run(
        [
            "bash",
            "-c",
            f'ulimit -f {megabytes * 1024}; exec "$@"',
            "bash",
            sys.executable,
            "-m",
            *arguments,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def fill(file: pathlib.Path, megabytes: int) -> None:
    """Adds runs until not even a short one fits into a file of this size."""
    with Store(file) as store:
        store._connection.execute(f"PRAGMA max_page_count={megabytes * 2**20 // 4096}")
        for recipe in ("x" * 60_000, None):
            with pytest.raises(StoreError, match="free space"):
                while True:
                    store.add(measurement(), network(), recipe)


@pytest.mark.usefixtures("myriad")
def test_what_is_measured_while_the_disk_is_full_is_told_all_the_same(store, tmp_path):
    fill(store.file, megabytes=2)
    before = len(store)
    (tmp_path / "model.onnx").write_bytes(network())
    done = limited(
        2,
        "profiling.measure",
        f"--model={tmp_path / 'model.onnx'}",
        "--json",
        f"--store={store.file}",
    )
    assert done.returncode == 0, done.stderr
    latency_ms = json.loads(done.stdout)["latency_ms"]["median"]
    assert f"a measurement of {latency_ms:.3f} ms is not stored: " in done.stderr
    assert str(store.file) in done.stderr and "check its disk" in done.stderr
    assert len(store) == before
    store.add(measurement(), network())
    assert len(store) == before + 1


def test_a_full_database_keeps_what_it_has(store):
    store.add(measurement(1), network())
    pages = store._value("PRAGMA page_count")
    store._connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StoreError, match="free space") as full:
        store.add(measurement(2), network(), "x" * 100_000)
    assert str(store.file) in str(full.value)
    assert [run.measurement.latency_ms for run in store.runs()] == [1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["profiling.measure", "--model={}/model.onnx"],
        ["profiling.tables", "--output={}/table.json"],
        ["experiments.search", "--flagfile=vpu.flags", "--workdir={}/run"],
    ],
)
def test_a_damaged_store_ends_a_program_before_it_works(arguments, tmp_path):
    file = tmp_path / "store.sqlite"
    damaged(file)
    content = file.read_bytes()
    (tmp_path / "model.onnx").write_bytes(network())
    # Had the device been opened first, it would be this environment that is told of.
    done = run_program(
        *(argument.format(tmp_path) for argument in arguments),
        f"--store={file}",
        JAXNAS_MYRIAD_ENV="/dev/null/none",
    )
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith(f"error: the store of measurements {file} (")
    assert "Move it aside" in done.stderr and len(done.stderr.splitlines()) == 1
    assert file.read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"store.sqlite", "model.onnx"}


def test_list_shows_runs_on_80_columns(store):
    store.add(measurement(1.5), network("mobilenet_v2_with_a_long_name"))
    store.add(
        measurement(
            17.25,
            dataclasses.replace(SETUP, device="MYRIADX_COMPILER", kind="estimated"),
            NOON.replace(day=2),
        ),
        network("[b]"),
    )
    done = run_program("profiling.store", "list", f"--store={store.file}", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    head, first, second = done.stdout.splitlines()
    assert head.split() == ["UTC", "device", "kind", "model", "digest", "ms"]
    assert first.startswith("2026-03-01 12:00 CPU ") and first.split()[-1] == "1.500"
    assert "MYRIADX_COMPILER estimated [b]" in second and second.split()[-1] == "17.250"
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_export_prints_json_lines(store, tmp_path):
    store.add(measurement(1.5), network(), "a recipe")
    store.add(measurement(2.5, dataclasses.replace(SETUP, device="GPU")), network("other"))
    done = run_program("profiling.store", "export", f"--store={store.file}")
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert first == {
        "schema": 2,
        "model": "chain",
        "device": "CPU",
        "kind": "measured",
        "hardware": "Some CPU at 3 GHz",
        "precision": "f32",
        "versions": {"openvino": "2026.4.1"},
        "settings": {"threads": 1},
        "time": "2026-03-01T12:00:00.000+00:00",
        "latency_ms": {"median": 1.5, "p10": 1.25, "p90": 2.0, "count": 100},
        "host_ms": 0.5,
        "temperature_c": [41.0, 43.5],
        "layers": [{"name": "pool", "ms": 1.0}],
        "model_sha256": hashlib.sha256(network()).hexdigest(),
        "model_bytes": len(network()),
        "recipe": "a recipe",
    }
    assert second["device"] == "GPU" and second["recipe"] is None
    file = tmp_path / "export.jsonl"
    done = run_program(
        "profiling.store", "export", "--device=GPU", f"--output={file}", f"--store={store.file}"
    )
    assert done.returncode == 0 and not done.stdout, done.stderr
    assert json.loads(file.read_text()) == second


def test_prune_says_what_it_deleted(store):
    store.add(measurement(1), network())
    store.add(measurement(2, time=datetime.datetime.now(datetime.UTC)), network())
    done = run_program(
        "profiling.store", "prune", "--older_than_days=7", "--device=CPU", f"--store={store.file}"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"deleted 1 of 2 measurements in {store.file}\n"
    assert [run.measurement.latency_ms for run in store.runs()] == [2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of list, export, prune"),
        (["forget"], "give one of list, export, prune"),
        (["list", "export"], "unexpected argument 'export'"),
        (["prune"], "--older_than_days, --device or both"),
        (["prune", "--model=chain"], "--model is not for prune"),
        (["prune", "--older_than_days=-1"], "older_than_days"),
        (["list", "--since=yesterday"], "--since=yesterday: give a date such as 2026-01-31"),
        (["export", "--output=/nowhere/file"], "--output=/nowhere/file cannot be written"),
    ],
)
def test_refuses_wrong_usage_with_one_line(arguments, message, store):
    store.add(measurement(), network())
    done = run_program("profiling.store", *arguments, f"--store={store.file}")
    assert done.returncode == 2 and not done.stdout
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert len(store) == 1


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"XDG_DATA_HOME": "data"}, "data/jaxnas/measurements.sqlite"),
        ({"HOME": "home", "XDG_DATA_HOME": ""}, "home/.local/share/jaxnas/measurements.sqlite"),
        ({"JAXNAS_STORE": "mine.sqlite", "XDG_DATA_HOME": "data"}, "mine.sqlite"),
    ],
)
def test_the_store_is_where_the_environment_says(environment, place, tmp_path):
    places = {name: value and str(tmp_path / value) for name, value in environment.items()}
    done = run_program("profiling.store", "list", **{"JAXNAS_STORE": "", **places})
    assert done.returncode == 1
    assert f"there is no store of measurements {tmp_path / place}:" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_has_enough_is_no_failure(store):
    for _ in range(300):
        store.add(measurement(), network(), "x" * 1000)
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"set -o pipefail; {sys.executable} -m profiling.store export "
            f"--store={store.file} | head -n 1",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ,
    )
    assert done.returncode == 0 and not done.stderr
    assert json.loads(done.stdout)["model"] == "chain"
