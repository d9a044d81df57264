"""truth.json, truth.md and its figure: the results of all seeds."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from experiments.runs.markdown import table
from experiments.study import intervals
from experiments.study.intervals import mean_interval
from experiments.truth.config import ALONE, EVEN, Truth
from experiments.truth.methods import DERIVED, scored_networks
from experiments.truth.nas_bench_macro import LEAST_FRACTION, Benchmark
from jaxnas import network_figure
from jaxnas.json_file import write_object

TRAINED = 8  # random networks that someone without a search would train
DEFAULT = f"two, {DERIVED}"  # the estimator and the derivation of a search by default


def document(truth: Truth, held_out: int, seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns truth.json: baselines from the benchmark alone, and each method's τ and regret.

    Regrets are fractions of top-1: the best network's of at most the budget less the chosen one's.
    Of each method: tau, and regret by budget; mean_regret, over the budgets; and more_than_default,
    how much more that is than `DEFAULT`'s with the same seed (None without it).
    """
    benchmark, config = truth.benchmark, truth.config
    index = scored_networks(truth)
    rows: dict[str, dict[str, Any]] = {}
    for seed in seeds:
        for run in seed["runs"]:
            for rule, by_budget in run["chosen"].items():
                row = rows.setdefault(
                    f"{run['method']}, {rule}", {"method": run["method"], "tau": [], "regret": {}}
                )
                if run["tau"] is not None:
                    row["tau"].append(run["tau"])
                for budget, chosen in by_budget.items():
                    regret = benchmark.best_top1(float(budget)) - chosen["true_top1"]
                    row["regret"].setdefault(budget, []).append(regret)
    means = {name: np.mean([*row["regret"].values()], 0) for name, row in rows.items()}
    default = means.get(DEFAULT)
    return {
        "schema": 1,
        "networks": len(benchmark.paths),
        "scored_networks": len(index),
        "evaluations": truth.evaluations,
        "seeds": list(truth.seeds),
        "dataset": pathlib.Path(config.dataset).name,
        "train_examples": config.train_examples,
        "held_out": held_out,
        "image_size": config.search_image_size,
        "search": {
            name: getattr(config, name)
            for name in (
                "batch_size",
                "warmup_epochs",
                "search_epochs",
                "warmup_learning_rate",
                "search_learning_rate",
                "initialisation",
                "alpha_learning_rate",
                "alpha_every",
                "latency_control",
                "latency_weight",
                "calibration_batches",
            )
        },
        "budgets": [baselines(benchmark, budget) for budget in truth.budgets],
        "macs_tau": float(
            stats.kendalltau(benchmark.millions[index], benchmark.top1[index]).statistic
        ),
        "methods": {
            name: {
                "method": row["method"],
                "tau": mean_interval(row["tau"]) if row["tau"] else None,
                "regret": {budget: mean_interval(all_) for budget, all_ in row["regret"].items()},
                "mean_regret": mean_interval(means[name]),
                "more_than_default": (
                    None if default is None else mean_interval(means[name] - default)
                ),
            }
            for name, row in rows.items()
        },
        "runs": [dict(seed) for seed in seeds],
    }


def baselines(benchmark: Benchmark, budget: float) -> dict[str, Any]:
    """Returns what is known of a budget without a supernet."""
    within = benchmark.within(budget)
    top1, best = np.sort(benchmark.top1[within]), benchmark.best_top1(budget)
    largest = within[np.argmax(benchmark.millions[within])]
    # Of k drawn without replacement, the i-th smallest is the greatest in C(i, k−1) / C(n, k).
    count = min(TRAINED, len(top1))
    ranks = np.arange(len(top1))
    chance = np.array([stats.hypergeom.pmf(count, len(top1), rank + 1, count) for rank in ranks])
    return {
        "millions": budget,
        "networks": len(within),
        "best_top1": best,
        "random_regret": best - float(top1.mean()),
        "best_trained_regret": best - float(np.diff(chance, prepend=0.0) @ top1),
        "most_macs_regret": best - float(benchmark.top1[largest]),
    }


def write(document: Mapping[str, Any], folder: pathlib.Path) -> list[str]:
    """Writes truth.json, truth.md and truth.png and .svg; returns the names of the files."""
    write_object(folder / "truth.json", document)
    (folder / "truth.md").write_text(markdown(document))
    figure = _figure(document)
    names = ["truth.png", "truth.svg"]
    for name in names:
        network_figure.save(figure, folder / name)
    return ["truth.json", "truth.md", *names]


