"""The study against the truth: benchmark, baselines by hand, and a tiny one as a program."""

import contextlib
import gzip
import itertools
import json
import pathlib

import jax
import numpy as np
import pytest

from experiments.search.config import Config
from experiments.truth import report
from experiments.truth.config import Truth
from experiments.truth.nas_bench_macro import (
    SPACE,
    Benchmark,
    macs_table,
    name_of,
    path_of,
    read_benchmark,
)
from jaxnas import search_state
from jaxnas.checkpoint import Checkpoints
from jaxnas.network import count_macs, count_parameters, network_of
from tests.conftest import same_bits
from tests.programs import UNOPTIMIZED, run_program

NAMES = ["".join(digits) for digits in itertools.product("012", repeat=8)]


def spec_of(name: str):
    return network_of(SPACE, SPACE.arch(path_of(name)), 10)


@pytest.fixture(scope="module")
def benchmark_file(tmp_path_factory) -> pathlib.Path:
    """All networks with their operations; deeper and wider ones are more accurate."""
    document = {
        name: {
            "mean_acc": 80 + sum(map(int, name)) + (name[0] == "2") / 2,
            "flops": count_macs(spec_of(name), 32),
        }
        for name in NAMES
    }
    file = tmp_path_factory.mktemp("benchmark") / "macro.json.gz"
    file.write_bytes(gzip.compress(json.dumps(document).encode()))
    return file


@pytest.fixture(scope="module")
def benchmark(benchmark_file) -> Benchmark:
    return read_benchmark(benchmark_file)


def test_the_space_is_the_benchmark_s():
    """Parameters and operations as the public file has them."""
    for name, parameters, macs in [
        ("02012100", 890_666, 47_327_744),
        ("11111221", 2_181_386, 65_012_224),
        ("00000000", 387_882, 7_713_280),
        ("22222222", 2_932_586, 105_660_928),
    ]:
        spec = spec_of(name)
        assert (count_parameters(spec), count_macs(spec, 32)) == (parameters, macs)
        assert name_of(path_of(name)) == name
    assert int(SPACE.allowed.sum(1).prod()) == len(NAMES) == 6561


def test_the_table_counts_operations(benchmark):
    table = macs_table()
    for index in np.random.default_rng(0).integers(len(NAMES), size=50):
        ms = table.path_ms(benchmark.paths[index])
        assert ms == pytest.approx(benchmark.millions[index], rel=1e-12)
        assert benchmark.top1_of(benchmark.paths[index]) == benchmark.top1[index]


def test_baselines_by_hand():
    """Ten networks, of which eight use the budget of 100; the best of eight random is the best."""
    millions = np.array([10.0, 101, *np.linspace(95, 100, 8)])
    top1 = np.array([0.99, 0.999, 0.5, 0.6, 0.7, 0.8, 0.5, 0.6, 0.7, 0.4])
    few = report.baselines(Benchmark(np.zeros((10, 8)), top1, millions), 100)
    assert few["networks"] == 8 and few["best_top1"] == 0.99
    assert few["random_regret"] == pytest.approx(0.99 - 0.6)
    assert few["best_trained_regret"] == pytest.approx(0.99 - 0.8)
    assert few["most_macs_regret"] == pytest.approx(0.99 - 0.4)
    # Nine: the best is among eight of nine with probability 8/9, else the second best.
    nine = Benchmark(np.zeros((9, 8)), np.linspace(0.1, 0.9, 9), np.full(9, 99.0))
    expected = 0.9 - (8 / 9 * 0.9 + 1 / 9 * 0.8)
    assert report.baselines(nine, 100)["best_trained_regret"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document.pop("01210012"), "no entry for network 01210012, of "),
        (lambda document: document["00000000"].update(flops=7), "another entry for network 0000"),
        (lambda document: document["00000001"].update(mean_acc="90"), "no entry for network 00000"),
        (lambda document: document.clear(), "no entry for network 00000000"),
    ],
)
def test_refuses_another_benchmark(change, message, benchmark_file, tmp_path):
    document = json.loads(gzip.decompress(benchmark_file.read_bytes()))
    change(document)
    file = tmp_path / "other.json"
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=message):
        read_benchmark(file)


@pytest.mark.parametrize("content", [None, b"{", b"\x1f\x8b\x08rubbish"])
def test_refuses_what_is_no_benchmark(content, tmp_path):
    file = tmp_path / "macro.json.gz"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"macro.json.gz cannot be read .*: give nas-bench-macro"):
        read_benchmark(file)


def test_regrets_are_compared_with_the_default_of_the_same_seed(benchmark):
    """Two seeds and two budgets; the choices are named by their true accuracies."""

    def run(method: str, tau: float | None, top1: dict[str, float]) -> dict:
        chosen = {budget: {"network": "", "true_top1": value} for budget, value in top1.items()}
        return {"method": method, "budget": None, "tau": tau, "chosen": {"most probable": chosen}}

    best = {budget: benchmark.best_top1(float(budget)) for budget in ("40", "55")}

    def below(*regrets: float) -> dict[str, float]:
        return {budget: best[budget] - regret for budget, regret in zip(best, regrets, strict=True)}

    seeds = [
        {
            "seed": 0,
            "runs": [run("two", 0.5, below(0.02, 0.04)), run("even+two", None, below(0.01, 0.03))],
        },
        {
            "seed": 1,
            "runs": [run("two", 0.7, below(0.04, 0.06)), run("even+two", None, below(0.05, 0.03))],
        },
    ]
    truth = Truth(
        config=Config(device="CPU", shaves=None, threads=None, worker_prefix=None, store=None),
        benchmark=benchmark,
        budgets=(40, 55),
        methods=("two", "even+two"),
        seeds=(0, 1),
        networks=8,
        evaluations=6,
        output=pathlib.Path(),
    )
    document = report.document(truth, 50, seeds)
    two, alone = document["methods"].values()
    assert two["tau"]["mean"] == pytest.approx(0.6) and alone["tau"] is None
    assert two["regret"]["40"]["mean"] == pytest.approx(0.03)
    assert two["mean_regret"]["mean"] == pytest.approx(0.04)
    assert alone["mean_regret"]["mean"] == pytest.approx(0.03)
    # The means are 0.03 and 0.02 with seed 0, and 0.05 and 0.04 with seed 1.
    assert alone["more_than_default"]["mean"] == pytest.approx(-0.01)
    assert alone["more_than_default"]["high"] == pytest.approx(-0.01)
    text = report.markdown(document)
    assert "| even+two, most probable | – | 3.00 ± 25.41 | 3.00 ± 0.00 | 3.00 ± 12.71 | " in text
    assert "| -1.00 ± 0.00 |" in text


