"""Regions refilled with other regions of the same image."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from segtrans.errors import UsageError, check_whole
from segtrans.random import Draw
from segtrans.transforms.base import Transform, check_range, positions, resample


@dataclass(frozen=True, kw_only=True)
class Remap(Transform):
    """Cuts the image into regions and refills each with a random window of the same image, stretched to fit.

    Only local context survives: what a window shows is real, where it stands and what surrounds it is not. This is our
    reconstruction of SegTrans (Song et al., arXiv 2510.08922), of which only the abstract is public.

    Attributes:
        grid: regions per side.
        cuts: ``"random"`` draws the regions' sides in proportion to U(1, 2), ``"even"`` makes them equal.
        scale: bounds of a window's side as a multiple of its region's side, drawn uniformly; windows never leave the
            image.
        flip: which axes are mirrored, each with probability one half: ``"none"``, ``"horizontal"`` or ``"both"``.
    """

    grid: int = 2
    cuts: Literal["random", "even"] = "random"
    scale: tuple[float, float] = (0.8, 2.0)
    flip: Literal["none", "horizontal", "both"] = "horizontal"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("Remap grid", self.grid, 1)
        check_range("Remap scale", self.scale)
        if self.cuts not in ("random", "even"):
            raise UsageError(f"Remap cuts is {self.cuts!r}; allowed are 'random' and 'even'")
        if self.flip not in ("none", "horizontal", "both"):
            raise UsageError(f"Remap flip is {self.flip!r}; allowed are 'none', 'horizontal' and 'both'")

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        height, width = x.shape[-2:]
        row_edges, col_edges = self._edges(height, x, draw), self._edges(width, x, draw)
        scale = draw.uniform(self.grid, self.grid, low=self.scale[0], high=self.scale[1])
        row_cell = _cell_of(row_edges, height)[:, :, None]
        col_cell = _cell_of(col_edges, width)[:, None, :]
        rows = self._source(row_edges, scale, row_cell, row_cell, col_cell, height, draw, self.flip == "both")
        cols = self._source(
            col_edges, scale.mT, col_cell, row_cell, col_cell, width, draw, self.flip != "none", across=True
        )
        return resample(x, y, rows, cols)

    def _edges(self, size: int, like: Tensor, draw: Draw) -> Tensor:
        """Borders of the regions along one axis, (B, grid + 1), whole numbers from 0 to ``size``."""
        weights = draw.uniform(self.grid, low=1, high=2)
        if self.cuts == "even":
            weights = torch.ones_like(weights)
        share = weights.cumsum(1) / weights.sum(1, keepdim=True)
        inner = (share[:, :-1] * size).round().clamp(0, size)
        zero = inner.new_zeros(len(draw), 1)
        return torch.cat([zero, inner, zero + size], 1).to(like.dtype)

    def _source(
        self,
        edges: Tensor,
        scale: Tensor,
        along: Tensor,
        row_cell: Tensor,
        col_cell: Tensor,
        size: int,
        draw: Draw,
        mirror: bool,
        across: bool = False,
    ) -> Tensor:
        """Source coordinate, along one axis, of every pixel, (B, H, W)."""
        side = edges.diff(dim=1)
        window = (side[:, :, None] * scale).round().clamp(1, size)
        start = draw.integers((size + 1 - window).long()).to(edges.dtype)
        if across:
            window, start = window.mT, start.mT
        flipped = draw.chance(0.5 if mirror else 0.0, self.grid, self.grid)
        batch = torch.arange(len(draw), device=edges.device).view(-1, 1, 1)

        def of_pixel(of_cell: Tensor) -> Tensor:
            return of_cell[batch, row_cell, col_cell]

        at = positions(size, edges)
        at = at.view(1, 1, -1) if across else at.view(1, -1, 1)
        length = side[batch, along]
        local = at - edges[batch, along] + 0.5
        local = torch.where(of_pixel(flipped), length - local, local)
        source = local * (of_pixel(window) / length) - 0.5
        return of_pixel(start) + source.clamp_min(0).minimum(of_pixel(window) - 1)


def _cell_of(edges: Tensor, size: int) -> Tensor:
    """Which region each position along an axis falls into, (B, size)."""
    at = positions(size, edges)
    return (at[None, :, None] >= edges[:, None, 1:-1]).sum(-1)
