"""Shared fixtures: a space small enough to compile in seconds, and one set of compiled steps."""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.search import config
from jaxnas import search_state, search_steps
from jaxnas.json_file import write_object
from jaxnas.latency import FIXED, LatencyTable
from jaxnas.pixels import from_pixels
from jaxnas.space import Space, staged_space
from jaxnas.space_file import find_space
from profiling.errors import DeviceUnavailable
from profiling.myriad import environment
from tests.programs import UNOPTIMIZED, less_garbage_collection, run_fresh

# Two runs, the second of three equal blocks; kernels 3 and 5, expansions 1½ apart; skip.
SMALL = staged_space(
    "small",
    stem=4,
    first=4,
    widths=(6, 8),
    counts=(1, 4),
    strides=(2, 1),
    head=8,
    kernels=(3, 5),
    expansions=(2, 3),
)
NUM_CLASSES = 5
LONGEST = ("test_parallel", "test_study", "test_transfer", "test_readme", "test_sweep")
# A program started by `python -m` imports everything twice where malloc is not configured.
NO_RESTART = {"GLIBC_TUNABLES": ""}
# A space file, for programs.
MICRO = {
    "stem": 8,
    "first": 8,
    "head": 16,
    "widths": [8],
    "counts": [4],
    "strides": [2],
    "kernels": [3, 5],
    "expansions": [2],
}


def pytest_configure() -> None:
    # What is compiled here runs for a few steps: least time goes into making it fast.
    os.environ.setdefault("XLA_FLAGS", UNOPTIMIZED)
    # Programs without the lines of Python that made them: less to write, here and in what starts.
    os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
    jax.config.update("jax_traceback_in_locations_limit", 0)


def pytest_collection_finish() -> None:
    less_garbage_collection()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The longest first: a process that has one of them last would work alone.
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> pathlib.Path:
    """A folder that all processes of pytest share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory, shared_folder) -> Iterator[None]:
    """Measurements and compiled programs that pytest's processes share; outputs of this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXNAS_STORE", str(shared_folder / "store.sqlite"))
        patch.setenv("PROGRAM_OUTPUTS", str(tmp_path_factory.mktemp("programs")))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(shared_folder / "xla"))
        jax.config.update("jax_compilation_cache_dir", str(shared_folder / "xla"))
        yield


@pytest.fixture(scope="session")
def myriad() -> environment.Environment:
    """The compiler's environment, installed where it is missing."""
    try:
        return environment.ensure_environment()
    except DeviceUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def search_flags() -> None:
    """The flags of a search, defined in this process."""
    config.define_flags()


@pytest.fixture(scope="session")
def micro_file(shared_folder) -> pathlib.Path:
    """The file of a space of four blocks, three of which may be skipped; two programs compile it.

    Tests that search with it share compiled programs: its first stage alone makes their time.
    """
    file = shared_folder / "micro.json"
    with (shared_folder / "micro.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two writers would rename one file twice
        write_object(file, MICRO)
    return file


@pytest.fixture(scope="session")
def micro_space(micro_file) -> Space:
    return find_space(str(micro_file))


@pytest.fixture(scope="session")
def micro_search(micro_file, myriad) -> tuple[str, ...]:
    """The flags of a search that takes seconds: 51 steps.

    Its network is trained for 17 steps, at the deployment size alone: a size less to compile for.
    """
    return (
        "--device=MYRIADX_COMPILER",
        f"--space={micro_file}",
        "--image_size=64",
        "--search_image_size=16",
        "--target_ms=1.81",
        "--warmup_epochs=1",
        "--search_epochs=2",
        "--train_epochs=1",
        "--calibration_batches=2",
    )


@pytest.fixture(scope="session")
def micro_searched(shared_folder, micro_search) -> pathlib.Path:
    """The folder of that search, by `python -m`, undisturbed; once for all processes of pytest."""
    folder = shared_folder / "micro"
    with (shared_folder / "micro.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "result.json").exists():
            flags = (*micro_search, f"--workdir={folder}")
            done = run_fresh("experiments.search", *flags, **NO_RESTART)
            assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def small_steps() -> search_steps.Steps:
    return search_steps.make_steps(SMALL, search_state.Hyperparameters(alpha_learning_rate=0.05))


@pytest.fixture
def small_state() -> search_state.SearchState:
    return search_state.init_state(
        SMALL, NUM_CLASSES, search_state.Hyperparameters(alpha_learning_rate=0.05), 0
    )


@pytest.fixture(scope="session")
def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "image": rng.integers(0, 256, (8, 16, 16, 3), np.uint8),
        "label": rng.integers(0, NUM_CLASSES, 8).astype(np.int32),
    }


@pytest.fixture(scope="session")
def images(batch) -> jax.Array:
    """The batch's pixels as networks take them."""
    return from_pixels(jnp.asarray(batch["image"]))


def make_table(space: Space, candidate_ms: np.ndarray, fixed_ms: float = 0.7) -> LatencyTable:
    """A table of these entries; the fixed layers take fixed_ms together."""
    return LatencyTable(
        space=space.name,
        device="MYRIADX_COMPILER",
        kind="estimated",
        image_size=224,
        num_classes=NUM_CLASSES,
        precision="FP16",
        settings={"shaves": None},
        fixed_ms={part: fixed_ms if part == "stem" else 0.0 for part in FIXED},
        candidate_ms=np.where(space.allowed, candidate_ms, np.inf),
    )


def random_table(space: Space, seed: int) -> LatencyTable:
    """Entries of 0.1 to 2 ms in whole microseconds; skip 0."""
    ms = np.random.default_rng(seed).integers(100, 2000, space.allowed.shape) / 1000
    ms[:, -1] = 0
    return make_table(space, ms)


def metrics_of(folder: pathlib.Path) -> list[dict]:
    """The whole lines of a run's metrics.jsonl."""
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines(True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def same_bits(a, b) -> bool:
    """Returns whether two trees hold the same arrays to the bit."""
    return all(
        jax.tree.leaves(
            jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b)
        )
    )


def take(count, iterator):
    with contextlib.closing(iterator):
        return [next(iterator) for _ in range(count)]


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])
