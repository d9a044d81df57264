"""Published accuracy and latency of the networks that `experiments.compare` compares with.

The poster is the work that this project implements: a network for Intel's Movidius MyriadX VPU,
found with ProxylessNAS and the VPU's latency in the loss. Its accuracy is on ImageNet 2012, its
latency on the Intel Neural Compute Stick 2 (NCS2) at batch 1.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

POSTER = "the poster's table: ImageNet 2012, Neural Compute Stick 2, batch 1"
OFFICIAL = "the official repository, mit-han-lab/proxylessnas: ImageNet 2012"
REPVGG = "RepVGG, Ding et al. 2021: ImageNet 2012, trained with branches, merged after"
MOBILEONE = "MobileOne, Vasu et al. 2023: ImageNet 2012, trained with branches, merged after"
RESNET = "torchvision, IMAGENET1K_V1 weights: ImageNet 2012"
LITE = "EfficientNet-Lite, tensorflow/tpu: ImageNet 2012"
LUXONIS = "Luxonis, an OAK-D with 8 SHAVEs, USB included"
PUBLISHED_SIZE = 224  # px of all published figures


@dataclasses.dataclass(frozen=True)
class Published:
    """Published values of one network.

    Attributes:
      title: name for people.
      top1_percent: top-1 on the validation images of ImageNet 2012.
      ncs2_ms: latency on the Neural Compute Stick 2; None if it was not published.
      source: source of the values.
      oak_ms: latency on an OAK-D camera, as Luxonis measured it; None if not published.
    """

    title: str
    top1_percent: float
    ncs2_ms: float | None
    source: str
    oak_ms: float | None = None


PUBLISHED = {
    "mobilenet_v2": Published("MobileNetV2", 71.9, 19.8, POSTER),
    "proxyless_mobile": Published("ProxylessNAS mobile", 74.6, 24.1, POSTER),
    "proxyless_cpu": Published("ProxylessNAS cpu", 75.29, None, OFFICIAL),
    "proxyless_gpu": Published("ProxylessNAS gpu", 75.08, None, OFFICIAL),
    "proxyless_mobile_14": Published("ProxylessNAS mobile 1.4", 76.7, None, OFFICIAL),
    "repvgg_a0": Published("RepVGG-A0", 72.4, None, REPVGG),
    "repvgg_a1": Published("RepVGG-A1", 74.5, None, REPVGG),
    "mobileone_s0": Published("MobileOne-S0", 71.4, None, MOBILEONE, 11.1),
    "mobileone_s1": Published("MobileOne-S1", 75.9, None, MOBILEONE),
    "resnet_18": Published("ResNet-18", 69.8, None, RESNET, 19.7),
    "efficientnet_lite0": Published("EfficientNet-Lite0", 75.1, None, LITE),
}

_SHIPPED = pathlib.Path(__file__).with_name("published_latencies.json")
# Latencies of these two stand beside every found network's.
REFERENCES = ("mobilenet_v2", "proxyless_mobile")

# Its blocks are not published, so it cannot be built and measured here.
POSTERS_FOUND = Published("found, as published", 72.8, 17.2, POSTER)


def rivals(device: str, settings: Mapping[str, Any], image_size: int) -> dict[str, Any] | None:
    """Returns shipped latencies of the published networks, or None where there are none.

    They are of a comparison (`experiments.compare`) by MYRIADX_COMPILER: measuring eleven networks
    at the end of every search would take minutes.

    Args:
      device, settings: device of a run and its settings.
      image_size: deployment size of the run in px.

    Returns:
      The size, the number of classes and, by name of the network, the latency in ms.
    """
    document = json.loads(_SHIPPED.read_text())
    setup = document["devices"].get(device)
    if setup is None or setup["settings"] != dict(settings) or document["image_size"] != image_size:
        return None
    return {
        "image_size": image_size,
        "num_classes": document["num_classes"],
        "device_ms": {
            network["architecture"]: network["latency"][device]["ms"]
            for network in document["networks"]
        },
    }


def front(latencies_ms: Mapping[str, float]) -> list[str]:
    """Returns the networks that no faster one is as accurate as, the fastest first.

    Args:
      latencies_ms: latency by name of a published network.
    """
    best: list[str] = []
    for name in sorted(latencies_ms, key=lambda name: (latencies_ms[name], name)):
        if not best or PUBLISHED[name].top1_percent > PUBLISHED[best[-1]].top1_percent:
            best.append(name)
    return best
