"""Damaged documents, flag files and graphs: each is read right, or refused in one line.

Documents are mutated in their structure, by hypothesis, and in their bytes. Seeds are fixed.
Pictures and ONNX files are mutated in test_pictures.py and test_onnx_file.py.
"""

import base64
import contextlib
import copy
import functools
import json
import pathlib
import random
import shutil
from collections.abc import Iterator

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies

from experiments.runs import summary
from experiments.runs.inference import _read_run
from experiments.runs.networks import read_accuracy, read_architecture
from experiments.runs.run_folder import check_workdir
from experiments.search.config import Config
from jaxnas.builtin_spaces import PROXYLESS_TINY
from jaxnas.checkpoint import Checkpoints, CheckpointUnreadable
from jaxnas.json_file import read_object
from jaxnas.latency import LatencyTable
from jaxnas.network import network_of
from jaxnas.space_file import find_space
from profiling import command
from profiling.myriad import worker_answers
from profiling.myriad.cost import estimate
from profiling.myriad.process import Fault
from tests.conftest import MICRO, random_table, same_bits

TEXT = "k5e3 - k3e3 k7e3 -"
RESULT = {
    "schema": 2,
    "architecture": TEXT,
    "space": "proxyless_tiny",
    "target_ms": 2.0,
    "predicted_ms": 1.9,
    "target_met": True,
    "device": "CPU",
    "kind": "measured",
    "settings": {"threads": 2},
    "precision": "FP32",
    "device_ms": 1.95,
    "image_size": 64,
    "num_classes": 10,
    "parameters": 20_000,
    "macs": 9e6,
    "held_out": {"epoch": 1, "epochs": 2, "top1": 0.5, "examples": 300},
    "references": {"mobilenet_v2": {"device_ms": 19.6}},
    "accuracy": {
        "dataset": "digits",
        "split": "test",
        "examples": 359,
        "image_size": 64,
        "file": "model.xml",
        "runtime": "openvino CPU f32",
        "device": "CPU",
        "inference_precision": "f32",
        "top1": 0.98,
        "top1_low": 0.96,
        "top1_high": 0.99,
        "jax_top1": 0.98,
    },
    "files": {"onnx": "model.onnx", "ir": "model.xml"},
}
COMPILED = {
    "graph": "digraph",
    "layers": {"conv": [[1, 3, 8, 8]]},
    "versions": {"python": "3.9"},
    "blob": base64.b64encode(b"\x7felf").decode(),
}
INFERRED = {
    "latency_ms": [1.0, 2.0],
    "counters": [{"name": "conv", "ms": 0.5}],
    "temperature_c": [40, 41.5],
    "graph": None,
    "originals": {"conv": ["conv", "relu"]},
}
GRAPH = (pathlib.Path(__file__).parent / "data" / "stages.dot").read_text()

