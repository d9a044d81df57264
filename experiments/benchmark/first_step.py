"""One start of a search's steps in a process of its own, up to the first of them and beyond.

    python -m experiments.benchmark.first_step --workload='{"batch_size": 16}' --rounds=5

Started by the benchmark. The first line on standard output comes when the first weight step is
done, the second when `--rounds` more of each step are timed. $JAX_COMPILATION_CACHE_DIR is the
folder of compiled programs, from which they are loaded as the search loads them: the architecture
step may come after the first weight step. Without it nothing is taken from one nor put there, and
each step is traced, lowered and compiled by the clock.
"""

import json
import os
import time
from collections.abc import Sequence

import jax
from absl import app, flags

from experiments.benchmark.timing import in_turn, summary
from experiments.benchmark.workload import Supernet, Workload, memory_mb
from experiments.runs.compilation import compiled_steps, keep_compiled_programs


def main(argv: Sequence[str]) -> None:
    """Prints the two documents."""
    del argv
    args = flags.FLAGS
    workload = Workload(**json.loads(args.workload))
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        keep_compiled_programs()
    clock = time.perf_counter()
    supernet = Supernet(workload)
    jax.block_until_ready(supernet.state)
    seconds = {"init_s": time.perf_counter() - clock}
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        clock = time.perf_counter()
        # Of the arguments the shapes alone: the first step takes the state's memory.
        loaded = compiled_steps(
            {
                name: (step, jax.eval_shape(lambda *given: given, *arguments))
                for name, (step, arguments) in supernet.programs.items()
            },
            workload,
            _quiet,
        )
        supernet.weight, supernet.arch = loaded["weight"].wait(), loaded["arch"]
        programs = {"weight": {"load_s": time.perf_counter() - clock}}
    else:
        programs = {name: _compile(supernet, name) for name in ("weight", "arch")}
    clock = time.perf_counter()
    jax.block_until_ready(supernet.weight_step(workload.largest_path))
    seconds["first_step_s"] = time.perf_counter() - clock
    print(json.dumps({**seconds, "programs": programs}), flush=True)
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        supernet.arch = loaded["arch"].wait()
    if args.rounds:
        times_ms = in_turn(
            {
                "weight": lambda: supernet.weight_step(workload.largest_path),
                "arch": supernet.arch_step,
            },
            args.rounds,
        )
        print(
            json.dumps(
                {
                    name: summary(times) | memory_mb(getattr(supernet, name))
                    for name, times in times_ms.items()
                }
            ),
            flush=True,
        )


def _compile(supernet: Supernet, name: str) -> dict[str, float]:
    """Seconds that each part of it takes."""
    start = time.perf_counter()
    traced = supernet.traced(name)
    traced_at = time.perf_counter()
    lowered = traced.lower()
    lowered_at = time.perf_counter()
    setattr(supernet, name, lowered.compile())
    return {
        "trace_s": traced_at - start,
        "lower_s": lowered_at - traced_at,
        "compile_s": time.perf_counter() - lowered_at,
    }


def _quiet(fraction: float, doing: str) -> None:
    """No bar: this process's output is read by a program."""


if __name__ == "__main__":
    flags.DEFINE_string("workload", "{}", "JSON object of the fields of `Workload`.")
    flags.DEFINE_integer("rounds", 0, "Timed steps of each kind after the first.", lower_bound=0)
    app.run(main)
