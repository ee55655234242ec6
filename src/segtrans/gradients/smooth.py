"""Gradients smoothed over neighbouring pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.devices import CPU
from segtrans.errors import check_number, check_odd
from segtrans.gradients.base import GradientFunction, GradientTransform

if TYPE_CHECKING:
    from segtrans.run import Run


@dataclass(frozen=True, kw_only=True)
class Smooth(GradientTransform):
    """Gaussian smoothing of the gradient, as if averaged over shifted images (TI-FGSM, Dong et al., CVPR 2019).

    Attributes:
        size: side of the kernel in pixels, odd.
        sigmas: how many standard deviations lie between the kernel's centre and its edge.
    """

    size: int = 15
    sigmas: float = 3.0

    def __post_init__(self) -> None:
        check_odd("Smooth size", self.size)
        check_number("Smooth sigmas", self.sigmas, 0)

    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        if self.size == 1:
            return gradient
        at = torch.linspace(-self.sigmas, self.sigmas, self.size, dtype=torch.float64, device=CPU)
        weights = (-at.square() / 2).exp()
        line = (weights / weights.sum()).tolist()

        def smooth(z: Tensor) -> Tensor:
            found = gradient(z)
            # Channels that are one and the same in memory, as grey ones are, are smoothed once.
            planes = found[:, :1] if found.stride(1) == 0 else found
            return _along(-1, _along(-2, planes, line), line).expand_as(found)

        return smooth


def _along(axis: int, g: Tensor, line: list[float]) -> Tensor:
    """``g`` (B, C, H, W) convolved along one axis with an odd number of weights, zero beyond the border."""
    # A sum of shifted tensors takes a tenth of the time of convolutions of three channels, which libraries neglect.
    size, half = g.shape[axis], len(line) // 2
    padded = F.pad(g, (half, half) if axis == -1 else (0, 0, half, half))
    total = padded.narrow(axis, 0, size) * line[0]
    for shift, weight in enumerate(line[1:], 1):
        total.add_(padded.narrow(axis, shift, size), alpha=weight)
    return total
