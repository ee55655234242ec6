"""Smooth deformations of the image."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from segtrans.devices import CPU
from segtrans.errors import check_number, check_whole
from segtrans.random import Draw
from segtrans.transforms.base import positions, within
from segtrans.transforms.blocks import Displacement


@dataclass(frozen=True, kw_only=True)
class Warp(Displacement):
    """Bends the image by a thin-plate spline that moves the inner points of a coarse mesh and holds its border points
    (Lin et al., AAAI 2024, arXiv 2402.03951); what is left empty is black and void.

    The paper has one warp for the whole batch, here every image has its own.

    Attributes:
        mesh: points per side.
        reach: how far an inner point is moved along each axis at most, in halves of the image's side.
        descent: then every inner point takes a step of so many gradients downhill on the attack's objective, without
            bounds (the paper's ρ, 0.01, keeps the image recognisable); 0 leaves out that step and its cost.
    """

    mesh: int = 3
    reach: float = 1.0
    descent: float = 0.0  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("Warp mesh", self.mesh, 3)
        check_number("Warp reach", self.reach, 0, 2)
        check_number("Warp descent", self.descent, 0)

    def source(self, x: Tensor, draw: Draw) -> tuple[Tensor, ...]:
        height, width = x.shape[-2:]
        inner = (self.mesh - 2) ** 2
        moves = torch.stack([draw.uniform(inner, 1, 1, low=-self.reach, high=self.reach) for _ in range(2)], 1)
        down, right = (along.unbind(1) for along in draw.adjust(moves).unbind(1))
        # A spline is linear in what its points do, so that one map per point serves all images.
        influence = _influence(self.mesh, x)
        rows = positions(height, x)[:, None] + _sum(influence, down) * ((height - 1) / 2)
        cols = positions(width, x) + _sum(influence, right) * ((width - 1) / 2)
        return rows, cols, within(rows, cols, height, width)


def _influence(mesh: int, like: Tensor) -> list[Tensor]:
    """How far every pixel follows each inner mesh point, (H, W) each, for images like ``like``."""
    rows, cols = (torch.linspace(-1, 1, side, dtype=like.dtype, device=like.device) for side in like.shape[-2:])
    rows, cols = rows[:, None] + 0 * cols, cols + 0 * rows[:, None]
    basis = [_kernel((rows - r).square() + (cols - c).square()) for r, c in _points(mesh).tolist()]
    basis += [torch.ones_like(rows), rows, cols]
    return [_sum(basis, weights) for weights in _splines(mesh)]


def _sum(fields: Sequence[Tensor], weights: Iterable[Tensor | float]) -> Tensor:
    """Weighted sum in a fixed order, so that its last bit does not depend on the batch."""
    return sum((field * weight for field, weight in zip(fields, weights, strict=True)), torch.zeros_like(fields[0]))


def _points(mesh: int) -> Tensor:
    """Rows and columns of the mesh points in [-1, 1], (mesh², 2)."""
    line = torch.linspace(-1, 1, mesh, dtype=torch.float64, device=CPU)
    return torch.cartesian_prod(line, line)


def _kernel(squared: Tensor) -> Tensor:
    """The thin-plate spline's r² log r², from r²."""
    return torch.special.xlogy(squared, squared)


@cache
def _splines(mesh: int) -> list[list[float]]:
    """For each inner mesh point, the spline that moves it by 1 and no other point: the factors of the kernels around
    all points, then those of 1, row and column.
    """
    points = _points(mesh)
    flat = torch.cat([torch.ones_like(points[:, :1]), points], 1)
    bent = _kernel((points[:, None] - points[None]).square().sum(-1))
    system = torch.cat([torch.cat([bent, flat], 1), torch.cat([flat.mT, torch.zeros_like(flat[:3])], 1)])
    moves = torch.eye(len(system), dtype=system.dtype, device=CPU)[:, : len(points)]
    inner = points.abs().amax(1) < 1
    return torch.linalg.solve(system, moves[:, inner]).mT.tolist()
