"""Published accuracy and latency of the networks that `experiments.compare` compares with.

The poster is the work that this project implements: a network for Intel's Movidius MyriadX VPU,
found with ProxylessNAS and the VPU's latency in the loss. Its accuracy is on ImageNet 2012, its
latency on the Intel Neural Compute Stick 2 (NCS2) at batch 1.
"""

import dataclasses

POSTER = "the poster's table: ImageNet 2012, Neural Compute Stick 2, batch 1"
OFFICIAL = "the official repository, mit-han-lab/proxylessnas: ImageNet 2012"


@dataclasses.dataclass(frozen=True)
class Published:
    """Published values of one network.

    Attributes:
      title: name for people.
      top1_percent: top-1 on the validation images of ImageNet 2012.
      ncs2_ms: latency on the Neural Compute Stick 2; None if it was not published.
      source: source of the values.
    """

    title: str
    top1_percent: float
    ncs2_ms: float | None
    source: str


PUBLISHED = {
    "mobilenet_v2": Published("MobileNetV2", 71.9, 19.8, POSTER),
    "proxyless_mobile": Published("ProxylessNAS mobile", 74.6, 24.1, POSTER),
    "proxyless_cpu": Published("ProxylessNAS cpu", 75.29, None, OFFICIAL),
    "proxyless_gpu": Published("ProxylessNAS gpu", 75.08, None, OFFICIAL),
    "proxyless_mobile_14": Published("ProxylessNAS mobile 1.4", 76.7, None, OFFICIAL),
}

# Its blocks are not published, so it cannot be built and measured here.
POSTERS_FOUND = Published("found, as published", 72.8, 17.2, POSTER)
