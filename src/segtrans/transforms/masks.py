"""The image with parts hidden."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segtrans.data.base import VOID
from segtrans.errors import UsageError, check_whole
from segtrans.random import Draw
from segtrans.transforms.base import Transform, first_copy


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
        rows, cols = _cells(x, self.grid)
        row, col = cell // self.grid, cell % self.grid
        hidden = (rows == row[:, None])[:, :, None] & (cols == col[:, None])[:, None, :]
        return x.masked_fill(hidden[:, None], 0), y.masked_fill(hidden, VOID)


@dataclass(frozen=True, kw_only=True)
class CellMask(Transform):
    """Shows random cells of an even grid and hides the others under one colour, void.

    With ``whole_first`` this is the untargeted core of Everywhere Attack (Zeng et al., AAAI 2025, arXiv 2501.00707),
    which drives the whole image and single cells of it towards a target together; it picks different cells for its
    copies, here every copy draws its own.

    Attributes:
        grid: cells per side.
        kept: how many cells stay.
        fill: the colour of hidden cells, by default the mean of ImageNet.
        whole_first: leave the first copy as it is.
    """

    moves: ClassVar[bool] = False

    grid: int = 4
    kept: int = 8
    fill: tuple[float, float, float] = (0.485, 0.456, 0.406)
    whole_first: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("CellMask grid", self.grid, 1)
        check_whole("CellMask kept", self.kept, 1)
        if self.kept > self.grid**2:
            raise UsageError(f"CellMask kept is {self.kept}; allowed are at most grid² = {self.grid**2} cells")
        if len(self.fill) != 3 or not all(0 <= value <= 1 for value in self.fill):
            raise UsageError(f"CellMask fill is {self.fill}; allowed are three numbers from 0 to 1")

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        shown = self.shown(x, draw)
        fill = torch.stack([x.new_full((1, 1), value) for value in self.fill])
        return torch.where(shown[:, None], x, fill), y.where(shown, VOID)

    def shown(self, x: Tensor, draw: Draw) -> Tensor:
        """Which pixels stay, (B, H, W)."""
        rank = draw.uniform(self.grid**2).argsort(stable=True).argsort(1)
        row_cell, col_cell = _cells(x, self.grid)
        shown = rank[:, row_cell[:, None] * self.grid + col_cell] < self.kept
        return shown | (first_copy(draw) & self.whole_first)


def _cells(x: Tensor, grid: int) -> tuple[Tensor, ...]:
    """Which row of an even grid's cells every row of pixels is in, (H,), and which column every column, (W,)."""
    return tuple(torch.arange(side, device=x.device) * grid // side for side in x.shape[-2:])
