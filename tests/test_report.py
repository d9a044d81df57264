"""The page of a search, in a browser and made again; what it shows is what the run's files say."""

import dataclasses
import json
import pathlib
import re
import shlex
import shutil

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import report
from experiments.pages.repeat import command
from experiments.runs import answers
from experiments.runs.accuracy import Scores
from experiments.search import config, page
from experiments.search.path_scores import batch_scores
from jaxnas import data
from jaxnas.latency import LatencyTable
from tests.browser import least_width_px, open_page
from tests.conftest import same_bits
from tests.test_search import config_of, result_of, trainer_of

PHONE_PX = 390


@pytest.fixture(scope="module")
def opened(micro_searched):
    return open_page(micro_searched / "report.html")


@pytest.fixture
def copied(micro_searched, tmp_path) -> pathlib.Path:
    """A copy of the run's files, without checkpoints."""
    folder = tmp_path / "run"
    shutil.copytree(micro_searched, folder, ignore=shutil.ignore_patterns("checkpoints"))
    return folder


def section_of(text: str, anchor: str) -> str:
    """Returns the text of a section without its tags, with single blanks."""
    html = re.search(rf'<section id="{anchor}">(.*?)</section>', text, re.DOTALL)[1]
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_a_browser_finds_every_section_and_figure_and_reports_no_error(opened):
    assert opened.console == []
    sections = re.findall(r'<section id="([^"]+)"', opened.dom)
    assert sections == [
        "result",
        "network",
        "course",
        "milliseconds",
        "why",
        "pictures",
        "repeat",
    ]
    for name in ("networks", "course", "alpha", "training", "milliseconds"):
        figure = re.search(rf'<figure id="figure-{name}">(.*?)</figure>', opened.dom, re.DOTALL)[1]
        assert figure.count("<svg") == 1 and figure.count("<path") > 5, name
    assert opened.dom.count('src="data:image/jpeg') == answers.PICTURES


