"""Padding of convolutions with zeros.

Both kinds give ceil(size / stride) pixels. They differ at strides above 1, where SAME may have
fewer zeros in front (one row and column fewer at stride 2 and even sizes), so the weights of one
kind are of no use with the other.
"""

from typing import Literal

Padding = Literal["symmetric", "same"]
Sides = tuple[tuple[int, int], tuple[int, int]]  # before and after, for height and width


def sides(padding: Padding, height_width: tuple[int, int], kernel: int, stride: int) -> Sides:
    """Returns the zeros before and after each axis.

    Args:
      padding: `symmetric`: kernel // 2 on each side, as PyTorch's networks have it. `same`:
        TensorFlow's SAME, as many as the windows need, half of them in front, rounded down.
      height_width: size of the input in px.
      kernel: size of the kernel, odd.
      stride: stride along both axes.
    """
    if padding == "symmetric":
        return ((kernel // 2, kernel // 2),) * 2
    height, width = (_same(size, kernel, stride) for size in height_width)
    return height, width


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2
