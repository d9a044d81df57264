"""Compiled steps: kept, found again without tracing, never another's; memory that is kept."""

import os
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runs import step_compilation
from experiments.runs.step_compilation import compiled_steps, readiness
from jaxnas import search_state, search_steps
from tests.conftest import SMALL, same_bits
from tests.programs import ROOT


@pytest.fixture
def cache(tmp_path):
    """A folder for compiled programs, JAX's setting while a test runs."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


class Step:
    """A jitted step that counts how often it is traced."""

    def __init__(self, factor: float = 2.0):
        self.traced = 0

        def step(state, x):
            self.traced += 1
            return {"w": state["w"] + factor * x}, jnp.sum(x)

        self.function = jax.jit(step, donate_argnums=0)

    def compiled(self, made_of: object = "two", size: int = 3):
        said = []
        arguments = (
            {"w": jax.ShapeDtypeStruct((size,), jnp.float32)},
            jax.ShapeDtypeStruct((size,), jnp.float32),
        )
        found = compiled_steps(
            {"step": (self.function, arguments)},
            made_of,
            lambda fraction, doing: said.append(doing),
        )
        return found["step"], said


def run(program) -> tuple[np.ndarray, bool]:
    """Returns a step's result, and whether it took the memory of its state."""
    state = {"w": jnp.arange(3.0) + 0}
    new, total = program(state, jnp.float32([1, 2, 3]))
    assert float(total) == 6
    return np.asarray(new["w"]), state["w"].is_deleted()


def test_a_step_is_kept_and_loaded_without_tracing(cache):
    first, second = Step(), Step()
    program, said = first.compiled()
    assert first.traced == 1 and "compiling the step step" in said
    loaded, said = second.compiled()
    assert second.traced == 0 and not any("tracing" in one for one in said)
    for one in (program, loaded):
        values, taken = run(one)
        assert values.tolist() == [2.0, 5.0, 8.0] and taken
    assert loaded.wait().memory_analysis().alias_size_in_bytes == 12


@pytest.mark.parametrize("other", [{"made_of": "three"}, {"size": 4}])
def test_a_step_of_something_else_is_its_own(cache, other):
    Step().compiled()
    step = Step(3.0)
    step.compiled(**other)
    assert step.traced == 1
    assert len(list((cache / "steps").iterdir())) == 2


@pytest.mark.parametrize("damaged", [False, True])
def test_the_first_step_is_ready_and_the_others_come(cache, damaged):
    """Compiled, then loaded; the second of them damaged, or not."""
    shape = jax.ShapeDtypeStruct((300,), jnp.float32)
    for expected_traces in ((1, 1), (0, int(damaged))):
        steps = {"doubling": Step(2.0), "trebling": Step(3.0)}
        found = compiled_steps(
            {name: (step.function, ({"w": shape}, shape)) for name, step in steps.items()},
            "both",
            lambda *_: None,
        )
        assert found["doubling"].is_ready
        for name, factor in (("trebling", 3), ("doubling", 2)):
            new, _ = found[name]({"w": jnp.ones(300)}, jnp.ones(300))
            assert np.all(np.asarray(new["w"]) == 1 + factor)
        assert readiness(found) == "the steps: doubling, trebling"
        assert tuple(step.traced for step in steps.values()) == expected_traces
        if damaged:
            (file,) = (cache / "steps").glob("trebling-*")
            file.write_bytes(b"not a program")


def test_a_setting_of_jax_makes_another_program(cache):
    Step().compiled()
    step = Step()
    with jax.default_matmul_precision("highest"):
        step.compiled()
    assert step.traced == 1


@pytest.mark.parametrize("damage", [b"", b"not a program"])
def test_a_damaged_program_is_reported_and_made_anew(cache, caplog, damage):
    Step().compiled()
    (kept,) = (cache / "steps").iterdir()
    kept.write_bytes(damage)
    step = Step()
    values, _ = run(step.compiled()[0])
    assert values.tolist() == [2.0, 5.0, 8.0] and step.traced == 1
    assert f"{kept} cannot be loaded and is compiled again" in caplog.text
    step = Step()
    step.compiled()
    assert step.traced == 0


