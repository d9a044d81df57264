"""Checkpoints: exact, refused where wrong, and there after a kill or damage."""

import contextlib
import inspect
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.checkpoint import Checkpoints
from tests.programs import ROOT

CONFIG = {"space": "proxyless", "seed": 3, "image": [48, 48]}


class State(NamedTuple):
    params: dict
    alpha: jax.Array
    key: jax.Array
    step: jax.Array


def make_state(step: int) -> State:
    key = jax.random.key(step)
    return State(
        params={
            "block.0": {"kernel": jax.random.normal(key, (4, 3, 3, 8))},
            "half": jax.random.normal(key, (7,), jnp.bfloat16),
            "odd": jnp.array([jnp.nan, -0.0, jnp.inf, 1e-42], jnp.float32),
        },
        alpha=jax.random.normal(key, (21, 7)),
        key=jax.random.key_data(key),
        step=jnp.int32(step),
    )


def assert_identical(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def opened(directory, config=CONFIG, **options):
    return contextlib.closing(Checkpoints(directory, config, **options))


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two") / "run"
    with opened(directory) as checkpoints:
        for step in (5, 10):
            checkpoints.save(step, make_state(step), {"step_ms": 1.5})
    return directory


LIKE = jax.eval_shape(lambda: make_state(0))


def test_round_trip_is_bit_identical_with_what_was_told(two_saved):
    with opened(two_saved, {**CONFIG, "image": (48, 48)}) as checkpoints:
        assert checkpoints.latest_step() == 10
        state, facts = checkpoints.restore(LIKE)
    assert_identical(state, make_state(10))
    assert set(facts) == {"schema", "step", "config", "versions", "metadata"}
    assert facts["step"] == 10 and facts["config"] == CONFIG
    assert facts["metadata"] == {"step_ms": 1.5}
    assert facts["versions"]["jax"] == jax.__version__


def test_restored_leaves_take_the_sharding_asked_for(two_saved):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[-1])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), LIKE
    )
    with opened(two_saved) as checkpoints:
        state, _ = checkpoints.restore(like)
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(state))


def test_saved_state_may_be_donated_at_once(tmp_path):
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0 - 7, tree), donate_argnums=0)
    state = {f"b{i}": jnp.full((1 << 18,), float(i)) for i in range(8)}
    like = jax.eval_shape(lambda: state)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        jax.block_until_ready(step(state))
        restored, _ = checkpoints.restore(like)
    assert [float(restored[f"b{i}"].max()) for i in range(8)] == list(range(8))
    assert [float(restored[f"b{i}"].min()) for i in range(8)] == list(range(8))


def test_only_the_newest_are_kept(tmp_path):
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step))
            checkpoints.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_steps_only_go_forward(two_saved):
    with opened(two_saved) as checkpoints:
        with pytest.raises(ValueError, match="step 10 cannot be saved, .* holds step 10"):
            checkpoints.save(10, make_state(10))


def test_an_empty_folder_is_no_fresh_start(tmp_path):
    with opened(tmp_path / "new") as checkpoints:
        with pytest.raises(FileNotFoundError, match="no checkpoint in .*new"):
            checkpoints.restore(LIKE)


def test_another_configuration_is_refused_by_its_fields(two_saved):
    other = {"space": "mobile", "seed": 3, "image": [48, 48], "budget": 17.2}
    with opened(two_saved, other) as checkpoints:
        with pytest.raises(ValueError) as caught:
            checkpoints.restore(LIKE)
    message = str(caught.value)
    assert "budget (saved: 'absent', now: 17.2)" in message
    assert "space (saved: 'proxyless', now: 'mobile')" in message
    assert "seed" not in message and "image" not in message
    assert (two_saved / "10").is_dir()


def test_other_arrays_are_refused_by_their_names(two_saved):
    like = LIKE._replace(
        alpha=jax.ShapeDtypeStruct((21, 6), jnp.float32),
        params={**LIKE.params, "new": LIKE.alpha},
    )
    with opened(two_saved) as checkpoints:
        with pytest.raises(ValueError) as caught:
            checkpoints.restore(like)
    message = str(caught.value)
    assert "alpha (saved: float32[21, 7], expected: float32[21, 6])" in message
    assert "params/new (saved: absent, expected: float32[21, 7])" in message
    assert "kernel" not in message


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (3.0, "'x' in the state is of type float"),
        (jax.random.key(0), "'x' in the state is a typed PRNG key; save jax.random.key_data"),
        (jnp.zeros((0, 3)), r"'x' in the state has the shape \(0, 3\)"),
    ],
)
def test_leaves_that_cannot_be_saved_are_named(tmp_path, leaf, message):
    with opened(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=message):
            checkpoints.save(1, {"x": leaf})
        with pytest.raises(TypeError, match="not JSON serializable"):
            checkpoints.save(1, {"x": jnp.ones(())}, {"a": object()})
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpoints(tmp_path, CONFIG, keep=0)


def largest_file(folder: pathlib.Path) -> pathlib.Path:
    # Of the merged files; orbax leaves the parts they were merged from, which nothing reads.
    return max((folder / "state" / "d").iterdir(), key=lambda path: path.stat().st_size)


