"""Writes docs/scaling.md: the time of a search on ImageNet at the peak rates of accelerators.

    python -m experiments.benchmark.scaling --flagfile=vpu.flags --flagfile=imagenet.flags \\
        --results=runs/benchmark/benchmark.json

The results are those of the parts `tpu` and `photographs` of `python -m experiments.benchmark`, in
one file or in several. Nothing ran on an accelerator: a step takes as long as its slower resource,
arithmetic or memory, would at its peak, and then the sum of its gradients over the chips.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from experiments.benchmark import performance
from experiments.benchmark.chips import GPUS, TPUS, Chip
from experiments.benchmark.report import table, without_folder
from experiments.search.config import Config, config_from_flags, define_flags
from profiling import command

DOCUMENT = "scaling.md"
Document = Mapping[str, Any]  # content of benchmark.json
CHIPS = (1, 8, 64, 256)
_IMAGENET_EXAMPLES = 1_281_167  # Russakovsky et al. 2015, the training part
_IMAGENET_CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A search on a number of chips at their peak rates.

    Attributes:
      weight_ms, arch_ms, train_ms: a weight step, an α step, and a training step of the network.
      images_per_s: examples of weight steps, over all chips.
      search_hours: warm-up and search.
      train_hours: training of the network.
      memory_share: share of the weight step's time that memory takes at its peak.
    """

    weight_ms: float
    arch_ms: float
    train_ms: float
    images_per_s: float
    search_hours: float
    train_hours: float
    memory_share: float


def estimate(part: Mapping[str, Any], config: Config, chip: Chip, chips: int) -> Estimate:
    """Estimates a search from the benchmark's part `tpu`.

    A weight step has as many examples on each chip as the part's. An α step has
    `alpha_batch_size` examples in all, which the chips divide evenly.

    Args:
      part: the part `tpu`.
      config: the search's lengths.
      chip: peak rates.
      chips: number of chips.
    """
    programs, on_each = part["programs"], part["batch_size"]
    weight_ms, train_ms = (step_ms(programs[name], chip, chips) for name in ("weight", "train"))
    arch = dict(programs["arch"])
    for cost in ("gflops", "gb"):
        arch[cost] *= config.alpha_batch_size / (chips * on_each)
    arch_ms = step_ms(arch, chip, chips)
    assert config.held_out is not None, "which main checks"
    examples = _IMAGENET_EXAMPLES - config.held_out
    epoch = examples / (on_each * chips)
    alpha_steps = examples / (config.alpha_batch_size * config.alpha_every)
    weight_s = (config.warmup_epochs + config.search_epochs) * epoch * weight_ms / 1e3
    alpha_s = (config.search_epochs - 1) * alpha_steps * arch_ms / 1e3
    return Estimate(
        weight_ms,
        arch_ms,
        train_ms,
        images_per_s=1e3 * on_each * chips / weight_ms,
        search_hours=(weight_s + alpha_s) / 3600,
        train_hours=config.train_epochs * epoch * train_ms / 3.6e6,
        memory_share=programs["weight"]["gb"] / chip.memory_gb_s * 1e3 / weight_ms,
    )


def step_ms(program: Mapping[str, Any], chip: Chip, chips: int) -> float:
    """Returns the time of a step at peak rates on each of a number of chips, in ms.

    The sum over the chips is a ring's: a chip sends 2 (n − 1) / n times the gradients' size.
    """
    sent_gb = 2 * (chips - 1) / chips * program["collective_mb"] / 1e3
    computed = max(program["gflops"] / chip.tflops, 1e3 * program["gb"] / chip.memory_gb_s)
    return computed + 1e3 * sent_gb / chip.sum_gb_s(chips)


