"""Input that a search refuses before any work."""

import dataclasses
from types import SimpleNamespace

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments.runs.run_folder import Workdir, check_workdir
from experiments.search import __main__, config, latency_table
from experiments.search.latency_table import with_device_of_table
from experiments.search.schedule import Schedule
from experiments.train.fit import has_begun
from jaxnas import data
from jaxnas.json_file import write_object
from tests.conftest import MICRO, random_table
from tests.programs import ROOT


@pytest.fixture(scope="module")
def default(search_flags) -> config.Config:
    flags.FLAGS(["search", f"--flagfile={ROOT / 'vpu.flags'}"])
    return config.config_from_flags()


def test_the_run_is_named_after_what_it_is(default):
    assert default.workdir == "runs/proxyless-digits-myriadx_compiler-17.2ms-seed0"
    assert default.target_ms == 17.2 and default.derive == "budget"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "TOASTER"}, "unknown device 'TOASTER', allowed are MYRIADX_COMPILER"),
        ({"space": "darts"}, "unknown space 'darts', allowed are proxyless"),
        ({"dataset": "mnist"}, "unknown data set 'mnist'"),
        ({"target_ms": float("nan")}, "--target_ms=nan"),
        ({"target_ms": -1.0}, "--target_ms=-1"),
        ({"latency_weight": -0.1}, "--latency_weight=-0.1: λ is 0 or more"),
        ({"train_image_size": 40}, "--train_image_size=40: give a multiple of 32"),
        ({"search_image_size": 40}, "--search_image_size=40: give a multiple of 32"),
        ({"train_epochs": 1}, "--deployment_epochs=2: give at most the 1 of --train_epochs"),
        ({"image_size": 100}, "--image_size=100: give a multiple of 32"),
        ({"held_out": 101}, "--held_out=101: give a multiple of the 10 classes"),
        (
            {"estimator": "reinforce", "latency_control": "dual"},
            "--estimator=reinforce --latency_control=dual: reinforce has the latency in its reward",
        ),
        (
            {"initialisation": "pretrained"},
            "--initialisation=pretrained: the space proxyless has no published weights",
        ),
        ({"gumbel_temperature": 0.5}, "--gumbel_temperature=0.5 --estimator=two: only gumbel has"),
        (
            {"latency_control": "mul_log", "target_ms": 0.9},
            "--latency_control=mul_log --target_ms=0.9: it divides logarithms of milliseconds",
        ),
        ({"pareto_ms": ()}, "--pareto_ms is empty: give one budget in ms or more"),
        ({"pareto_ms": (12.0, 14.0, 14.0)}, "--pareto_ms=12,14,14 names a budget twice"),
        ({"pareto_ms": (-1.0, 14.0)}, "--pareto_ms=-1,14: give positive latencies"),
        ({"pareto_ms": (float("nan"),)}, "--pareto_ms=nan: give positive latencies"),
        ({"pareto_ms": (float("inf"),)}, "--pareto_ms=inf: give positive latencies"),
        (
            {"finalists": 2, "derive": "argmax"},
            "--finalists=2 --derive=argmax: argmax has only one candidate",
        ),
    ],
)
def test_refuses_what_cannot_work(default, change, message):
    with pytest.raises(ValueError, match=message):
        config.check(dataclasses.replace(default, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"target_ms": 3.0},
            "--target_ms=3: on MYRIADX_COMPILER at 224 px the fastest network of the "
            "proxyless space takes 8.92 ms and the slowest 49.63 ms",
        ),
        ({"target_ms": 90.0}, "--target_ms=90: .* the slowest 49.63 ms"),
        ({"pareto_ms": (14.0, 90.0)}, "--pareto_ms=90: .* the slowest 49.63 ms"),
        ({"pareto_ms": (3.0, 14.0)}, "--pareto_ms=3: .* takes 8.92 ms"),
        ({"latency_table": "missing.json"}, "missing.json cannot be read .No such file"),
    ],
)
def test_refuses_what_the_table_does_not_reach(default, tmp_path, change, message):
    run = dataclasses.replace(default, workdir=str(tmp_path / "run"))
    assert (
        __main__.given_table(dataclasses.replace(run, pareto_ms=(9.5, 40.0))).space == "proxyless"
    )
    with pytest.raises(ValueError, match=message):
        __main__.given_table(dataclasses.replace(run, **change))


def test_refuses_a_batch_larger_than_the_data(default):
    examples = len(data.load("digits", seed=0).weights)
    with pytest.raises(ValueError, match="--batch_size=5000: digits has 1138 examples for the we"):
        Schedule.of(dataclasses.replace(default, batch_size=5000), examples)


def test_transfer_flags_make_a_search_with_published_weights(search_flags, tmp_path):
    with flagsaver.flagsaver():
        flags.FLAGS(["search", f"--flagfile={ROOT / 'transfer.flags'}"])
        transfer = config.config_from_flags()
    assert transfer.initialisation == "pretrained"
    run = dataclasses.replace(transfer, workdir=str(tmp_path / "run"))
    assert __main__.given_table(run).space == "efficientnet_lite"
    assert Schedule.of(transfer, 900).shared_end == 0


def test_budgets_are_numbers_in_order(default):
    assert default.pareto_ms is None and default.finalists == 1
    with flagsaver.flagsaver(pareto_ms=["16", "12.5"]):
        assert config.config_from_flags().pareto_ms == (12.5, 16.0)
    with (
        flagsaver.flagsaver(pareto_ms=["14", "soon"]),
        pytest.raises(
            ValueError,
            match="--pareto_ms=14,soon: could not convert string to float: "
            "'soon'; give budgets in ms, such as 12,14,16",
        ),
    ):
        config.config_from_flags()