def truncate_data(folder):
    path = largest_file(folder)
    os.truncate(path, path.stat().st_size // 2)


def truncate_manifest(folder):
    os.truncate(folder / "state" / "manifest.ocdbt", 10)


def truncate_metadata(folder):
    os.truncate(folder / "metadata" / "metadata", 100)


def lose_state(folder):
    shutil.rmtree(folder / "state")


def change_checksum(folder):
    # A stand-in for a changed byte of array contents, which the format itself does not notice.
    path = folder / "metadata" / "metadata"
    facts = json.loads(path.read_text())
    facts["arrays"]["alpha"]["crc32"] ^= 1
    path.write_text(json.dumps(facts))


DAMAGES = [truncate_data, truncate_manifest, truncate_metadata, lose_state, change_checksum]


RESTORER = f"""
import json, pathlib, sys
from typing import NamedTuple
import jax, jax.numpy as jnp, numpy as np
from jaxnas.checkpoint import Checkpoints, CheckpointUnreadable

{inspect.getsource(State)}
{inspect.getsource(make_state)}
CONFIG = {CONFIG!r}
{inspect.getsource(assert_identical)}

def restored(directory):
    checkpoints = Checkpoints(directory, CONFIG)
    try:
        state, facts = checkpoints.restore(jax.eval_shape(lambda: make_state(0)))
        assert_identical(state, make_state(facts["step"]))
        latest = checkpoints.latest_step()
        if latest < 10:  # the run comes to step 10 again
            checkpoints.save(10, make_state(10))
            checkpoints.wait()
        return {{"step": facts["step"], "latest": latest}}
    except CheckpointUnreadable as error:
        return {{"error": str(error)}}
    finally:
        checkpoints.close()

for directory in map(pathlib.Path, sys.argv[1:]):
    print(json.dumps(restored(directory)))
"""


@pytest.fixture(scope="module")
def after_damage(two_saved, tmp_path_factory):
    """Returns what restoring twice gives after each damage to the newest, and to both; and the log.

    In a process of its own: of orbax's concurrent reads the first to fail closes the event loop
    under the others, and what these then say may come at any later time.
    """
    folders = {damage.__name__: tmp_path_factory.mktemp("damaged") / "run" for damage in DAMAGES}
    for damage in DAMAGES:
        damage(shutil.copytree(two_saved, folders[damage.__name__]) / "10")
    folders["both"] = shutil.copytree(two_saved, tmp_path_factory.mktemp("damaged") / "run")
    truncate_data(folders["both"] / "5")
    truncate_metadata(folders["both"] / "10")
    twice = [folder for folder in folders.values() for _ in range(2)]
    run = subprocess.run(
        [sys.executable, "-c", RESTORER, *map(str, twice)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    results = [json.loads(line) for line in run.stdout.splitlines()]
    pairs = zip(folders.items(), results[::2], results[1::2], strict=True)
    return {name: (folder, *twice) for (name, folder), *twice in pairs}, run.stderr


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(after_damage, damage):
    found, log = after_damage
    folder, first, second = found[damage.__name__]
    assert first == {"step": 5, "latest": 5}
    assert second == {"step": 10, "latest": 10}
    assert f"checkpoint 10 in {folder}" in log
    assert f"resuming from step 5 of {folder}" in log
    assert len(list(folder.glob("unreadable-10-*"))) == 1


def test_nothing_readable_is_an_error_and_touches_nothing(after_damage):
    folder, *results = after_damage[0]["both"]
    for result in results:
        assert "none of the checkpoints of steps [5, 10]" in result["error"]
    assert sorted(path.name for path in folder.iterdir()) == ["10", "5"]


def large_state(step: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(step)
    return {f"w{i}": random.random(1 << 19, np.float32) for i in range(32)}


SAVER = f"""
import sys, time
import numpy as np
from jaxnas.checkpoint import Checkpoints

{inspect.getsource(large_state)}

if __name__ == "__main__":
    checkpoints = Checkpoints(sys.argv[1], {{"seed": 0}})
    checkpoints.save(1, large_state(1))
    checkpoints.wait()
    checkpoints.save(2, large_state(2))
    time.sleep(60)
"""


def test_a_process_killed_while_saving_leaves_the_checkpoint_before(tmp_path):
    run = tmp_path / "run"
    saver = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(run)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )
    try:
        deadline = time.monotonic() + 60
        # Some of step 2 is on disk, but not under its final name.
        while not any(path.is_file() for path in run.glob("2.*/state/**/d/*")):
            assert saver.poll() is None and time.monotonic() < deadline
            assert not (run / "2").exists(), "step 2 was written before it could be interrupted"
            time.sleep(0.001)
    finally:
        os.kill(saver.pid, signal.SIGKILL)
        saver.wait()
    assert saver.returncode == -signal.SIGKILL
    assert not (run / "2").exists()

    with opened(run, {"seed": 0}) as checkpoints:
        assert checkpoints.latest_step() == 1
        state, _ = checkpoints.restore(large_state(1))
        assert_identical(state, jax.tree.map(jnp.asarray, large_state(1)))
        checkpoints.save(2, large_state(2))
        checkpoints.wait()
        assert checkpoints.latest_step() == 2
    assert sorted(path.name for path in run.iterdir()) == ["1", "2"]


FILLER = """
import resource, signal, sys
import numpy as np
from jaxnas.checkpoint import Checkpoints

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = Checkpoints(sys.argv[1], {"seed": 0})
checkpoints.save(1, {"w": np.ones(1)})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # as a disk that is full
try:
    checkpoints.save(2, {"w": np.random.default_rng(0).random(100_000)})
    checkpoints.wait()
except OSError as error:
    print(error)
"""


def test_a_full_disk_is_an_error_and_leaves_the_checkpoint_before(tmp_path):
    run = tmp_path / "run"
    full = subprocess.run(
        [sys.executable, "-c", FILLER, str(run)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )
    assert full.stdout.startswith(
        f"a checkpoint could not be written to {run}, earlier ones are kept: "
    ), full.stderr
    assert "File too large" in full.stdout
    with opened(run, {"seed": 0}) as checkpoints:
        assert checkpoints.latest_step() == 1
        state, _ = checkpoints.restore({"w": np.zeros(1)})
        assert float(state["w"][0]) == 1
