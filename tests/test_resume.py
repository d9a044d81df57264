"""A search that is killed at any moment, again and again, ends as one that never was."""

import json
import pathlib
import random
import re
import time

import jax
import numpy as np

from experiments.search.config import Config
from jaxnas import search_state, train_steps
from jaxnas.checkpoint import Checkpoints
from jaxnas.network import Network, network_of
from tests.conftest import metrics_of, same_bits
from tests.programs import Program

KILLS = 20


def start(flags, folder: pathlib.Path) -> Program:
    return Program(
        "experiments.search",
        *flags,
        f"--workdir={folder}",
        "--checkpoint_seconds=0",
        f"--store={folder.parent / 'store.sqlite'}",
    )


def in_phase(name: str):
    return lambda folder: any(line["phase"] == name for line in metrics_of(folder)[-1:])


# The moments that a kill must not miss, in the order in which a run comes to them.
MOMENTS = [
    ("the table's building", lambda folder: (folder / "config.json").exists()),
    ("compilation", lambda folder: (folder / "latency_table.json").exists()),
    ("a checkpoint's writing", lambda folder: any(folder.glob("checkpoints/*/*tmp*"))),
    ("warm-up", in_phase("warm-up")),
    ("search", in_phase("search")),
    ("the search's end", lambda folder: (folder / "architecture.json").exists()),
    ("training", in_phase("train")),
    ("the best weights' writing", lambda folder: any(folder.glob("checkpoints/best/*"))),
    ("export", lambda folder: (folder / "model.onnx").exists()),
]


def final_state(folder: pathlib.Path) -> tuple[search_state.SearchState, train_steps.NetworkState]:
    """Returns the states in the newest checkpoints of the search and of the training."""
    document = json.loads((folder / "config.json").read_text())
    config = Config(**{key: value for key, value in document.items() if key != "schema"})
    space = config.search_space
    arch = space.parse(json.loads((folder / "architecture.json").read_text())["architecture"])
    network = Network(network_of(space, arch, 10), rng=np.random.default_rng(0))
    likes = {
        "search": jax.eval_shape(
            lambda: search_state.init_state(space, 10, search_state.Hyperparameters(), config.seed)
        ),
        "train": train_steps.init_state(network, config.training.recipe(17), 0),
    }
    states = []
    for part, like in likes.items():
        checkpoints = Checkpoints(folder / "checkpoints" / part, config.identity())
        states.append(checkpoints.restore(like)[0])
        checkpoints.close()
    return states[0], states[1]


def test_twenty_kills_change_nothing(micro_search, micro_searched, tmp_path):
    folder = tmp_path / "run"
    draws = random.Random(0)
    moments, killed = iter(MOMENTS), []
    moment = next(moments)
    while len(killed) < KILLS:
        process = start(micro_search, folder)
        try:
            # A moment to come, or any time from the first import on.
            seconds = time.monotonic() + draws.uniform(0.2, 5)
            while process.poll() is None:
                if moment is not None and moment[1](folder):
                    killed.append(moment[0])
                    moment = next(moments, None)
                    break
                if moment is None and time.monotonic() > seconds:
                    killed.append("any time")
                    break
                time.sleep(0.002)
            else:
                # It came to its end between two kills: its end goes, and it ends again.
                assert process.returncode == 0, process.stderr
                (folder / "result.json").unlink()
                continue
        finally:
            process.kill()
    assert set(killed) == {*(name for name, _ in MOMENTS), "any time"}
    last = start(micro_search, folder)
    assert last.wait(200) == 0, last.stderr
    for name in ("metrics.jsonl", "architecture.json", "latency_table.json"):
        mine, theirs = (
            json.loads(f"[{(run / name).read_text().strip().replace(chr(10), ',')}]")
            if name.endswith("l")
            else json.loads((run / name).read_text())
            for run in (folder, micro_searched)
        )
        if name == "latency_table.json":
            mine, theirs = mine["candidate_ms"], theirs["candidate_ms"]
        assert mine == theirs, name
    results = [json.loads((run / "result.json").read_text()) for run in (folder, micro_searched)]
    assert results[0] == results[1]
    assert same_bits(final_state(folder), final_state(micro_searched))
    pages = [(run / "report.html").read_text() for run in (folder, micro_searched)]
    # The time is that of each run itself: of all its starts that were not killed.
    pages = [re.sub(r'(<dd class="time">)[^<]*', r"\1", page) for page in pages]
    # So are flags that change nothing of the network.
    pages = [re.sub(r" \\\n    --(checkpoint_seconds|store)=\S+", "", page) for page in pages]
    assert pages[0] == pages[1]
    assert np.isfinite(final_state(folder)[0].alpha).any()


def test_preempted_while_it_compiles_a_run_succeeds_and_goes_on(micro_search, tmp_path):
    folder = tmp_path / "run"
    process = start(micro_search, folder)
    process.wait_until((folder / "latency_table.json").exists, 100)
    process.terminate()
    assert process.wait(10) == 0
    assert process.stderr.splitlines()[-1].endswith("run the same command again to resume")
    assert not (folder / "result.json").exists()
