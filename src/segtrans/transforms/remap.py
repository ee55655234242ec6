"""Regions refilled with other regions of the same image."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from segtrans.devices import CPU, sent
from segtrans.errors import UsageError, check_choice, check_number, check_whole
from segtrans.random import Draw
from segtrans.transforms.base import Transform, check_range, positions, resample


@dataclass(frozen=True, kw_only=True)
class Remap(Transform):
    """Cuts the image into regions and refills each with a window around another of them, stretched to fit.

    Only local context survives: what a window shows is real, where it stands and what surrounds it is not. This is our
    reconstruction of SegTrans (Song et al., arXiv 2510.08922), of which only the abstract is public.

    Which region is refilled from which is a random permutation, so that one gradient reaches all of the image: a window
    is centred on a random point of the region it comes from, then moved inside the image. Regions that keep what they
    show stay out of the permutation.

    Attributes:
        grid: regions per side; of several numbers each image draws one.
        cuts: ``"random"`` draws the regions' sides in proportion to U(1, 2), ``"even"`` makes them equal.
        window: bounds of a window's side as a share of the image's side, drawn uniformly, where its region has average
            size; windows of larger regions are larger in proportion.
        flip: which axes are mirrored, each with probability one half: ``"none"``, ``"horizontal"`` or ``"both"``.
        keep: how often a region keeps what it shows, in its place.
        probability: how often an image is remapped at all; otherwise it stays as it is.
    """

    grid: int | tuple[int, ...] = (1, 2)
    cuts: Literal["random", "even"] = "random"
    window: tuple[float, float] = (0.5, 1.0)
    flip: Literal["none", "horizontal", "both"] = "horizontal"
    keep: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self._grids:
            raise UsageError("Remap grid is (); allowed are one or more whole numbers from 1")
        for number in self._grids:
            check_whole("Remap grid", number, 1)
        check_range("Remap window", self.window)
        check_choice("Remap cuts", self.cuts, ("random", "even"))
        check_choice("Remap flip", self.flip, ("none", "horizontal", "both"))
        check_number("Remap keep", self.keep, 0, 1)
        check_number("Remap probability", self.probability, 0, 1)

    @property
    def _grids(self) -> tuple[int, ...]:
        return self.grid if isinstance(self.grid, tuple) else (self.grid,)

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        # Where regions lie and what they are read from is worked out on the CPU, since it is many operations on few
        # numbers, of each of which a GPU would have to be told.
        draw, choices = draw.on_cpu(), torch.tensor(self._grids, device=CPU)
        # Images of a smaller grid have regions without extent at the end of their rows and columns.
        grid = choices[draw.integers(choices.new_full((len(draw),), len(choices)))]
        most, (height, width) = max(self._grids), x.shape[-2:]
        tops, lefts = self._edges(height, grid, draw), self._edges(width, grid, draw)
        inside = torch.arange(most, device=CPU) < grid[:, None]
        used = inside[:, :, None] & inside[:, None]
        kept = draw.chance(self.keep, most, most) if self.keep else torch.zeros_like(used)
        origin = _permutation(used & ~kept, draw)
        scale = draw.uniform(most, most, low=self.window[0], high=self.window[1]) * grid.view(-1, 1, 1)
        row = _sources(tops, origin // most, scale, kept, height, draw, mirrored=self.flip == "both")
        col = _sources(lefts, (origin % most).mT, scale.mT, kept.mT, width, draw, mirrored=self.flip != "none").mT
        if self.probability < 1:
            remapped = draw.chance(self.probability, 1, 1)
            row = torch.where(remapped, row, positions(height, row)[:, None])
            col = torch.where(remapped, col, positions(width, col))
        row, col, across, down = (
            sent(values, x.device) for values in (row, col, _region_of(lefts, width), _region_of(tops, height))
        )
        rows = row.gather(2, across[:, None].expand(-1, height, -1))
        cols = col.gather(1, down[:, :, None].expand(-1, -1, width))
        return resample(x, y, rows, cols)

    def _edges(self, size: int, grid: Tensor, draw: Draw) -> Tensor:
        """Borders of the regions along one axis, (B, most + 1), whole numbers from 0 to ``size``."""
        most = max(self._grids)
        weights = draw.uniform(most, low=1, high=2)
        if self.cuts == "even":
            weights = torch.ones_like(weights)
        weights = weights * (torch.arange(most, device=CPU) < grid[:, None])
        share = weights.cumsum(1) / weights.sum(1, keepdim=True)
        zero = share.new_zeros(len(draw), 1)
        return torch.cat([zero, (share[:, :-1] * size).round().clamp(0, size), zero + size], 1)


def _permutation(moved: Tensor, draw: Draw) -> Tensor:
    """Of regions (B, rows, columns) the number, row by row, of the one that each that moves is refilled from."""
    flat = moved.flatten(1)
    order = draw.uniform(flat.shape[1]).where(flat, 2).argsort(1)
    # The k-th of the regions that move takes the k-th number of a random order of them.
    return order.gather(1, (flat.cumsum(1) - 1).clamp_min(0)).view(moved.shape)


def _sources(
    edges: Tensor, origin: Tensor, scale: Tensor, kept: Tensor, size: int, draw: Draw, *, mirrored: bool
) -> Tensor:
    """What positions along one axis are read from, (B, size, most): it depends on the region across, too.

    ``origin``, ``scale`` and ``kept`` are of regions (B, most along the axis, most across).
    """
    most = scale.shape[1]
    sides = edges.diff(dim=1)
    window = (sides[:, :, None] * scale).round().clamp(1, size)
    first, side = (values.gather(1, origin.flatten(1)).view(origin.shape) for values in (edges[:, :-1], sides))
    centre = first + draw.uniform(most, most) * side
    start = (centre - window / 2).round().clamp_min(0).minimum(size - window)
    flipped = draw.chance(0.5 if mirrored else 0.0, most, most)
    region = _region_of(edges, size)

    def along(of_region: Tensor) -> Tensor:
        return of_region.gather(1, region[:, :, None].expand(-1, -1, most))

    begin, side = (values.gather(1, region)[:, :, None] for values in (edges, sides))
    here = positions(size, edges).view(1, -1, 1)
    at = here - begin + 0.5
    at = torch.where(along(flipped), side - at, at)
    window = along(window)
    there = along(start) + (at * (window / side) - 0.5).clamp_min(0).minimum(window - 1)
    return torch.where(along(kept), here, there)


def _region_of(edges: Tensor, size: int) -> Tensor:
    """Which region each position along an axis falls into, (B, size)."""
    return (positions(size, edges)[None, :, None] >= edges[:, None, 1:-1]).sum(-1)
