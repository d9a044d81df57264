"""Section of results.md on device preferences, from study.json alone."""

from collections.abc import Mapping
from typing import Any

from experiments.runs.markdown import table
from experiments.study import comparison_report, intervals
from experiments.study.device_preferences import DOES_NOT, UNDECIDED
from experiments.study.figures import title

ROWS = {
    "blocks": "blocks that are not skip",
    "e6": "share of expansion 6",
    "k3": "share of 3×3",
    "k5": "share of 5×5",
    "k7": "share of 7×7",
}
_COMPARED = ("found", "random", "found − random")
_REASONS = {
    "k7_over_k3_e6": "7×7 block ÷ 3×3 block, expansion 6",
    "k7_over_k3_e3": "7×7 block ÷ 3×3 block, expansion 3",
    "e6_over_two_e3": "one block of expansion 6 ÷ two of expansion 3",
    "least_over_most": "fastest ÷ slowest convolution of a block",
    "fixed_share": "reference path: share that every network has",
    "skippable_share": "reference path: share of its skippable blocks",
}


def preferences(part: Mapping[str, Any]) -> str:
    """Returns the section, from the `affinities` object of study.json."""
    return "\n".join([_statistics(part), _reasons(part), _networks(part)])


def _statistics(part: Mapping[str, Any]) -> str:
    devices = part["devices"]
    titles = [title(device) for device in devices]
    fraction = devices[0]["target_ms"] / devices[0]["reference_ms"]
    baselines = [device["chance"] for device in devices]
    compared, expected = [], []
    for name, label in ROWS.items():
        share = name != "blocks"
        label += ", %" if share else ""
        cells = [
            intervals.text(value, percent=share, sign=sign)
            for device in devices
            for value, sign in (
                (device["found"][name], False),
                (device["chance"]["statistics"][name], False),
                (device["over_chance"][name], True),
            )
        ]
        difference = intervals.text(part["differences"][name], percent=share, sign=True)
        compared.append((label, *cells, difference))
        expected.append(
            (label, *(intervals.text(d["expected"][name], percent=share) for d in devices))
        )
    statements = []
    for statement in part["statements"]:
        name = statement["statistic"]
        of_difference = statement["of"] == "difference"
        value = (part["differences"] if of_difference else devices[0]["found"])[name]
        text = intervals.text(value, percent=name != "blocks", sign=of_difference)
        text += "" if name == "blocks" else " %"
        verdict = f"**{statement['verdict']}**"
        statements.append((statement["statement"], text, statement["rule"], verdict))
    return "\n".join(
        [
            "## Device preferences",
            "",
            "The same searches with two latency tables, at equally tight budgets: each budget is "
            f"{fraction:.1%} of the latency of the reference path on that device.",
            "",
            *table(
                ["device", *titles],
                [
                    ("latency", *(f"{d['kind']}, {d['precision']}" for d in devices)),
                    ("reference, ms", *(f"{d['reference_ms']:.2f}" for d in devices)),
                    ("budget, ms", *(f"{d['target_ms']:.2f}" for d in devices)),
                    (
                        "random paths that use it, per million",
                        *map(comparison_report.per_million, baselines),
                    ),
                ],
                "l" + "r" * len(devices),
            ),
            "",
            *table(
                [
                    "statistic",
                    *(f"{t}, {what}" for t in titles for what in _COMPARED),
                    f"found, {titles[0]} − {titles[1]}",
                ],
                compared,
                "l" + "r" * (len(_COMPARED) * len(devices) + 1),
            ),
            "",
            f"Shares are of the blocks that are not skip. Found: {len(devices[0]['networks'])} "
            f"searches per device. Random: {baselines[0]['networks']} networks per device, drawn "
            f"uniformly from the paths of the space that use the budget. Found − random is what "
            f"the search adds to the effect of the budget (Welch's interval). The last column is "
            f"the mean difference of searches with the same seed.",
            "",
            "Expected under softmax(α) at the end of the search, before the budget is imposed:",
            "",
            *table(["statistic", *titles], expected, "l" + "r" * len(devices)),
            "",
            "![depth and shares](study_affinities.png)",
            "",
            "### The poster's three statements",
            "",
            *table(["statement", "value", "rule", "verdict"], statements, "llll"),
            "",
        ]
    )


def _reasons(part: Mapping[str, Any]) -> str:
    """Returns the ratios of the tables, beside the verdicts that they may explain."""
    devices = part["devices"]
    titles = [title(device) for device in devices]
    of = [device["table"] for device in devices]
    lines = [
        "### The latency tables alone",
        "",
        *table(
            ["ratio or share", *titles],
            [(label, *(f"{one[name]:.2f}" for one in of)) for name, label in _REASONS.items()],
            "l" + "r" * len(devices),
        ),
        "",
        "Ratios of latencies, means over all blocks; the last two are shares of the latency of the "
        "reference path.",
        "",
    ]

    def both(name: str) -> str:
        return " and ".join(
            f"{one[name]:.2f} ({title})" for one, title in zip(of, titles, strict=True)
        )

    depth = [device["chance"]["statistics"]["blocks"]["mean"] for device in devices]
    reasons = {
        "blocks": f"The fastest convolution of a block takes {both('least_over_most')} of the time "
        f"of the slowest one: the nearer to 1, the more a block costs whatever is chosen "
        f"for it, and the more latency fewer blocks save. Random networks of the two "
        f"budgets have {depth[0]:.1f} and {depth[1]:.1f} blocks.",
        "e6": f"One block of expansion 6 takes {both('e6_over_two_e3')} of the time of two blocks "
        f"of expansion 3: below 1, width is cheaper than depth.",
        "k7": f"A 7×7 block of expansion 6 takes {both('k7_over_k3_e6')} times as long as a 3×3 "
        f"block: the nearer to 1, the cheaper a large kernel.",
    }
    for statement in part["statements"]:
        verdict = {
            DOES_NOT: " Not reproduced here. The latency tables may contribute.",
            UNDECIDED: " Undecided here. The latency tables may contribute.",
        }.get(statement["verdict"], "")
        lines.append(f"- “{statement['statement']}”.{verdict} {reasons[statement['statistic']]}")
    return "\n".join([*lines, ""])


def _networks(part: Mapping[str, Any]) -> str:
    rows = [
        (title(device), n["seed"], f"{n['predicted_ms']:.2f}", f"`{n['architecture']}`")
        for device in part["devices"]
        for n in device["networks"]
    ]
    return "\n".join(
        [
            "### Found networks",
            "",
            "![the networks, drawn](study_networks.png)",
            "",
            *table(["device", "seed", "latency by its table, ms", "architecture"], rows, "lrrl"),
            "",
        ]
    )