def page(compiled: Document, decoded: Document, config: Config) -> list[str]:
    """Returns the lines of docs/scaling.md.

    Args:
      compiled, decoded: results with the part `tpu` and with the part `photographs`.
      config: the search's lengths.
    """
    part, photographs = compiled["parts"]["tpu"], decoded["parts"]["photographs"]
    rows = []
    for name, chip in (TPUS | GPUS).items():
        for chips in CHIPS:
            one = estimate(part, config, chip, chips)
            rows.append(
                (
                    name,
                    chips,
                    one.weight_ms,
                    f"{one.memory_share:.0%}",
                    one.arch_ms,
                    f"{one.images_per_s:,.0f}",
                    f"{one.images_per_s / photographs['pipeline_per_s']:,.0f}",
                    one.search_hours,
                    one.train_hours,
                )
            )
    versions, settings = compiled["machine"]["versions"], compiled["settings"]
    commands = dict.fromkeys(without_folder(one["command"]) for one in (compiled, decoded))
    return [
        "# Scaling",
        "",
        "Written by `python -m experiments.benchmark.scaling` from the results of "
        f"`{'` and `'.join(commands)}`, {compiled['date']}, jax {versions['jax']}.",
        "",
        "**These are estimates at peak rates, not measurements.** Nothing ran on an accelerator. A "
        "step takes as long as its operations or its bytes would at the chip's peak rate, "
        "whichever is longer, and then the ring sum of its gradients over all chips. Operations, "
        "bytes and the size of the sum are those of the programs that the TPU's compiler makes of "
        f"the {settings['space']} space at {settings['train_image_size']} px in "
        f"{settings['precision']}, with {part['batch_size']} examples on each of {part['chips']} "
        "chips, and of the longest branches: the largest path. Real steps do not reach the peaks. "
        "They may also take less: the compiler's analysis counts every operand and result as "
        "bytes of the memory, although some stay on the chip. A GPU's compiler fuses "
        "otherwise, and a GPU waits for the host at each `lax.switch`.",
        "",
        f"The search is `imagenet.flags`: {config.warmup_epochs} epochs of warm-up and "
        f"{config.search_epochs} of search, with {config.held_out:,} examples held out for α, and "
        f"{config.train_epochs} epochs of training the largest path. Batches grow with the chips, "
        f"{part['batch_size']} on each; whether accuracy bears the largest is untried. An α step "
        f"has {config.alpha_batch_size} examples on any number of chips. With fewer on a chip than "
        "batch normalization takes together, every layer of an α step exchanges statistics as "
        "well, which is not in these figures.",
        "",
        *table(
            (
                "chip",
                "chips",
                "weight step, ms",
                "of it memory",
                "α step, ms",
                "images/s",
                "cores that decode",
                "search, h",
                "training, h",
            ),
            rows,
        ),
        "",
        f"The input pipeline makes {photographs['pipeline_per_s']:.0f} photographs of "
        f"{photographs['size']} px a second on a core of {decoded['machine']['cpu']}; cores that "
        "decode are of all hosts together. Where a host has fewer, it bounds the search and not "
        "the chip.",
    ]


def with_parts(files: Sequence[str], parts: Sequence[str], config: Config) -> dict[str, Document]:
    """Returns the results that have each part, the last of several, by its name.

    Raises:
      ValueError: a part is missing, or is not of a search on ImageNet.
    """
    again = (
        f"run `python -m experiments.benchmark --parts=photographs,tpu --precision=bf16 "
        f"--batch_size=64 --train_image_size={config.search_image_size} --topology=v5e:4x4`"
    )
    found: dict[str, Document] = {}
    for file in files:
        document = performance.load(pathlib.Path(file))
        found |= dict.fromkeys(document["parts"], document)
    given = f"--results={','.join(files)}"
    for name in parts:
        if name not in found:
            raise ValueError(f"{given} lacks the part {name}; {again}")
    expected = {
        "precision": "bf16",  # of the chips' peak rates
        "train_image_size": config.search_image_size,
        "num_classes": _IMAGENET_CLASSES,
    }
    for name, wanted in expected.items():
        value = found["tpu"]["settings"][name]
        if value != wanted:
            raise ValueError(f"{given}: part tpu has {name} {value}, not {wanted}; {again}")
    for name, program in found["tpu"]["parts"]["tpu"]["programs"].items():
        if "collective_mb" not in program or set(program["collectives"]) - {"all-reduce"}:
            raise ValueError(
                f"{given}: step {name} of part tpu is of another version, or has collectives "
                f"beside all-reduce; {again}"
            )
    return found


def main(argv: Sequence[str]) -> int:
    """Writes the page; returns the exit status."""
    del argv
    args = flags.FLAGS
    with command.usage_errors():
        config = config_from_flags()
        if config.dataset != "imagenet2012" or config.held_out is None:
            raise ValueError(
                f"--dataset={config.dataset}: the estimate is of a search on ImageNet; give "
                f"--flagfile=imagenet.flags"
            )
        found = with_parts(args.results, ("tpu", "photographs"), config)
        output = command.output_folder("output", args.output)
    (output / DOCUMENT).write_text(
        "\n".join(page(found["tpu"], found["photographs"], config)) + "\n"
    )
    print(output / DOCUMENT, file=sys.stderr)
    return 0


if __name__ == "__main__":
    define_flags()
    flags.DEFINE_list("results", None, "Files benchmark.json, comma-separated.", required=True)
    flags.DEFINE_string("output", "docs", "Folder to write to.")
    command.run(main)
