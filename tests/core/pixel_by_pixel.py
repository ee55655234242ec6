"""Transformations written a second time, as loops over pixels, and what they are tried on."""

from collections.abc import Callable

import torch
from torch import Tensor

from segtrans.data.base import VOID
from toys import images, labels

SIZE = (9, 14)
COUNT = 6
X, Y = images(COUNT, SIZE), labels(COUNT, SIZE, block=3)
"""Images small enough for such loops, and labels in patches, some of them void."""

SIDES = ("vertical_roll", "horizontal_roll", "vertical_flip", "horizontal_flip", "half_turn", "darken", "noise")
"""What the blocks of a structure may undergo; the first five move pixels."""


def at(x: Tensor, y: Tensor, row: float, col: float) -> tuple[Tensor, int]:
    """One image's colour between four pixels, and the label of the nearest; positions beyond the image are clamped."""
    height, width = y.shape
    row, col = min(max(row, 0.0), height - 1.0), min(max(col, 0.0), width - 1.0)
    r, c = min(int(row), height - 1), min(int(col), width - 1)
    below, beside = min(r + 1, height - 1), min(c + 1, width - 1)
    down, right = row - r, col - c
    colour = (1 - down) * ((1 - right) * x[:, r, c] + right * x[:, r, beside])
    return colour + down * ((1 - right) * x[:, below, c] + right * x[:, below, beside]), int(y[round(row), round(col)])


def picture(x: Tensor, y: Tensor, source: Callable[[int, int], tuple[float, float] | None]) -> tuple[Tensor, Tensor]:
    """One image and its labels read pixel by pixel; black and void where ``source`` is None."""
    image, label = torch.zeros_like(x), torch.full_like(y, VOID)
    for row in range(y.shape[0]):
        for col in range(y.shape[1]):
            if (place := source(row, col)) is not None:
                image[:, row, col], label[row, col] = at(x, y, *place)
    return image, label


def coordinates(size: tuple[int, int], batch: int) -> Tensor:
    """An image whose channels are row, column and 1, so that what arrives says where it came from."""
    rows, cols = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in size), indexing="ij")
    return torch.stack([rows, cols, torch.ones(size, dtype=torch.float64)]).expand(batch, -1, -1, -1)


def ids(size: tuple[int, int], count: int) -> Tensor:
    """Labels that tell all pixels of an image apart, beyond those of classes and void."""
    return torch.arange(size[0] * size[1]).view(1, *size).expand(count, -1, -1) + 1000
