"""Device preferences: depth, expansions and kernels of networks that use a device's budget.

The same space is searched with two latency tables at equally tight budgets. Random networks of the
same budget show the effect of the budget alone. Figures of the tables alone show possible reasons.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.study.intervals import Interval, difference_interval, mean_interval, side
from experiments.study.random_networks import Draw
from jaxnas.latency import LatencyTable
from jaxnas.space import Candidate, Space, format_arch

STATISTICS = ("blocks", "e6", "k3", "k5", "k7")
KERNELS, EXPANSIONS = (3, 5, 7), (6, 3)  # of the candidates that the statements compare
ALMOST_ALWAYS = 0.8  # share of the blocks: at most one in five differs

REPRODUCES, DOES_NOT, UNDECIDED = "reproduces", "does not reproduce", "undecided"


@dataclasses.dataclass(frozen=True)
class Found:
    """Result of one search.

    Attributes:
      seed: seed of the search.
      architecture: text form of the architecture.
      predicted_ms: latency by the device's table.
      expected: `expected_statistics` of softmax(α).
      most_probable_ms: latency of the most probable path without a budget, by the same table; None
        in files of earlier versions.
    """

    seed: int
    architecture: str
    predicted_ms: float
    expected: Mapping[str, float]
    most_probable_ms: float | None = None


def check_space(space: Space) -> None:
    """Raises ValueError if the space lacks a candidate that the statements compare."""
    missing = [
        c for e in EXPANSIONS for k in KERNELS if (c := Candidate(k, e)) not in space.candidates
    ]
    if missing:
        raise ValueError(
            f"--space={space.name} has no {format_arch(missing)}: part affinities compares kernels "
            f"3, 5 and 7 at expansions 3 and 6; name a space that has them, or give --parts=worth"
        )


def statistics(space: Space, path: np.ndarray) -> dict[str, float]:
    """Returns the number of blocks that are not skip, and each choice's share of them.

    Args:
      path: int32 [blocks].
    """
    return expected_statistics(space, np.eye(len(space.candidates))[path])


def expected_statistics(space: Space, probabilities: np.ndarray) -> dict[str, float]:
    """Returns `statistics` expected of a random path: expected blocks and expected shares.

    A share is the expected number of blocks with the choice over the expected number of blocks,
    skips not counted.

    Args:
      probabilities: [blocks, candidates]; each row sums to 1.
    """
    by_candidate = np.asarray(probabilities, np.float64).sum(0)
    blocks = sum(n for n, c in zip(by_candidate, space.candidates, strict=True) if not c.is_skip)

    def share(field: str, value: int) -> float:
        return float(
            sum(
                n
                for n, c in zip(by_candidate, space.candidates, strict=True)
                if getattr(c, field) == value
            )
            / blocks
        )

    return {
        "blocks": float(blocks),
        "e6": share("expansion", 6),
        **{f"k{kernel}": share("kernel", kernel) for kernel in KERNELS},
    }


def table_reasons(space: Space, table: LatencyTable, reference: np.ndarray) -> dict[str, float]:
    """Returns ratios of a table's latencies that bear on depth, expansions and kernels.

    Args:
      reference: int32 [blocks], the path whose latency the shares refer to.

    Returns:
      Means over all blocks, and two shares:
      k7_over_k3_e6, k7_over_k3_e3: latency of a 7×7 block over a 3×3 block of the same expansion.
      e6_over_two_e3: latency of a block of expansion 6 over two blocks of expansion 3, mean of the
        three kernels. Below 1, one wide block is faster than two narrow ones of its width.
      least_over_most: latency of a block's fastest convolution over its slowest. Near 1, a block
        costs nearly the same whatever is chosen for it.
      fixed_share, skippable_share: shares of the reference's latency that every network has, and
        that its skippable blocks have.
    """
    ms = {c: table.candidate_ms[:, i] for i, c in enumerate(space.candidates) if not c.is_skip}
    every = np.stack(list(ms.values()))
    wide, narrow = (np.stack([ms[Candidate(k, e)] for k in KERNELS]) for e in EXPANSIONS)
    total_ms = table.path_ms(reference)
    blocks_ms = table.candidate_ms[np.arange(len(reference)), reference]
    skippable = np.array([block.allows_skip for block in space.blocks])
    return {
        "k7_over_k3_e6": float((wide[2] / wide[0]).mean()),
        "k7_over_k3_e3": float((narrow[2] / narrow[0]).mean()),
        "e6_over_two_e3": float((wide / (2 * narrow)).mean()),
        "least_over_most": float((every.min(0) / every.max(0)).mean()),
        "fixed_share": sum(table.fixed_ms.values()) / total_ms,
        "skippable_share": float(blocks_ms[skippable].sum() / total_ms),
    }


def device_document(
    space: Space,
    table: LatencyTable,
    target_ms: float,
    reference: np.ndarray,
    found: Sequence[Found],
    baseline: Draw,
) -> dict[str, Any]:
    """Returns one device's object of study.json: found networks, random baseline, table ratios."""
    of_found = [statistics(space, space.path(space.parse(f.architecture))) for f in found]
    of_baseline = [statistics(space, path) for path in baseline.paths]
    return {
        "device": table.device,
        "kind": table.kind,
        "precision": table.precision,
        "num_classes": table.num_classes,
        "provenance": dict(table.provenance),
        "reference_ms": table.path_ms(reference),
        "target_ms": target_ms,
        "networks": [
            {
                "seed": f.seed,
                "architecture": f.architecture,
                "predicted_ms": f.predicted_ms,
                "statistics": of_network,
                "expected": dict(f.expected),
            }
            for f, of_network in zip(found, of_found, strict=True)
        ],
        "found": _intervals(of_found),
        "expected": _intervals([f.expected for f in found]),
        "chance": {
            "networks": len(baseline.paths),
            "drawn": baseline.drawn,
            "accepted": baseline.accepted,
            "statistics": _intervals(of_baseline),
        },
        "over_chance": _differences(of_found, of_baseline),
        "table": table_reasons(space, table, reference),
    }


