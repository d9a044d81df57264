"""Peak rates of accelerators, from their makers' pages."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak figures of one chip.

    Attributes:
      memory_gb: memory in 10⁹ bytes.
      tflops: 10¹² operations a second on bfloat16 matrices, dense.
      memory_gb_s: bytes to and from memory, 10⁹ a second.
      link_gb_s: bytes that a chip sends over all its links together, 10⁹ a second in one direction.
      network_gb_s: the same from a chip to those that no link connects it to.
      group: number of chips that the links connect.
    """

    memory_gb: float
    tflops: float
    memory_gb_s: float
    link_gb_s: float
    network_gb_s: float
    group: int

    def sum_gb_s(self, chips: int) -> float:
        """Returns the rate at which a chip sends its part of a sum over a number of chips.

        Beyond a group, the chips of a group first sum among themselves. Each then sends a share of
        the result by its own adapter.
        """
        if chips <= self.group:
            return self.link_gb_s
        return min(self.link_gb_s, self.group * self.network_gb_s)


# Google's pages of its TPU versions. The links connect a whole slice.
TPUS = {
    "v4": Chip(32, 275, 1200, 300, 300, 4096),
    "v5e": Chip(16, 197, 819, 200, 200, 256),
    "v5p": Chip(95, 459, 2765, 600, 600, 8960),
    "v6e": Chip(32, 918, 1600, 400, 400, 256),
}
# NVIDIA's data sheets of the SXM modules and of the DGX systems, which have a network adapter of
# 200 (A100) or 400 Gbit/s (H100) for each GPU.
GPUS = {
    "A100": Chip(80, 312, 2039, 300, 25, 8),
    "H100": Chip(80, 989, 3350, 450, 50, 8),
}