def state_in(folder: pathlib.Path) -> search_state.SearchState:
    """Returns the state in the newest checkpoint of a run."""
    document = json.loads((folder / "config.json").read_text())
    config = Config(**{key: value for key, value in document.items() if key != "schema"})
    like = jax.eval_shape(
        lambda: search_state.init_state(SPACE, 10, search_state.Hyperparameters(), config.seed)
    )
    with contextlib.closing(
        Checkpoints(folder / "checkpoints" / "search", config.identity())
    ) as checkpoints:
        return checkpoints.restore(like)[0]


STUDY = [
    "experiments.truth",
    "--flagfile=truth.flags",
    "--dataset=digits",
    "--train_examples=200",
    "--held_out=100",
    "--search_image_size=8",
    "--batch_size=50",
    "--warmup_epochs=1",
    "--search_epochs=2",
    "--calibration_batches=1",
    "--budgets=55",
    "--methods=even+two,even,two",
    "--networks=8",
    "--evaluations=6",
    "--seeds=0",
]


def test_a_study_says_how_true_the_choices_are(benchmark_file, benchmark, tmp_path):
    arguments = [*STUDY, f"--benchmark={benchmark_file}", f"--workdir={tmp_path / 'run'}"]
    done = run_program(*arguments, XLA_FLAGS=UNOPTIMIZED)
    assert done.returncode == 0, done.stderr
    before = (tmp_path / "run" / "truth.json").read_bytes()
    document = json.loads(before)
    assert [*document["methods"]] == [
        "even+two, most probable",
        "even+two, evolution",
        "even, evolution",
        "even, best of random",
        "two, most probable",
        "two, evolution",
    ]
    best = benchmark.best_top1(55)
    (seed,) = document["runs"]
    for run in seed["runs"]:
        assert run["tau"] is None if run["method"] == "even+two" else -1 <= run["tau"] <= 1
        for rule, chosen in run["chosen"].items():
            network = chosen["55"]["network"]
            true = 80 + sum(map(int, network)) + (network[0] == "2") / 2
            assert 52.25 <= count_macs(spec_of(network), 32) / 1e6 <= 55
            regret = document["methods"][f"{run['method']}, {rule}"]["regret"]["55"]
            assert regret["mean"] == pytest.approx(best - true / 100)
            assert regret["low"] is None  # of one seed
    # α that learns alone leaves the weights as they are, and takes a search's number of steps.
    folder = tmp_path / "run" / "seed0"
    even, alone = (state_in(folder / name) for name in ("even", "even+two-55"))
    assert same_bits(even.params, alone.params) and same_bits(even.stats, alone.stats)
    assert not np.array_equal(even.alpha, alone.alpha)
    assert [int(state.step) for state in (even, alone)] == [12, 4 + 2]
    text = (tmp_path / "run" / "truth.md").read_text()
    assert "| two, evolution |" in text and "| best of 8 random, each trained | – |" in text
    # Other networks are scored with the supernets that are there.
    more = run_program(*arguments, "--evaluations=4", "--methods=even", XLA_FLAGS=UNOPTIMIZED)
    assert more.returncode == 0 and "✓ search" not in more.stderr
    document = json.loads((tmp_path / "run" / "truth.json").read_text())
    assert [*document["methods"]] == ["even, evolution", "even, best of random"]
    # Nothing is done twice, and the results are written again from what is there.
    again = run_program(*arguments, f"--output={tmp_path / 'again'}")
    assert again.returncode == 0 and "✓" not in again.stderr
    assert (tmp_path / "again" / "truth.json").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--benchmark is missing: give the file of NAS-Bench-Macro"),
        (
            ["--space=proxyless", "--search_image_size=32"],
            "--space=proxyless: the truth is known of nas_bench_macro alone",
        ),
        (["--budgets=200"], "no network of nas_bench_macro uses 200 million; they have 7.7 to 105"),
        (["--budgets=many"], "--budgets=many: could not convert"),
        (["--networks=7000"], "--networks=7000: the benchmark has "),
        (["--derive=argmax"], "--derive=argmax: the truth is compared within budgets"),
        (["--methods=darts"], "--methods=darts: give some of even, two, full, gumbel, reinforce"),
        (["--seeds=1,1"], "--seeds=1,1 names a seed twice"),
        (["--benchmark=nowhere.json"], "--benchmark=nowhere.json cannot be read"),
    ],
)
def test_refuses_flags_before_any_work(flags, message, benchmark_file, tmp_path):
    given = [f"--benchmark={benchmark_file}"] if flags and "nowhere" not in flags[0] else []
    done = run_program(*STUDY, *given, *flags, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2 and message in done.stderr
    assert not (tmp_path / "run" / "seed0").exists()
