"""Gradient transformations: middleware around a gradient, from the model outwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.errors import UsageError, check_whole

if TYPE_CHECKING:
    from segtrans.run import Run

GradientFunction = Callable[[Tensor], Tensor]
"""From images (N, 3, H, W) to the gradient of the objective there, of the same shape."""


@dataclass(frozen=True, kw_only=True)
class GradientTransform(ABC):
    """Turns one gradient function into another; ``evaluations`` is how often it calls the inner one."""

    @property
    def evaluations(self) -> int:
        return 1

    @abstractmethod
    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        """The new gradient function, with fresh state for one attack call."""


def normalise(gradient: Tensor) -> Tensor:
    """Each image's gradient divided by its mean absolute value; an all-zero gradient stays zero."""
    scale = gradient.abs().mean((1, 2, 3), keepdim=True)
    return gradient / torch.where(scale > 0, scale, 1)


@dataclass(frozen=True, kw_only=True)
class Momentum(GradientTransform):
    """Accumulates normalised gradients: g ← decay·g + ∇/mean|∇| (MI-FGSM, Dong et al., CVPR 2018)."""

    decay: float = 1.0

    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        velocity = torch.zeros_like(run.x)

        def momentum(z: Tensor) -> Tensor:
            nonlocal velocity
            velocity = self.decay * velocity + normalise(gradient(z))
            return velocity

        return momentum


@dataclass(frozen=True, kw_only=True)
class Nesterov(GradientTransform):
    """Momentum whose gradient is taken ahead, at z + decay·step·g (NI-FGSM, Lin et al., ICLR 2020)."""

    decay: float = 1.0

    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        velocity = torch.zeros_like(run.x)

        def nesterov(z: Tensor) -> Tensor:
            nonlocal velocity
            ahead = z + self.decay * run.alpha * run.threat.ahead(velocity)
            velocity = self.decay * velocity + normalise(gradient(ahead))
            return velocity

        return nesterov


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
        check_whole("Smooth size", self.size, 1)
        if self.size % 2 == 0:
            raise UsageError(f"Smooth size is {self.size}; allowed are odd numbers from 1")

    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        if self.size == 1:
            return gradient
        at = torch.linspace(-self.sigmas, self.sigmas, self.size, dtype=torch.float64)
        weights = (-at.square() / 2).exp()
        line = (weights / weights.sum()).to(run.x)
        channels, half = run.x.shape[1], self.size // 2
        column, row = line.view(1, 1, -1, 1), line.view(1, 1, 1, -1)

        def smooth(z: Tensor) -> Tensor:
            g = gradient(z)
            g = F.conv2d(g, column.expand(channels, 1, -1, 1), padding=(half, 0), groups=channels)
            return F.conv2d(g, row.expand(channels, 1, 1, -1), padding=(0, half), groups=channels)

        return smooth
