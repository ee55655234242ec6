"""The image with parts hidden."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segtrans.data.base import VOID
from segtrans.errors import check_whole
from segtrans.random import Draw
from segtrans.transforms.base import Transform


@dataclass(frozen=True, kw_only=True)
class MaskBlocks(Transform):
    """Blackens one cell of a grid per copy (MaskBlock, Fan et al., arXiv 2208.06538).

    The authors' cells have 56 pixels a side; ours are a share of the image, so that the number of copies does not grow
    with it. With as many copies as cells, copy i hides cell i, counted row by row; with any other number every copy
    hides a random one. A cell of an image with fewer rows or columns than the grid may hold no pixel.

    Attributes:
        grid: cells per side.
    """

    moves: ClassVar[bool] = False

    copies: int = 16
    grid: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("MaskBlocks grid", self.grid, 1)

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        cells = self.grid**2
        cell = draw.copy if self.copies == cells else draw.integers(torch.full_like(draw.copy, cells))
        rows, cols = (torch.arange(side, device=x.device) * self.grid // side for side in x.shape[-2:])
        row, col = cell // self.grid, cell % self.grid
        hidden = (rows == row[:, None])[:, :, None] & (cols == col[:, None])[:, None, :]
        return x.masked_fill(hidden[:, None], 0), y.masked_fill(hidden, VOID)
