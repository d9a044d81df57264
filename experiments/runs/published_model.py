"""Writes the files of a published network with its published weights."""

import pathlib

from experiments.runs.config import default_workdir
from experiments.runs.delivery import ONNX, write_files
from jaxnas import data, pretrained
from jaxnas.data.imagenet import synsets
from profiling import command


def write_model(name: str, weights: str | None, image_size: int) -> pathlib.Path:
    """Writes the files in a folder of runs/; returns the ONNX file.

    Args:
      name: name of the published network.
      weights: value of --weights.
      image_size: size of its input in px.

    Raises:
      ValueError: no weights are asked for, the network has none, or they are not installed; or the
        folder cannot be written.
    """
    if weights is None:
        raise ValueError(
            f"--model={name} is a published network, which needs weights: add --weights=imagenet, "
            f"or give the folder of a run or a file"
        )
    pretrained.check_network(name)
    network = pretrained.pretrained(pretrained.NUM_CLASSES)
    folder = command.output_folder("model", default_workdir(name, weights, f"{image_size}px"))
    crop_fraction = data.SPECS["imagenet2012"].eval_fraction
    write_files(network, image_size, synsets(), crop_fraction, folder)
    return folder / ONNX
