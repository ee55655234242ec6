"""Input transformations: (images, labels) → (images, labels), with every label moving along with its pixel."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.data.base import VOID
from segtrans.errors import UsageError, check_whole
from segtrans.random import Draw


@dataclass(frozen=True, kw_only=True)
class Transform(ABC):
    """Changes what the surrogate sees; the gradient flows back through it to the original pixels.

    ``copies`` is how many differently transformed copies of an image one gradient is averaged over; which of them an
    item is, ``draw.copy`` says.
    """

    copies: int = 1

    def __post_init__(self) -> None:
        check_whole(f"{type(self).__name__} copies", self.copies, 1)

    @abstractmethod
    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and labels (B, H, W), 255 = void, to transformed ones; differentiable in ``x``."""


def _check_range(name: str, bounds: tuple[float, float]) -> None:
    if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
        raise UsageError(f"{name} is {bounds}; allowed are two positive numbers, the smaller first")


def resample(x: Tensor, y: Tensor, rows: Tensor, cols: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Images and labels read at fractional source positions: bilinear for images, nearest for labels.

    Whole-numbered positions copy pixels exactly, and pixels that are read nowhere get exactly zero gradient, neither of
    which ``grid_sample`` grants, since it rounds its normalised coordinates.

    Args:
        x, y: (B, 3, H, W) and (B, H, W).
        rows, cols: source position of every output pixel, (B, h, w), clamped to the image.
        inside: (B, h, w), false where the output is black and void.
    """
    height, width = x.shape[-2:]
    rows, cols = rows.clamp(0, height - 1), cols.clamp(0, width - 1)
    top, left = rows.floor(), cols.floor()
    down, right = (rows - top)[:, None], (cols - left)[:, None]
    first, second = top.long(), left.long()
    below, beside = (first + 1).clamp_max(height - 1), (second + 1).clamp_max(width - 1)
    flat = x.flatten(2)

    def at(r: Tensor, c: Tensor) -> Tensor:
        index = (r * width + c).flatten(1)[:, None].expand(-1, x.shape[1], -1)
        return flat.gather(2, index).view(*x.shape[:2], *rows.shape[1:])

    upper = at(first, second) * (1 - right) + at(first, beside) * right
    lower = at(below, second) * (1 - right) + at(below, beside) * right
    image = upper * (1 - down) + lower * down
    nearest = (rows.round().long() * width + cols.round().long()).flatten(1)
    label = y.flatten(1).gather(1, nearest).view(rows.shape)
    if inside is None:
        return image, label
    return image * inside[:, None], label.where(inside, VOID)


def positions(size: int, like: Tensor) -> Tensor:
    """0 … size-1 in the dtype and on the device of ``like``."""
    return torch.arange(size, dtype=like.dtype, device=like.device)


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
    flip: Literal["none", "horizontal", "both"] = "both"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("Remap grid", self.grid, 1)
        _check_range("Remap scale", self.scale)
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


@dataclass(frozen=True, kw_only=True)
class Resize(Transform):
    """Shrinks the image by a random factor and puts it somewhere on a black canvas of the original size
    (input diversity, DI-FGSM, Xie et al., CVPR 2019); labels shrink along, the canvas is void.

    Attributes:
        scale: bounds of the factor, at most 1. The paper's 299 → [299, 330) corresponds to (0.9, 1).
        probability: how often an image is changed at all.
    """

    scale: tuple[float, float] = (0.9, 1.0)
    probability: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("Resize scale", self.scale)
        if self.scale[1] > 1:
            raise UsageError(f"Resize scale is {self.scale}; allowed are factors up to 1")
        if not 0 <= self.probability <= 1:
            raise UsageError(f"Resize probability is {self.probability}; allowed are numbers from 0 to 1")

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        factor = draw.uniform(low=self.scale[0], high=self.scale[1])
        factor = torch.where(draw.chance(self.probability), factor, 1.0)
        rows, in_rows = self._axis(x.shape[-2], factor, x, draw)
        cols, in_cols = self._axis(x.shape[-1], factor, x, draw)
        shape = (len(draw), *x.shape[-2:])
        inside = in_rows[:, :, None] & in_cols[:, None, :]
        return resample(x, y, rows[:, :, None].expand(shape), cols[:, None, :].expand(shape), inside)

    def _axis(self, size: int, factor: Tensor, like: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        small = (factor * size).round().clamp(1, size)
        offset = draw.integers((size + 1 - small).long()).to(like.dtype)
        local = positions(size, like)[None] - offset[:, None]
        source = (local + 0.5) * (size / small)[:, None] - 0.5
        return source, (local >= 0) & (local < small[:, None])


@dataclass(frozen=True, kw_only=True)
class Rescale(Transform):
    """Shows the surrogate the whole image at another resolution, drawn anew at every iteration (dynamic scaling,
    Gu et al., arXiv 2111.11368; the paper's range is not public, ours is log-symmetric).

    The factor is one number per iteration for all images, since a batch has one size.
    """

    scale: tuple[float, float] = (0.5, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("Rescale scale", self.scale)

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        low, high = self.scale
        factor = low * (high / low) ** draw.shared()
        size = [max(1, round(side * factor)) for side in x.shape[-2:]]
        if size == list(x.shape[-2:]):
            return x, y
        image = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=factor < 1)
        label = F.interpolate(y[:, None].to(x.dtype), size, mode="nearest-exact")[:, 0].long()
        return image, label


@dataclass(frozen=True, kw_only=True)
class Scale(Transform):
    """Darker copies x / 2^i for i = 0 … copies-1 (SI-FGSM, Lin et al., ICLR 2020); labels stay, pixels do too."""

    copies: int = 5

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        return x / (2.0 ** draw.copy.to(x.dtype)).view(-1, 1, 1, 1), y