def document(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `affinities` object of study.json.

    Args:
      first: `device_document` of the poster's device.
      second: `device_document` of the other device.
    """
    of_first, of_second = (
        [network["statistics"] for network in device["networks"]] for device in (first, second)
    )
    differences = _paired_differences(of_first, of_second)
    return {
        "devices": [dict(first), dict(second)],
        "differences": differences,
        "statements": statements(first["found"], differences),
    }


def statements(
    found: Mapping[str, Interval], differences: Mapping[str, Interval]
) -> list[dict[str, str]]:
    """Returns the poster's three statements, each with its rule and verdict by an interval.

    Args:
      found: interval of the networks found for the poster's device, by statistic.
      differences: interval of that device minus the mobile device, by statistic.
    """
    return [
        {
            "statement": "a far shallower network",
            "statistic": "blocks",
            "of": "difference",
            "rule": "the interval of the difference in blocks lies below 0; the poster does not "
            "say how far is far",
            "verdict": _verdict(side(differences["blocks"], 0), "below"),
        },
        {
            "statement": "expansion 6 almost always",
            "statistic": "e6",
            "of": "found",
            "rule": f"the interval of the share of expansion 6 lies above {ALMOST_ALWAYS:g}",
            "verdict": _verdict(side(found["e6"], ALMOST_ALWAYS), "above"),
        },
        {
            "statement": "7×7 kernels more often than networks found for mobiles",
            "statistic": "k7",
            "of": "difference",
            "rule": "the interval of the difference in the share of 7×7 lies above 0",
            "verdict": _verdict(side(differences["k7"], 0), "above"),
        },
    ]


def _verdict(found: str | None, wanted: str) -> str:
    return UNDECIDED if found is None else REPRODUCES if found == wanted else DOES_NOT


def _intervals(rows: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
    return {name: mean_interval([row[name] for row in rows]) for name in STATISTICS}


def _differences(
    first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]]
) -> dict[str, Interval]:
    return {
        name: difference_interval([a[name] for a in first], [b[name] for b in second])
        for name in STATISTICS
    }


def _paired_differences(
    first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]]
) -> dict[str, Interval]:
    """Pairs by seed: searches of one seed start from the same weights and see the same data."""
    return {
        name: mean_interval([a[name] - b[name] for a, b in zip(first, second, strict=True)])
        for name in STATISTICS
    }
