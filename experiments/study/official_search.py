"""Runs the search of the official ProxylessNAS code on this project's pictures and latency table.

The code is the folder `search` of a clone of https://github.com/mit-han-lab/proxylessnas (Cai, Zhu,
Han: ProxylessNAS, ICLR 2019). Nothing of it is in this repository, and none of its files changes:
its supernet, gates, losses, optimizers and loops are imported and called. Replaced are the data,
the latency table of a phone, the constructor of `RunManager`, which requires a GPU, the evaluation
mode of `net_flops`, `accuracy`, which fails from PyTorch 1.7 on, and the default of `zero_grad`.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import pathlib
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from experiments.runs.loop import NonFiniteLoss
from experiments.search.config import Config
from experiments.search.schedule import Schedule
from experiments.study.official_inputs import TEST_BATCH, HeldOut, OfficialTable, Training
from jaxnas import data
from jaxnas.latency import LatencyTable

REPOSITORY = "https://github.com/mit-han-lab/proxylessnas"
_NEEDS = ("torch", "yaml")
_MODES = {"two": "two", "full": "full_v2"}  # estimators by the official names


def check(code: pathlib.Path, config: Config) -> None:
    """Raises ValueError where the official code cannot search as a configuration asks.

    Args:
      code: folder `search` of its clone.
      config: configuration of the search.
    """
    if not (code / "nas_manager.py").is_file():
        raise ValueError(
            f"--official_code={code} has no nas_manager.py: give the folder `search` of a clone "
            f"of {REPOSITORY}"
        )
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"--official_code needs {' and '.join(missing)}: pip install torch pyyaml")
    for name, value, allowed in (
        ("space", config.space, ("proxyless",)),
        ("estimator", config.estimator, tuple(_MODES)),
        ("precision", config.precision, ("f32",)),
        ("warmup_learning_rate", config.warmup_learning_rate, (0.05,)),
        ("base_batch_size", config.alpha_batch_size, (config.batch_size,)),
        ("batch_norm_group", config.batch_norm_group, range(config.batch_size, 1 << 31)),
        ("latency_control", config.latency_control, ("fixed", "dual")),
        ("finalists", config.finalists, (1,)),
    ):
        if value not in allowed:
            choices = (
                f"at least {allowed[0]}"
                if isinstance(allowed, range)
                else " or ".join(map(str, allowed))
            )
            raise ValueError(
                f"--{name}={value}: a study with --official_code takes {choices}; both searches "
                f"would not be alike otherwise"
            )


def check_epoch(config: Config, epoch_steps: int) -> None:
    """Raises ValueError where an epoch's weight steps are no multiple of `alpha_every`.

    The official code counts them anew in each epoch, our search does not.
    """
    if epoch_steps % config.alpha_every:
        raise ValueError(
            f"--official_code: an epoch has {epoch_steps} weight steps; give --train_examples or "
            f"--batch_size with a multiple of --alpha_every={config.alpha_every}"
        )


def provenance(code: pathlib.Path) -> dict[str, str]:
    """Returns the commit of the clone and the version of PyTorch, for study.json."""
    commit = ""
    if shutil.which("git"):
        command = ["git", "-C", str(code), "rev-parse", "--show-toplevel", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # Without a clone of its own, the code may lie within another one.
        top, _, head = done.stdout.strip().partition("\n")
        if pathlib.Path(top) in (code.resolve(), code.resolve().parent):
            commit = head
    return {"commit": commit or "unknown", "pytorch": importlib.metadata.version("torch")}


def learned_alpha(
    code: pathlib.Path,
    config: Config,
    parts: data.Parts,
    table: LatencyTable,
    folder: pathlib.Path,
) -> np.ndarray:
    """Searches by the official code and returns its α, float32 [blocks, candidates].

    Epochs, learning rates, batches and their order are those of our search with this configuration.
    Other parameters have the defaults of `imagenet_arch_search.py`. λ is fixed, because the
    official code does not adapt it. A search that was stopped starts again.

    Args:
      code: folder `search` of its clone.
      config: checked configuration.
      parts: the data.
      table: latency table of the space.
      folder: gets the official code's logs, and what it prints.

    Raises:
      NonFiniteLoss: α has become infinite or not a number.
    """
    torch = importlib.import_module("torch")
    space, output = config.search_space, folder / "official"
    shutil.rmtree(output, ignore_errors=True)  # of a search that was stopped
    epoch_steps = Schedule.of(config, len(parts.weights)).epoch_steps
    with (
        contextlib.closing(Training(parts.weights, config, epoch_steps)) as training,
        contextlib.closing(HeldOut(parts.alpha, config)) as held_out,
        (folder / "official.log").open("w") as log,
        contextlib.redirect_stdout(log),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # those of the official code in a newer PyTorch
        official = _imported(code)
        torch.manual_seed(config.seed)
        np.random.seed(config.seed)
        supernet = official.SuperProxylessNASNets(
            width_stages=[block.out_channels for block in space.blocks],
            n_cell_stages=[1] * len(space.blocks),
            stride_stages=[block.stride for block in space.blocks],
            conv_candidates=[
                f"{c.kernel}x{c.kernel}_MBConv{c.expansion}" for c in space.convolutions
            ],
            n_classes=data.dataset(config.dataset).num_classes,
        )
        edges = list(supernet.redundant_modules)  # the supernet loses them at the end
        run_config = _run_config(official, config)
        size = config.search_image_size
        run_config.data_provider = SimpleNamespace(
            train=training, valid=held_out, data_shape=(3, size, size)
        )
        manager = official.ArchSearchRunManager(
            str(output), supernet, run_config, _arch_config(official, config)
        )
        manager.run_manager.latency_estimator = OfficialTable(space, table)
        manager.warm_up(warmup_epochs=config.warmup_epochs)
        manager.train()
    for written in ("checkpoint", "learned_net"):  # 170 MB that nobody reads
        shutil.rmtree(output / written)
    alpha = np.zeros(space.allowed.shape, np.float32)
    alpha[space.allowed] = np.concatenate([edge.AP_path_alpha.data.numpy() for edge in edges])
    if not np.isfinite(alpha).all():
        raise NonFiniteLoss(f"α of the official code's search in {folder} is not finite")
    return alpha


def _run_config(official: SimpleNamespace, config: Config) -> Any:
    return official.ImagenetRunConfig(
        n_epochs=config.search_epochs,
        init_lr=config.search_learning_rate,
        train_batch_size=config.batch_size,
        test_batch_size=TEST_BATCH,
        opt_param={"momentum": 0.9, "nesterov": True},
        weight_decay=config.weight_decay,
        label_smoothing=config.label_smoothing,
        no_decay_keys=None,
        validation_frequency=config.search_epochs,
    )


def _arch_config(official: SimpleNamespace, config: Config) -> Any:
    return official.GradientArchSearchConfig(
        arch_lr=config.alpha_learning_rate,
        arch_opt_param={"betas": (0.0, 0.999), "eps": 1e-8},
        target_hardware="mobile",  # the one that adds up a table's entries
        ref_value=config.target_ms,
        grad_update_arch_param_every=config.alpha_every,
        grad_binary_mode=_MODES[config.estimator],
        grad_data_batch=config.alpha_batch_size,
        grad_reg_loss_type="add#linear",
        grad_reg_loss_params={"lambda": config.latency_weight},
    )


def _imported(code: pathlib.Path) -> SimpleNamespace:
    """Returns the names of the official code that a search needs."""
    sys.path.insert(0, str(code.resolve()))
    try:
        models = importlib.import_module("models")  # first: it and run_manager import each other
        manager = importlib.import_module("nas_manager")
        supernets = importlib.import_module("models.super_nets.super_proxyless")
    finally:
        sys.path.remove(str(code.resolve()))
    runs = importlib.import_module("run_manager")
    manager.RunManager = _on_cpu(runs.RunManager)  # type: ignore[attr-defined]
    for module in (manager, runs):
        module.accuracy = _accuracy  # type: ignore[attr-defined]
    return SimpleNamespace(
        SuperProxylessNASNets=supernets.SuperProxylessNASNets,
        ImagenetRunConfig=models.ImagenetRunConfig,
        GradientArchSearchConfig=manager.GradientArchSearchConfig,
        ArchSearchRunManager=manager.ArchSearchRunManager,
    )


def _on_cpu(run_manager: Any) -> Any:
    """Returns the official `RunManager` with a constructor that needs no GPU."""
    torch = importlib.import_module("torch")

    class OnCpu(run_manager):
        def __init__(self, path: str, net: Any, run_config: Any, out_log: bool = True):
            self.path, self.run_config, self.out_log = path, run_config, out_log
            self._logs_path = self._save_path = None
            self.best_acc = self.start_epoch = 0
            net.init_model(run_config.model_init, run_config.init_div_groups)
            self.device = torch.device("cpu")
            self.net = torch.nn.DataParallel(net)  # for its attribute `module`
            self.net.device_ids = []  # a GPU, where there is one, is not used
            net.to(self.device, memory_format=torch.channels_last)  # half the time of a step
            # As in the PyTorch of its time. Otherwise a gate without a gradient has None, the
            # official code catches the AttributeError, and latency alone updates its block's α.
            self.net.zero_grad = functools.partial(self.net.zero_grad, set_to_none=False)
            self.criterion = torch.nn.CrossEntropyLoss()
            self.optimizer = run_config.build_optimizer(net.weight_parameters())

        def net_flops(self) -> Any:
            """Counts, for the log, outside training: batch norm cannot take one pixel."""
            self.net.eval()
            flops = super().net_flops()
            self.net.train()
            return flops

    return OnCpu


def _accuracy(output: Any, target: Any, topk: Sequence[int] = (1,)) -> list[Any]:
    """Returns the top-k accuracies in %, each of shape [1]; they enter no loss."""
    best = output.detach().topk(max(topk), 1).indices
    right = (best == target[:, None]).float()
    return [100 * right[:, :k].sum().reshape(1) / len(target) for k in topk]
