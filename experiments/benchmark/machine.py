"""The machine that a benchmark runs on."""

import importlib.metadata
import os
import pathlib
import platform
from typing import Any

import jax

_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy", "openvino", "jax2onnx", "grain"),
    *("jax-cuda13-plugin", "nvidia-cudnn-cu13", "torch", "torchvision"),
)


def machine() -> dict[str, Any]:
    """Returns the host, its load (1 minute) and versions, without initializing JAX's devices."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")),
        platform.machine(),
    )
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a part reports its own missing packages
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "accelerator": None,
        "load": os.getloadavg()[0],
        "versions": versions,
    }


def accelerator() -> str | None:
    """Returns JAX's accelerator, None for the CPU; initializes JAX's devices."""
    device = jax.devices()[0]
    return None if device.platform == "cpu" else device.device_kind