bounded = hypothesis.settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
junk = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.text(max_size=8)
    | strategies.sampled_from(
        [0, -1, 1, 2**70, 1e308, float("inf"), float("nan"), -0.5, "k9e9", "../..", "[final]"]
    ),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(strategies.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """No input takes 2 GB."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
    before_kb = memory_kb("VmHWM")
    yield
    assert memory_kb("VmHWM") - before_kb < 2 * 2**20


def memory_kb(field: str) -> int:
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0])


@strategies.composite
def mutated(draw, document: dict) -> dict:
    """The document with one or two of its parts replaced, taken away or added."""
    document = copy.deepcopy(document)
    for _ in range(draw(strategies.integers(1, 2))):
        place = document
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            if not keys:
                break
            key = draw(strategies.sampled_from(list(keys)))
            if not isinstance(place[key], dict | list) or draw(strategies.booleans()):
                if draw(strategies.integers(0, 3)):
                    place[key] = draw(junk)
                else:
                    del place[key]
                break
            place = place[key]
    return document


def damaged_bytes(content: bytes, count: int) -> list[bytes]:
    """The content with bytes changed, cut, or with two pieces swapped."""
    generator, found = random.Random(7), []
    for trial in range(count):
        changed = bytearray(content)
        if trial % 3 == 0:
            del changed[generator.randrange(len(changed)) :]
        elif trial % 3 == 1:
            for _ in range(generator.randint(1, 6)):
                changed[generator.randrange(len(changed))] = generator.randrange(256)
        else:
            one, other = sorted(generator.sample(range(len(changed)), 2))
            changed = changed[other:] + changed[one:other] + changed[:one]
        found.append(bytes(changed))
    return found


def holds(read, refusal=ValueError) -> None:
    try:
        read()
    except refusal as error:
        assert "\n" not in str(error) and len(str(error)) < 2000


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, pathlib.Path]:
    folder = tmp_path_factory.mktemp("hostile")
    random_table(PROXYLESS_TINY, 0).save(folder / "table.json", PROXYLESS_TINY)
    documents = {
        "space.json": MICRO,
        "mixed.json": {
            **{name: MICRO[name] for name in ("stem", "first", "head", "widths", "counts")},
            "strides": [2],
            "candidates": [["f3e1", "f3e4", "k5e6"]],
            "first_block": "f3e1",
        },
        "result.json": RESULT,
        "config.json": {"schema": 1, "device": "CPU"},
        "architecture.json": {"schema": 1, "architecture": TEXT, "space": "proxyless_tiny"},
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document))
    return {path.name: path for path in folder.iterdir()}


def show(folder: pathlib.Path) -> None:
    with summary.reading_result(folder):
        result = read_object(folder / "result.json", "remove it")
        space = PROXYLESS_TINY
        summary.show(result, network_of(space, space.parse(TEXT), 10), "a [network]", folder)


def resume(file: pathlib.Path) -> None:
    check_workdir(
        Config(
            device="CPU",
            shaves=None,
            threads=None,
            worker_prefix=None,
            store=None,
            workdir=str(file.parent),
        )
    )


READERS = {
    "config.json": resume,
    "table.json": lambda file: LatencyTable.load(file, PROXYLESS_TINY),
    "space.json": lambda file: find_space(str(file)),
    "mixed.json": lambda file: find_space(str(file)),
    "architecture.json": lambda file: read_architecture(file.parent),
    "result.json": lambda file: (read_accuracy(file.parent), _read_run(file.parent)),
    "shown": lambda file: show(file.parent),
}


@pytest.mark.parametrize("name", READERS)
def test_documents_are_read_or_refused(files, name, capsys):
    file = files["result.json" if name == "shown" else name]
    content = file.read_bytes()

    @bounded
    @hypothesis.given(mutated(json.loads(content)))
    def structures(document):
        file.write_text(json.dumps(document))
        holds(lambda: READERS[name](file))

    try:
        structures()
        for changed in damaged_bytes(content, 90):
            file.write_bytes(changed)
            holds(lambda: READERS[name](file))
        file.write_text("[" * 100_000)
        holds(lambda: READERS[name](file))
    finally:
        file.write_bytes(content)
    if name != "config.json":  # of another run
        READERS[name](file)


@pytest.mark.parametrize(
    ("document", "read"),
    [
        (COMPILED, worker_answers.read_compiled),
        (INFERRED, worker_answers.read_inferences),
        (
            {"scores": base64.b64encode(np.zeros(4, np.float32)).decode(), "count": 2},
            worker_answers.read_scores,
        ),
        (
            {"protocol": worker_answers.PROTOCOL, "versions": {"openvino": "2021.4.2"}},
            worker_answers.read_hello,
        ),
        ({"devices": {"CPU": "a processor"}}, worker_answers.read_devices),
    ],
)
def test_answers_of_the_worker_are_read_or_faults(document, read):
    @bounded
    @hypothesis.given(mutated(document))
    def structures(answer):
        holds(lambda: read(json.loads(json.dumps(answer))), (Fault, worker_answers.WorkerError))

    structures()
    read(document)


# Of a damaged file a thread of orbax may find its event loop closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_checkpoints_are_restored_whole_or_refused(tmp_path):
    """Files of a checkpoint damaged, removed, or swapped with those of the checkpoint before."""
    states = [{"w": np.arange(64, dtype=np.float32) + step, "n": np.int32(step)} for step in (0, 1)]
    with contextlib.closing(Checkpoints(tmp_path / "whole", {"seed": 0})) as checkpoints:
        for step, state in enumerate(states):
            checkpoints.save(step + 1, jax.tree.map(np.asarray, state))
            checkpoints.wait()
    files = sorted(path for path in (tmp_path / "whole" / "2").rglob("*") if path.is_file())
    generator = random.Random(3)
    for trial in range(60):
        run = tmp_path / str(trial)
        shutil.copytree(tmp_path / "whole", run)
        file = run / generator.choice(files).relative_to(tmp_path / "whole")
        before = run / "1" / file.relative_to(run / "2")
        if trial % 3 == 0 and before.exists():
            shutil.copy(before, file)
        elif trial % 3 == 1:
            file.unlink()
        elif content := file.read_bytes():
            file.write_bytes(generator.choice(damaged_bytes(content, 30)))
        with contextlib.closing(Checkpoints(run, {"seed": 0})) as checkpoints:
            try:
                restored, facts = checkpoints.restore(states[0])
            except (CheckpointUnreadable, ValueError) as error:
                assert "\n" not in str(error)
                continue
        assert same_bits(restored, states[facts["step"] - 1])


def test_flag_files_are_read_or_refused(tmp_path):
    file = tmp_path / "mine.flags"
    for changed in damaged_bytes("--device=CPU\n# größer\n--target_ms=3\n".encode(), 150):
        file.write_bytes(changed)
        holds(lambda: command._check_flag_files([f"--flagfile={file}"]))


def test_stage_graphs_are_costed_or_refused():
    assert estimate(GRAPH).latency_ms > 0
    for changed in damaged_bytes(GRAPH.encode(), 150):
        text = changed.decode(errors="replace")
        holds(functools.partial(estimate, text))
