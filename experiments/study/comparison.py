"""Search versus others: found networks, random networks and published ones, trained alike.

A network's top-1 is its mean over its trainings. The interval of a group of networks is over the
networks, because they are what is sampled; that of a single network is over its trainings. Where
each seed draws the pictures of all groups, intervals are over the seeds, and groups are compared
seed by seed. Differences of groups also vary by the test pictures, which all networks share;
several differences are corrected for their number.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.study.intervals import (
    difference_interval,
    holm,
    mean_interval,
    paired_interval,
    side,
)
from experiments.study.random_networks import Draw
from jaxnas.network import NetworkSpec, count_macs, count_parameters

SIGNIFICANT = 0.05


@dataclasses.dataclass(frozen=True)
class Contender:
    """A network of the comparison.

    Attributes:
      name: name in the folders of its runs.
      group: name of its group, as the results print it.
      number: its place in the group, from 0; determines the seeds of its trainings.
      architecture: text form of the architecture, or a description of a published network.
      space: the space as --space names it; None for a published network.
      spec: specification with the deployed classifier, for counts and latency.
      latency_ms: latency by the table; for a published network by the device.
      most_probable_ms: for a found network, that of the search's most probable path without a
        budget.
    """

    name: str
    group: str
    number: int
    architecture: str
    space: str | None
    spec: NetworkSpec
    latency_ms: float
    most_probable_ms: float | None = None


@dataclasses.dataclass(frozen=True)
class Trained:
    """Result of one training.

    Attributes:
      seed: seed of the training.
      top1: top-1 on the test part, a fraction, with the weights of the best epoch.
      held_out_top1: top-1 on the held-out part, which chooses the best epoch.
      epoch: best epoch, from 1.
      right: whether each test example is classified right, one bit each, as hexadecimal text.
    """

    seed: int
    top1: float
    held_out_top1: float
    epoch: int
    right: str


def document(
    trained: Sequence[tuple[Contender, Sequence[Trained]]],
    image_size: int,
    target_ms: float,
    baseline: Draw,
    examples: int,
    *,
    by_seed: bool = False,
) -> dict[str, Any]:
    """Returns the groups and networks of a comparison, such as the `worth` object of study.json.

    Args:
      trained: each network with its trainings; the networks of a group follow each other. The
        first group is compared with every other.
      image_size: px at which multiply-accumulates are counted.
      target_ms: the budget.
      baseline: the draw of the random networks.
      examples: number of test examples.
      by_seed: the groups have the same seeds, by which they are compared; the value of a seed is
        the mean of a group's trainings with it.
    """
    values_of, interval_of = (
        (_values_by_seed, paired_interval) if by_seed else (_values, difference_interval)
    )
    networks: list[dict[str, Any]] = [
        {
            "name": one.name,
            "group": one.group,
            "architecture": one.architecture,
            "latency_ms": one.latency_ms,
            "most_probable_ms": one.most_probable_ms,
            "blocks": len(one.spec.blocks),
            "parameters": count_parameters(one.spec),
            "macs": count_macs(one.spec, image_size),
            "top1": float(np.mean([run.top1 for run in runs])),
            "runs": [_without_answers(run) for run in runs],
        }
        for one, runs in trained
    ]
    answers = {
        name: np.mean(
            [_answers(runs, examples) for one, runs in trained if one.group == name], axis=0
        )
        for name in dict.fromkeys(n["group"] for n in networks)
    }
    first, *others = [
        {"name": name, "networks": len(of_group), "top1": values_of(of_group)}
        for name in dict.fromkeys(n["group"] for n in networks)
        for of_group in [[n for n in networks if n["group"] == name]]
    ]
    for other in others:
        by_picture = answers[first["name"]] - answers[other["name"]]
        other["difference"] = interval_of(
            first["top1"], other["top1"], float(by_picture.var(ddof=1)) / examples
        )
        other["ranks"] = [rank(value, other["top1"]) for value in first["top1"]]
    for other, p in zip(others, holm([other["difference"]["p"] for other in others]), strict=True):
        other["holm_p"] = p
        significant = p is not None and p < SIGNIFICANT
        other["first_is"] = side(other["difference"], 0) if significant else None
    return {
        "target_ms": target_ms,
        "image_size": image_size,
        "num_classes": trained[0][0].spec.num_classes,
        "chance": {"drawn": baseline.drawn, "accepted": baseline.accepted},
        "networks": networks,
        "groups": [{**group, "top1": mean_interval(group["top1"])} for group in (first, *others)],
    }


def _answers(runs: Sequence[Trained], examples: int) -> np.ndarray:
    """Returns the share of a network's trainings that classify each example right, [examples]."""
    bits = [np.frombuffer(bytes.fromhex(run.right), np.uint8) for run in runs]
    return np.mean([np.unpackbits(one, count=examples) for one in bits], axis=0)


def _without_answers(run: Trained) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(run).items() if name != "right"}


def _values(networks: Sequence[dict[str, Any]]) -> list[float]:
    """Returns the values that a group's interval is over: networks, or trainings of one."""
    if len(networks) > 1:
        return [n["top1"] for n in networks]
    return [run["top1"] for run in networks[0]["runs"]]


def _values_by_seed(networks: Sequence[dict[str, Any]]) -> list[float]:
    """Returns the mean top-1 of a group's trainings with each seed, in the order of the seeds."""
    runs = [run for network in networks for run in network["runs"]]
    seeds = sorted({run["seed"] for run in runs})
    return [float(np.mean([run["top1"] for run in runs if run["seed"] == s])) for s in seeds]


def rank(value: float, others: Sequence[float]) -> int:
    """Returns the rank of a value among others: 1 is the greatest; ties take the better rank."""
    return 1 + sum(other > value for other in others)
