"""The section on how to run the files of a run, and how to repeat the run."""

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from experiments.pages.html import Node, section, table, tag
from experiments.pages.run_files import RunFiles
from experiments.runs import summary
from experiments.runs.config import RunConfig

_CONTENT = {
    "onnx": "the network for ONNX Runtime and others; takes pixels, 0 to 255",
    "ir": "the same for OpenVINO, with model.bin",
    "labels": "the class names in the order of the scores",
    "figure": "the drawing of the network",
    "blob": "the MyriadX executable that the latency belongs to",
    "archive": "an NN Archive for OAK cameras",
    "table": "milliseconds of every candidate of every block",
    "pareto": "the networks of the further budgets",
}
_DEVICE_FLAGS = ("device", "shaves", "threads", "worker_prefix", "store")  # profiling.command's
CODE = """import numpy, onnxruntime
from PIL import Image, ImageOps

names = open("labels.txt").read().splitlines()
session = onnxruntime.InferenceSession("model.onnx")
size = session.get_inputs()[0].shape[2:]
border = (1 - float(session.get_modelmeta().custom_metadata_map["crop_fraction"])) / 2
picture = ImageOps.exif_transpose(Image.open("picture.png")).convert("RGB")
image = numpy.asarray(ImageOps.fit(picture, size, Image.Resampling.BILINEAR, border))
(scores,) = session.run(None, {"image": image.transpose(2, 0, 1)[None]})
print(names[scores.argmax()])"""


def repeat(run: RunFiles, program: str, config: RunConfig) -> Element:
    """Returns the section.

    Args:
      run: files of the run.
      program: name of the program that made it, such as experiments.search.
      config: its configuration.
    """
    files = [
        (tag("code", name), _CONTENT[kind])
        for kind, name in run.result["files"].items()
        if kind in _CONTENT
    ]
    other_blob = summary.archive_latency(run.result)
    versions = {**run.result["software"], **run.result.get("versions", {})}
    facts: list[Node] = [
        tag("dt", "Seed"),
        tag("dd", str(config.seed)),
        tag("dt", "Software"),
        tag("dd", ", ".join(f"{name} {version}" for name, version in versions.items())),
        tag("dt", "Time"),
        tag("dd", _time(run.time), class_="time"),
    ]
    return section(
        "repeat",
        "Run the files, repeat the run",
        tag("p", "In the folder of this page are:"),
        table(("file", ""), files, (0, 1)),
        *(tag("p", f"{line}.") for line in other_blob),
        tag("p", "From the root of jaxnas, with FOLDER for the folder of this page:"),
        tag(
            "pre",
            "python -m experiments.predict --model=FOLDER PICTURE.jpg\n"
            "python -m experiments.evaluate --model=FOLDER",
        ),
        tag("p", "In this folder, with ONNX Runtime:"),
        tag("pre", CODE),
        tag("h3", "The run again"),
        tag("pre", command(program, config)),
        tag("dl", *facts),
        tag("p", "Equal flags, versions and processors give an equal network.", class_="quiet"),
    )


def command(program: str, config: RunConfig) -> str:
    """Returns the command that repeats a run in another folder, without flags at their defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(config) if field.metadata}
    words = [f"python -m {program}"]
    for name, value in dataclasses.asdict(config).items():
        is_flag = name in defaults or name in _DEVICE_FLAGS
        if not is_flag or name == "workdir" or value is None or value == defaults.get(name):
            continue
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no'}{name}")
        elif isinstance(value, list | tuple):
            words.append(f"--{name}={','.join(map(str, value))}")
        else:
            words.append(shlex.quote(f"--{name}={value}"))
    return " \\\n    ".join([*words, "--workdir=NEW_FOLDER"])


def _time(time: Mapping[str, Any]) -> str:
    """Returns how long a run took, and its phases over all its starts."""
    starts = time["starts"]
    phases: dict[str, float] = {}
    for start in starts:
        for name, seconds in start["phases"].items():
            phases[name] = phases.get(name, 0.0) + seconds
    shown = ", ".join(f"{name} {_clock(seconds)}" for name, seconds in phases.items())
    count = f" in {len(starts)} starts" if len(starts) > 1 else ""
    return f"{_clock(sum(start['seconds'] for start in starts))}{count} ({shown})"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
