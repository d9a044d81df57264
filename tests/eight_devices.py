"""Steps on eight devices and on one, compared in a process of its own; run by test_parallel.py.

Prints, for each step, the number of collectives in its compiled program and the greatest difference
of its results from those on one device, relative to the greatest value of an array.
"""

import json
import re

import jax
import numpy as np

from jaxnas import parallel, search_state, search_steps, train_steps
from jaxnas.latency import LatencyModel
from jaxnas.network import Network, network_of
from tests.conftest import NUM_CLASSES, random_table
from tests.kinds import hyperparameters, one_run

PATH = "k5e2 - k3e2"
# Two candidates, as there are ten programs to compile.
SPACE = one_run("two", kernels=(3, 5), expansions=(2,))
BATCH = 64
COLLECTIVE = r"(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("


def main() -> None:
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (BATCH, 16, 16, 3), np.uint8),
        "label": rng.integers(0, NUM_CLASSES, BATCH).astype(np.int32),
    }
    whole, one = parallel.layout(), parallel.layout(jax.devices()[:1])
    report = {}
    for name, group, only in (("groups of a device", 8, None), ("a group of all", 64, "weight")):
        results, collectives = taken(whole, batch, group, only)
        expected, _ = taken(one, batch, group, only)
        report[name] = {
            step: {
                "collectives": collectives[step],
                "difference": difference(results[step], expected[step]),
            }
            for step in results
        }
    print(json.dumps(report))


def taken(layout: parallel.Layout, batch: dict, group: int, only: str | None) -> tuple[dict, dict]:
    """Results of each step, or one, on a layout, and the collectives of its compiled program."""
    hyper = hyperparameters(batch_norm_group=group)
    steps = search_steps.make_steps(SPACE, hyper, layout.replicated)
    state = layout.replicate(search_state.init_state(SPACE, NUM_CLASSES, hyper, 0))
    path = layout.replicate(SPACE.path(SPACE.parse(PATH)))
    # Entries that differ: Adam would magnify the rounding of a gradient that is near its ε.
    table = LatencyModel.of(random_table(SPACE, 0))
    network = Network(
        network_of(SPACE, SPACE.parse(PATH), NUM_CLASSES), rng=np.random.default_rng(1)
    )
    recipe = train_steps.Recipe(steps=10, dropout=0.5, batch_norm_group=group)
    training = train_steps.make_steps(network, recipe, layout.replicated)
    network_state = layout.replicate(train_steps.init_state(network, recipe, 0))
    sharded, scalars = layout.shard(batch), layout.replicate((np.float32(3), np.float32(0.1)))
    calls = {
        "arch": (steps.arch, (state, sharded, layout.replicate(table), *scalars)),
        "recalibrate": (
            steps.recalibrate,
            (state.params, state.stats, path, sharded, layout.replicate(np.float32(0))),
        ),
        "weight": (steps.weight, (state, sharded, path, layout.replicate(np.float32(0.05)))),
        "train": (training.train, (network_state, sharded)),
    }
    results, collectives = {}, {}
    for name, (step, arguments) in calls.items():
        if only not in (None, name):
            continue
        program = step.lower(*arguments).compile()
        collectives[name] = sorted(re.findall(COLLECTIVE, program.as_text()))
        results[name] = jax.device_get(program(*arguments))
    return results, collectives


def difference(ours: object, theirs: object) -> float:
    """Greatest difference of two trees' arrays, each relative to the array's greatest value."""
    return max(
        float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-3))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
        if np.issubdtype(a.dtype, np.floating)
    )


if __name__ == "__main__":
    main()
