"""Trains one network from scratch, or from weights that exist, and exports its files.

    python -m experiments.train --network=proxyless_mobile
    python -m experiments.train --network=runs/FOLDER_OF_A_SEARCH --start=supernet
    python -m experiments.train --network=efficientnet_lite0 --weights=imagenet

The recipe is that of ProxylessNAS for its mobile network: SGD with Nesterov momentum, a cosine
learning rate, label smoothing, no weight decay on batch norm, dropout. Every epoch is evaluated on
held-out training examples. The weights of the best epoch at the deployment size are tested once and
exported. The same command resumes a stopped run.
"""

import contextlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.runs import program, summary
from experiments.runs.delivery import deliver
from experiments.runs.device import find_device
from experiments.runs.picture_check import check_pictures
from experiments.runs.run_folder import Workdir, finished
from experiments.train import page
from experiments.train.config import TrainConfig, config_from_flags, define_flags
from experiments.train.fit import fit
from experiments.train.published_weights import with_published_weights
from experiments.train.supernet_weights import check_split, from_supernet
from jaxnas import data, parallel
from jaxnas.network import Network
from profiling import command
from profiling.database import Store
from profiling.progress import Progress


def main(argv: Sequence[str]) -> int:
    """Runs a training by the flags; returns the exit status."""
    del argv
    return program.run(train)


def train() -> int:
    """Checks the flags, runs or resumes the training, prints its summary; returns the status."""
    program.join_processes()
    with command.usage_errors():
        config = config_from_flags()
        parallel.layout().check_batch_size(config.batch_size)
        result = parallel.from_process_0(lambda: finished(config))
        if result is None:
            parts = config.parts()
            parallel.from_process_0(lambda: check_pictures(config.dataset))
            config.training.epoch_steps(len(parts.weights), config.dataset)
            network = starting_network(config, parts.weights)
            store = command.open_store(config.store) if parallel.is_process_0() else None
            workdir = Workdir(config)
    if result is None:
        with (
            store or contextlib.nullcontext(),
            workdir,
            Progress(quiet=not parallel.is_process_0()) as progress,
            workdir.timing(progress),
        ):
            result = run(config, network, parts, store, workdir, progress)
    elif parallel.is_process_0():
        print("this run is done; another --workdir or --seed makes another", file=sys.stderr)
    folder = pathlib.Path(config.workdir)
    if parallel.is_process_0():
        with command.usage_errors(), summary.reading_result(folder):
            summary.show(result, config.chosen.spec(result["num_classes"]), config.title, folder)
    return 0


def starting_network(config: TrainConfig, part: data.Part) -> Network:
    """Returns the network with its initial weights; published ones get a layer for the part.

    Raises:
      ValueError: the supernet of --start=supernet does not match.
      CheckpointUnreadable: all checkpoints of the supernet are damaged.
    """
    num_classes = data.dataset(config.dataset).num_classes
    if config.start == "supernet":
        folder = pathlib.Path(config.network)
        network = from_supernet(folder, num_classes)
        check_split(folder, config)
        return network
    if config.weights is not None:
        spec = config.chosen.spec(num_classes)
        return with_published_weights(spec, part, config.training.train_image_size, config.seed)
    spec = config.chosen.spec(num_classes, "jaxnas")
    return Network(spec, rng=np.random.default_rng(config.seed))


def run(
    config: TrainConfig,
    network: Network,
    parts: data.Parts,
    store: Store | None,
    workdir: Workdir,
    progress: Progress,
) -> dict[str, Any]:
    """Runs the whole training; returns the document of result.json.

    Args:
      config: configuration of the training.
      network: network with its initial weights.
      parts: parts of the data set.
      store: stores the measurements; None in all processes but process 0.
      workdir: folder of the run.
      progress: shows the phases.
    """
    workdir.write_json("architecture.json", {"schema": 1, **config.chosen.document()})
    fitted = fit(config.training, config.identity(), network, parts, workdir, progress)

    def delivered() -> dict[str, Any]:
        # The device is opened only now: a training takes days, and a stick serves one process.
        assert store is not None  # this is process 0
        found = find_device(config, store, progress, "The network is not measured.")
        with found or contextlib.nullcontext() as device:
            return deliver(
                network,
                fitted.top1,
                parts.test,
                config.image_size,
                config.title,
                device,
                config.options,
                workdir.path,
                progress,
            )

    result = {
        "schema": 2,
        **config.chosen.document(),
        "start": config.start,
        "weights": config.weights,
        "device": config.device,
        "settings": config.options.settings(),
        **parallel.from_process_0(delivered),
        "held_out": fitted.held_out,
    }
    workdir.record_time(progress)
    parallel.from_process_0(lambda: page.write(workdir.path, result))
    workdir.write_json("result.json", result)
    return result


if __name__ == "__main__":
    define_flags()
    program.define_process_flags()
    command.run(main)