def test_an_error_on_a_page_would_be_found(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<script>throw new Error('broken')</script>")
    (message,) = open_page(page).console
    assert "Uncaught Error: broken" in message


def test_the_page_says_what_the_files_say(opened, micro_searched, micro_space):
    result = result_of(micro_searched)
    verdict = section_of(opened.dom, "result")
    for words in (
        f"{result['device_ms']:.2f} ms target 1.81 ms: ✓ met estimated, batch 1, 64 px",
        f"{result['accuracy']['top1']:.2%}",
        f"95 % interval {result['accuracy']['top1_low']:.1%}",
        f"MobileNetV2 {result['references']['mobilenet_v2']['device_ms']:.2f}",
        "MYRIADX_COMPILER, estimated",
    ):
        assert words in verdict, words
    table = LatencyTable.load(micro_searched / "latency_table.json", micro_space)
    milliseconds = section_of(opened.dom, "milliseconds")
    assert f"all {result['predicted_ms']:.3f} {result['device_ms']:.3f}" in milliseconds
    network = section_of(opened.dom, "network")
    assert result["architecture"] in network and "ProxylessNAS mobile" in network
    assert f"{table.candidate_ms[0, 0]:.2f} ms" in network
    assert network.count("✓") == 1 + len(micro_space.blocks)  # one in the description
    assert "entropy, nats" in opened.dom and "E[LAT], ms" in opened.dom


def test_the_layers_add_up_to_the_latency(micro_searched):
    latency = json.loads((micro_searched / "latency.json").read_text())
    total_ms = latency["host_ms"] + sum(layer["ms"] for layer in latency["layers"])
    assert total_ms == pytest.approx(result_of(micro_searched)["device_ms"], rel=1e-6)


def test_the_page_loads_nothing_and_fits_a_phone(micro_searched, tmp_path):
    text = (micro_searched / "report.html").read_text()
    links = re.findall(r'\b(?:href|src|action)="([^"]*)"', text)
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert "<script" not in text and "@import" not in text
    assert set(re.findall(r"url\((.)", text)) == {"#"}
    assert least_width_px(micro_searched / "report.html", PHONE_PX, tmp_path) <= PHONE_PX


def test_a_wide_page_would_not_fit_a_phone(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<div style='width: 800px'>wide</div>")
    assert least_width_px(page, PHONE_PX, tmp_path) > 800


def test_the_program_makes_the_same_page_again(micro_searched, copied, capsys):
    (copied / "report.html").unlink()
    assert report.main(["report", str(copied)]) == 0
    assert capsys.readouterr().out == f"{copied / 'report.html'}\n"
    assert (copied / "report.html").read_bytes() == (micro_searched / "report.html").read_bytes()


def test_text_of_users_is_text(copied):
    document = json.loads((copied / "answers.json").read_text())
    document["pictures"][0] |= {"class": '<script>throw "a"</script>', "answer": '"><b>$x$'}
    (copied / "answers.json").write_text(json.dumps(document))
    page.write(copied)
    opened = open_page(copied / "report.html")
    assert opened.console == [] and "<script" not in opened.dom and "<b>" not in opened.dom
    assert 'is &lt;script&gt;throw "a"&lt;/script&gt;' in opened.dom


def test_the_command_on_the_page_makes_the_same_run(search_flags, micro_searched):
    where = {"data_dir": "/data sets", "worker_prefix": "ssh lab-pi", "data_workers": 2}
    run = dataclasses.replace(config_of(micro_searched), **where)
    words = shlex.split(command("experiments.search", run).replace("\\\n", " "))
    assert words[:3] == ["python", "-m", "experiments.search"]
    assert words[-1] == "--workdir=NEW_FOLDER" and f"--space={run.space}" in words
    assert not any(word.startswith("--estimator") for word in words)  # at its default
    with flagsaver.flagsaver():
        for name in flags.FLAGS:  # other tests of this process have parsed some
            flags.FLAGS[name].unparse()
        flags.FLAGS(words[2:])
        again = config.config_from_flags()
    assert dataclasses.replace(again, workdir=run.workdir) == run


def test_each_block_s_next_best_choice_is_its_most_probable_other_one(micro_searched, micro_space):
    choices = json.loads((micro_searched / "choices.json").read_text())
    path = micro_space.path(micro_space.parse(choices["architecture"]))
    changed = path.copy()
    for block, column in zip(micro_space.blocks, path, strict=True):
        entry = choices["blocks"][block.name]
        assert sum(entry["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        others = dict(entry["probabilities"])
        del others[str(micro_space.candidates[column])]
        assert entry["next_best"]["candidate"] == max(others, key=others.__getitem__)
    other = choices["blocks"]["block02"]["next_best"]
    changed[2] = [str(candidate) for candidate in micro_space.candidates].index(other["candidate"])
    with trainer_of(config_of(micro_searched)) as trainer:
        assert choices["examples"] == 128
        before = jax.tree.map(np.array, trainer.state)
        top1, losses = zip(*batch_scores(trainer, [path, changed], 2), strict=True)
        assert top1 == (choices["inherited_top1"], other["inherited_top1"])
        known = (choices["inherited_loss"], other["inherited_loss"])
        assert losses == pytest.approx(known, rel=1e-5)  # compiled otherwise here
        assert same_bits(before, trainer.state)


def test_wrong_answers_come_first_then_the_least_sure():
    part = data.load("digits", seed=0).test
    labels = np.array([part[i]["label"] for i in range(len(part))])
    values = 10.0 * np.eye(10)[labels]
    values[7] = np.eye(10)[(labels[7] + 1) % 10]  # wrong, not sure
    values[9] = 5 * np.eye(10)[(labels[9] + 1) % 10]  # wrong, surer
    values[3] *= 0.1  # right, the least sure
    document = answers.document(Scores(values.astype(np.float32), labels, 1.0), part)
    shown = document["pictures"]
    assert document["wrong"] == 2 and len(shown) == 16
    assert [one["class"] for one in shown[:3]] == [part.class_names[labels[i]] for i in (9, 7, 3)]
    assert [one["class"] == one["answer"] for one in shown] == [False] * 2 + [True] * 14
    assert shown[0]["probability"] == pytest.approx(np.exp(5) / (np.exp(5) + 9), abs=1e-4)
    assert sum(one["count"] for one in document["confusions"]) == 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "has no sweep.json, compare.json or config.json; give the folder of a search"),
        (("config.json",), "has no result.json; let the run finish first"),
        (("config.json", "result.json"), "answers.json cannot be read (No such file"),
        (("sweep.json",), "sweep.json cannot be read"),
    ],
)
def test_refuses_what_is_no_finished_run_in_one_line(
    micro_searched, tmp_path, capsys, files, message
):
    for name in files:
        source = micro_searched / name
        (tmp_path / name).write_bytes(source.read_bytes() if source.exists() else b"{")
    shutil.copy(micro_searched / "metrics.jsonl", tmp_path)
    with pytest.raises(SystemExit) as ended:
        report.main(["report", str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith("error: ") and message in line