def test_refuses_a_folder_of_something_else(default, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match="--workdir=jaxnas is not the folder of a run"):
        check_workdir(dataclasses.replace(default, workdir="jaxnas"))


def test_a_refusal_leaves_the_files_of_a_run_that_is_resumed(default, tmp_path):
    run = dataclasses.replace(default, workdir=str(tmp_path / "run"))
    with Workdir(run) as workdir:
        workdir.withdraw()
    assert not (tmp_path / "run").exists()
    with Workdir(run):
        pass
    with Workdir(run) as workdir:
        workdir.withdraw()
    assert (tmp_path / "run" / "config.json").exists()


def test_a_space_file_that_was_changed_is_another_space(default, tmp_path):
    file = tmp_path / "space.json"
    write_object(file, MICRO)
    with flagsaver.flagsaver(space=str(file), workdir=str(tmp_path / "run")):
        with Workdir(config.config_from_flags()):
            pass
        write_object(file, {**MICRO, "widths": [12]})
        with pytest.raises(ValueError, match="holds a run in another space: .*space.json was chan"):
            check_workdir(config.config_from_flags())


def test_a_resumed_run_keeps_the_device_of_its_table(default, tmp_path):
    run = dataclasses.replace(
        default, device="MYRIAD,MYRIADX_COMPILER,CPU", workdir=str(tmp_path / "run")
    )
    assert with_device_of_table(run).device == run.device
    (tmp_path / "run").mkdir()
    table = random_table(run.search_space, 0)
    table.save(tmp_path / "run" / "latency_table.json", run.search_space)
    assert with_device_of_table(run).device == "MYRIADX_COMPILER"


@pytest.mark.parametrize(
    ("device", "made_on", "said"),
    [
        ("CPU", "AMD EPYC", []),
        ("CPU", "Core Ultra 7", ["the latency table was measured on Core Ultra 7, this device is"]),
        ("CPU", None, []),  # a table of an earlier version
        ("MYRIAD", "the stick on port 1.4", []),
    ],
)
def test_a_table_that_other_hardware_made_is_told(default, device, made_on, said):
    table = dataclasses.replace(
        random_table(default.search_space, 0),
        device=device,
        kind="measured",
        num_classes=10,
        provenance={} if made_on is None else {"hardware": made_on},
    )
    opened = SimpleNamespace(setup=SimpleNamespace(device=device, hardware="AMD EPYC"))
    lines = []
    progress = SimpleNamespace(print=lambda line, color: lines.append(line))
    assert latency_table._fitting_table(default, table, opened, progress) is table
    assert [line[: len(one)] for line, one in zip(lines, said, strict=True)] == said


def test_what_a_killed_save_left_is_no_checkpoint(default, tmp_path):
    with Workdir(dataclasses.replace(default, workdir=str(tmp_path))) as workdir:
        (tmp_path / "checkpoints/search/7.orbax-checkpoint-tmp").mkdir(parents=True)
        assert not has_begun(workdir, "search")
        (tmp_path / "checkpoints/search/7").mkdir()
        assert has_begun(workdir, "search")


def test_what_changes_nothing_of_a_run_is_not_its_identity(default):
    moved = dataclasses.replace(
        default,
        workdir="elsewhere",
        store="other.sqlite",
        worker_prefix="ssh lab-pi",
        data_dir="data",
        require_target=True,
    )
    assert moved.identity() == default.identity()
    assert dataclasses.replace(default, seed=1).identity() != default.identity()


def test_a_larger_batch_scales_the_rates_and_leaves_alpha_its_steps(default):
    """2,048 images a step by the recipe of 256: eight times the rate, α's steps and examples."""
    base = dataclasses.replace(
        default,
        batch_size=256,
        base_batch_size=256,
        train_batch_size=256,
        train_epochs=20,
        alpha_every=5,
    )
    large = dataclasses.replace(base, batch_size=2048, train_batch_size=2048)
    assert (base.batch_scale(256), large.batch_scale(2048)) == (1, 8)
    assert base.training.learning_rate == default.training.learning_rate
    assert large.training.learning_rate == pytest.approx(8 * default.train_learning_rate)
    assert (base.training.warmup_epochs, large.training.warmup_epochs) == (0, 5)
    assert base.alpha_batch_size == large.alpha_batch_size == 256
    # An epoch of 40,960 images.
    assert base.alpha_steps(160) == large.alpha_steps(20) == 32
    each = [large.alpha_steps(step) - large.alpha_steps(step - 1) for step in range(1, 11)]
    assert each == [1, 2, 1, 2, 2, 1, 2, 1, 2, 2]


def test_without_a_base_nothing_is_scaled(default):
    assert default.base_batch_size is None
    large = dataclasses.replace(default, batch_size=256)
    assert large.batch_scale(256) == 1 and large.alpha_batch_size == 256
    assert [large.alpha_steps(step) for step in range(5)] == [0, 0, 1, 1, 2]


def test_a_shorter_training_rises_in_all_but_its_last_epoch(default):
    large = dataclasses.replace(
        default, train_batch_size=16, base_batch_size=8, train_epochs=5, deployment_epochs=2
    )
    assert large.training.warmup_epochs == 2
