"""What accelerators can do at best, from their makers' pages."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak figures of one chip.

    Attributes:
      memory_gb: memory in 10⁹ bytes.
      tflops: 10¹² operations a second on bfloat16 matrices, dense.
      memory_gb_s: bytes to and from memory, 10⁹ a second.
      link_gb_s: bytes that a chip sends to its neighbors, 10⁹ a second in one direction.
      network_gb_s: the same across groups of `group` chips.
      group: number of chips that the links connect.
    """

    memory_gb: float
    tflops: float
    memory_gb_s: float
    link_gb_s: float
    network_gb_s: float
    group: int


# Google's pages of its TPU versions. The links connect a whole slice.
TPUS = {
    "v4": Chip(32, 275, 1228, 300, 300, 4096),
    "v5e": Chip(16, 197, 819, 200, 200, 256),
    "v5p": Chip(95, 459, 2765, 600, 600, 8960),
    "v6e": Chip(32, 918, 1640, 400, 400, 256),
}
# NVIDIA's data sheets of the SXM modules and of the DGX systems, which have a network adapter of
# 200 (A100) or 400 Gbit/s (H100) for each GPU.
GPUS = {
    "A100": Chip(80, 312, 2039, 300, 25, 8),
    "H100": Chip(80, 989, 3350, 450, 50, 8),
}
