"""Starts the steps of a search in a fresh process and times them from the first step on.

    python -m experiments.benchmark.first_step --workload='{"batch_size": 16}' --rounds=5

The benchmark starts it. It prints one line of JSON after the first weight step, and another after
`--rounds` more of each step. $JAX_COMPILATION_CACHE_DIR is the folder of compiled programs, which
are loaded like those of a search: the α step may become ready after the first weight step. Without
this variable no cache is used, and tracing, lowering and compilation of each step are timed.
"""

import json
import os
import time
from collections.abc import Sequence

import jax
from absl import flags

from experiments.benchmark.timing import in_turn, summary
from experiments.benchmark.workload import Supernet, Workload, memory_mb
from experiments.runs.malloc import keep_memory
from experiments.runs.step_compilation import compiled_steps, keep_compiled_programs
from profiling import command


def main(argv: Sequence[str]) -> None:
    """Runs the steps and prints the two documents."""
    del argv
    args = flags.FLAGS
    keep_memory()
    workload = Workload(**json.loads(args.workload))
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        keep_compiled_programs()
    clock = time.perf_counter()
    supernet = Supernet(workload)
    jax.block_until_ready(supernet.state)
    seconds = {"init_s": time.perf_counter() - clock}
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        clock = time.perf_counter()
        # Only the shapes of the arguments: the first step consumes the state.
        loaded = compiled_steps(
            {
                name: (step, jax.eval_shape(lambda *given: given, *arguments))
                for name, (step, arguments) in supernet.programs.items()
            },
            workload,
            _quiet,
        )
        supernet.weight = loaded["weight"].wait()
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
    """Compiles a step into the supernet; returns the seconds of each phase."""
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
    """Shows no progress: a program reads the output of this process."""


if __name__ == "__main__":
    flags.DEFINE_string("workload", "{}", "JSON object of the fields of `Workload`.")
    flags.DEFINE_integer("rounds", 0, "Timed repeats of each step after the first.", lower_bound=0)
    command.run(main)