def markdown(document: Mapping[str, Any]) -> str:
    """Returns the text of truth.md; it depends on the document alone."""
    search, budgets = document["search"], document["budgets"]
    columns = [f"regret at {one['millions']:g} M" for one in budgets]
    rows = [
        ("random", "–", *_points(budgets, "random_regret"), "–"),
        (
            f"best of {TRAINED} random, each trained",
            "–",
            *_points(budgets, "best_trained_regret"),
            "–",
        ),
        (
            "most multiply-accumulates",
            f"{document['macs_tau']:.2f}",
            *_points(budgets, "most_macs_regret"),
            "–",
        ),
    ]
    points = functools.partial(intervals.text, percent=True, digits=2)
    for name, method in document["methods"].items():
        regrets = [method["regret"][f"{one['millions']:g}"] for one in budgets]
        more = method["more_than_default"]
        rows.append(
            (
                name,
                "–" if method["tau"] is None else intervals.text(method["tau"]),
                *map(points, [*regrets, method["mean_regret"]]),
                "–" if name == DEFAULT or more is None else points(more, sign=True),
            )
        )
    return "\n".join(
        [
            "# The search against the truth",
            "",
            "Written by `python -m experiments.truth` from `truth.json`. ± is half the width of "
            "the 95 % interval of Student's t over the seeds; (±?) marks a single value.",
            "",
            f"NAS-Bench-Macro has the true accuracy of all {document['networks']:,} networks of a "
            f"space, each trained three times on CIFAR-10 by its authors (Su et al. 2021). Here a "
            f"supernet of the space is trained on {document['train_examples'] or 'all'} of the "
            f"pictures at {document['image_size']} px, with {document['held_out']} held out; "
            f"{search['warmup_epochs']} epochs of warm-up, {search['search_epochs']} of search, "
            f"batch size {search['batch_size']}, seeds "
            f"{', '.join(map(str, document['seeds']))}.",
            "",
            f"τ is Kendall's, of the held-out accuracy with the supernet's weights and the true "
            f"accuracy, over {document['scored_networks']} random networks; for the estimators at "
            f"the middle budget, and for {ALONE}… that of {EVEN}. Regret is the true accuracy of "
            f"the best network of at most the budget less that of the chosen one, which uses "
            f"{LEAST_FRACTION:.0%} to 100 % of it, in points. Evolution and best of random score "
            f"{document['evaluations']} networks with the supernet's weights; evolution begins "
            f"with the most probable ones, or with random ones where there is no α. The weights of "
            f"{EVEN} are trained on paths drawn evenly; {ALONE}… learns α alone from them, with as "
            f"many α steps as a search has. The last column is the mean regret less that of "
            f"`{DEFAULT}` with the same seed. Its intervals are not corrected for the number of "
            f"rows.",
            "",
            *table(("", "τ", *columns, "mean regret", "more than the default's"), rows),
            "",
            "![Regret of each method](truth.png)",
            "",
        ]
    )


def _points(budgets: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """Returns a baseline's regret at each budget and their mean, in points."""
    regrets = [one[key] for one in budgets]
    return [f"{100 * regret:.2f}" for regret in [*regrets, np.mean(regrets)]]


def _figure(document: Mapping[str, Any]) -> Figure:
    """Draws each method's regret at each budget with its interval, over the baselines."""
    budgets, methods = document["budgets"], document["methods"]
    figure = Figure(
        figsize=(3.2 * len(budgets) + 2.2, 1.4 + 0.32 * len(methods)), layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(budgets), sharey=True, squeeze=False)[0]
    for axis, one in zip(axes, budgets, strict=True):
        for key, label, color in (
            ("random_regret", "random", "C7"),
            ("best_trained_regret", f"best of {TRAINED} trained", "C2"),
        ):
            axis.axvline(100 * one[key], color=color, linestyle="--", linewidth=1, label=label)
        for row, method in enumerate(methods.values()):
            regret = method["regret"][f"{one['millions']:g}"]
            axis.plot(100 * regret["mean"], row, "o", color="C0", markersize=4)
            if regret["low"] is not None:
                axis.hlines(row, 100 * regret["low"], 100 * regret["high"], color="C0")
        axis.set_title(f"{one['millions']:g} M", fontsize=10)
        axis.set_xlabel("regret, points of top-1")
        axis.set_xlim(left=0)
    axes[0].set_yticks(range(len(methods)), list(methods))
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    return figure
