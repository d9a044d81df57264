"""A search with published weights; the study of transfer: its report, and what it refuses."""

import json

import numpy as np

from experiments.study import comparison
from experiments.study.comparison import Contender, Trained
from experiments.study.random_networks import Draw
from experiments.transfer import report
from experiments.transfer.__main__ import FOUND, RANDOM, SCRATCH, WHOLE
from jaxnas.zoo import LITE0, find_network
from tests.pictures import draw_folder
from tests.programs import ROOT, UNOPTIMIZED, run_program

EXAMPLES = 200
TOP1 = {FOUND: (170, 172, 174), SCRATCH: (90, 110, 100), RANDOM: (168, 170, 175), WHOLE: (180,) * 3}


def compared() -> dict:
    """Three networks of each group, by the numbers of right answers."""
    rng = np.random.default_rng(0)
    trained = []
    for group, counts in TOP1.items():
        for number, count in enumerate(counts):
            right = rng.permutation(EXAMPLES) < count
            ms = 27.64 if group == WHOLE else 17.1 + number / 100
            spec = find_network("efficientnet_lite0")
            name = f"{group} {number}"
            bits = np.packbits(right).tobytes().hex()
            trained.append(
                (
                    Contender(name, group, number, LITE0, "efficientnet_lite", spec, ms),
                    [Trained(number, count / EXAMPLES, 0.5, 3, bits)],
                )
            )
    draw = Draw(np.zeros((3, 15), np.int32), 1000, 3)
    return comparison.document(trained, 224, 17.2, draw, EXAMPLES, by_seed=True)


def test_the_report_compares_what_transfer_finds_with_each_other_group():
    document = {
        "dataset": "flowers",
        "examples": {"classes": 10, "weights": 900, "held_out": 100, "test": EXAMPLES},
        "seeds": [0, 1, 2],
        "settings": {"train_epochs": 10},
        "scratch_settings": {"train_epochs": 30},
        "comparison": compared(),
    }
    lines = report.markdown(document).splitlines()
    verdicts = [line for line in lines if line.startswith("- **")]
    assert [line.rpartition(": ")[2] for line in verdicts] == [
        "better.**",
        "undecided.**",
        "undecided.**",
    ]
    assert "Found with transfer − found from scratch is +36.0 ± " in verdicts[0]
    (row,) = (line for line in lines if line.startswith("| EfficientNet-Lite0 |"))
    assert "| 3 | 27.64 to 27.64 | 90.0 ± 0.0 | -4.0 ± 4.5 |" in row
    recipes = "one recipe: train_epochs 10. Those found from scratch: train_epochs 30."
    assert recipes in "\n".join(lines)


def test_a_search_with_published_weights_knows_a_few_pictures(tmp_path, myriad):
    """Twenty drawn shapes of each class, and hardly a step: ImageNet gives what is known.

    The 32 that are not held out are fitted to as one batch.
    """
    draw_folder(tmp_path / "shapes", train=20, test=20, shapes=("disc", "square"))
    flags = (
        f"--flagfile={ROOT / 'transfer.flags'}",
        f"--dataset={tmp_path / 'shapes'}",
        f"--workdir={tmp_path / 'run'}",
        "--held_out=8",
        "--search_image_size=32",
        "--batch_size=8",
        "--warmup_epochs=0",
        "--search_epochs=2",
        "--finalists=1",
        "--train_batch_size=8",
        "--train_epochs=1",
        "--deployment_epochs=1",
    )
    # Few steps, of a large supernet.
    done = run_program("experiments.search", *flags, XLA_FLAGS=UNOPTIMIZED)
    assert done.returncode == 0, done.stderr
    assert "published weights" in done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["target_met"] and result["space"] == "efficientnet_lite"
    assert result["accuracy"]["top1"] >= 0.9


def test_refuses_a_search_without_published_weights(tmp_path):
    done = run_program("experiments.transfer", "--space=proxyless", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: --initialisation=shared: the study is of networks found with published weights"
    )
    assert not [*tmp_path.iterdir()]