def test_without_a_folder_nothing_is_kept(cache):
    jax.config.update("jax_compilation_cache_dir", None)
    for _ in range(2):
        step = Step()
        step.compiled()
        assert step.traced == 1


def test_a_loaded_weight_step_takes_the_compiled_ones_steps(cache, batch):
    hyper = search_state.Hyperparameters(alpha_learning_rate=0.05)
    path = np.zeros(len(SMALL.blocks), np.int32)

    def arguments():
        return (
            search_state.init_state(SMALL, 5, hyper, 0),
            batch,
            path,
            jnp.float32(0.1),
        )

    states = []
    for _ in range(2):
        function = search_steps.make_steps(SMALL, hyper).weight
        program = compiled_steps({"weight": (function, arguments())}, hyper, lambda *_: None)[
            "weight"
        ]
        states.append(program(*arguments())[0])
    assert same_bits(*states)


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_others_may_write_is_not_unpickled(cache, caplog, what):
    """A pickle can run anything: theirs would run as this user."""
    Step().compiled()
    (folder,) = cache.glob("steps")
    (file,) = folder.iterdir()
    assert folder.stat().st_mode & 0o077 == 0 and file.stat().st_mode & 0o077 == 0
    (folder if what == "folder" else file).chmod(0o777)
    step = Step()
    step.compiled()
    assert step.traced == 1 and "other users may write" in caplog.text


@pytest.mark.parametrize("variable", [None, "LD_PRELOAD", "GLIBC_TUNABLES"])
def test_freed_memory_is_kept_unless_the_user_configures_malloc(variable):
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("this system has another C library than glibc")
    probe = (
        "from experiments.runs import malloc; malloc.keep_memory()\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "piece = b'1' * (1 << 28); before = resident(); del piece\n"
        "print(before - resident() < 1 << 27)"
    )
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("LD_PRELOAD", "GLIBC_TUNABLES")
    }
    if variable is not None:
        environment[variable] = ""
    done = subprocess.run(
        [sys.executable, "-c", probe],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == [str(variable is None)], done.stderr


def test_a_program_restarts_once_with_memory_that_is_kept(tmp_path):
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("this system has another C library than glibc")
    (tmp_path / "probe.py").write_text(
        "import os, sys; print(len(sys.argv), flush=True)\n"
        "from experiments.runs import malloc; malloc.keep_memory()\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "piece = b'1' * (1 << 28); before = resident(); del piece\n"
        "print(before - resident() < 1 << 27,\n"
        "      sorted({'GLIBC_TUNABLES', 'JAXNAS_RESTARTED'} & set(os.environ)))"
    )
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("LD_PRELOAD", "GLIBC_TUNABLES")
    }
    done = subprocess.run(
        [sys.executable, "-m", "probe", "one"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["2", "2", "True", "[]"], done.stderr


@pytest.mark.parametrize("kept", [None, "xla"])
def test_without_a_cache_that_can_be_written_nothing_is_kept(kept, tmp_path, monkeypatch, caplog):
    """The cache's present content is still used."""

    def folder():
        if kept is None:
            raise OSError("this user has no home folder")
        return tmp_path

    def no_file(dir):  # root may write everywhere
        raise PermissionError("read-only file system")

    before = {
        name: getattr(jax.config, name)
        for name in ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    }
    monkeypatch.setattr(step_compilation, "cache_folder", folder)
    monkeypatch.setattr(step_compilation.tempfile, "TemporaryFile", no_file)
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        step_compilation.keep_compiled_programs()
        used = jax.config.jax_compilation_cache_dir
        assert used == (kept and str(tmp_path / kept))
        assert "compiled programs are not kept for the next start" in caplog.text
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
