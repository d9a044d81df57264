"""Parts `step` and `memory`: the supernet's steps, and the same networks compiled statically."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.benchmark.timing import in_turn, ratio, summary
from experiments.benchmark.workload import StaticNetwork, Supernet, Workload, memory_mb
from jaxnas.space import format_arch


class Steps:
    """The programs of both parts, each compiled once."""

    def __init__(self, workload: Workload):
        self._workload = workload
        self.supernet = Supernet(workload)
        self._static: dict[tuple[int, ...], StaticNetwork] = {}

    def static(self, path: np.ndarray) -> StaticNetwork:
        """Returns the path's network, compiled at first use."""
        key = tuple(path.tolist())
        if key not in self._static:
            self._static[key] = StaticNetwork(self._workload, self._workload.network(path))
        return self._static[key]

    def time(self, random_paths: int, rounds: int) -> dict[str, Any]:
        """Measures part `step`.

        Args:
          random_paths: number of paths to time besides the largest.
          rounds: number of timed repeats. Each takes, for every path, one weight step and one step
            of its static network, and finally one α step.
        """
        paths = [*self._workload.random_paths(random_paths), self._workload.largest_path]
        calls: dict[str, Callable[[], Any]] = {}
        for index, path in enumerate(paths):
            calls[f"weight {index}"] = functools.partial(self.supernet.weight_step, path)
            calls[f"static {index}"] = self.static(path).step
        calls["arch"] = self.supernet.arch_step
        times_ms = in_turn(calls, rounds)
        rows = [
            self._row(path, times_ms[f"weight {index}"], times_ms[f"static {index}"])
            for index, path in enumerate(paths)
        ]
        return {
            "paths": rows,
            "arch": summary(times_ms["arch"]),
            "median_ratio": _median_ratio(rows),
        }

    def memory(self) -> dict[str, Any]:
        """Returns the document of part `memory`: XLA's analysis of the programs."""
        programs = {
            "weight": self.supernet.weight,
            "arch": self.supernet.arch,
            "static_largest": self.static(self._workload.largest_path).compiled,
        }
        document = {name: memory_mb(program) for name, program in programs.items()}
        return {
            "programs": document,
            "temp_ratio": document["weight"]["temp_mb"] / document["static_largest"]["temp_mb"],
        }

    def _row(
        self, path: np.ndarray, weight_ms: np.ndarray, static_ms: np.ndarray
    ) -> dict[str, Any]:
        return {
            "architecture": format_arch(self._workload.search_space.arch(path)),
            "largest": bool((path == self._workload.largest_path).all()),
            "weight": summary(weight_ms),
            "static": summary(static_ms),
            "ratio": ratio(weight_ms, static_ms),
        }


def _median_ratio(rows: Sequence[dict]) -> float:
    return float(np.median([row["ratio"]["ratio"] for row in rows]))
