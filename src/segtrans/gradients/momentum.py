"""Gradients accumulated over the iterations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from segtrans.errors import check_number
from segtrans.gradients.base import GradientFunction, GradientTransform, normalise

if TYPE_CHECKING:
    from segtrans.run import Run


@dataclass(frozen=True, kw_only=True)
class Momentum(GradientTransform):
    """Accumulates normalised gradients: g ← decay·g + ∇/mean|∇| (MI-FGSM, Dong et al., CVPR 2018)."""

    accumulates: ClassVar[bool] = True

    decay: float = 1.0

    def __post_init__(self) -> None:
        check_number(f"{type(self).__name__} decay", self.decay, 0)

    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        velocity = torch.zeros_like(run.x)

        def momentum(z: Tensor) -> Tensor:
            nonlocal velocity
            here = normalise(gradient(self._look(z, velocity, run)))
            velocity = (self.decay * velocity).add_(here)
            return velocity

        return momentum

    def _look(self, z: Tensor, velocity: Tensor, run: Run) -> Tensor:
        """Where the gradient is taken."""
        return z


@dataclass(frozen=True, kw_only=True)
class Nesterov(Momentum):
    """Momentum whose gradient is taken ahead, at z + decay·step·g (NI-FGSM, Lin et al., ICLR 2020)."""

    @property
    def elsewhere(self) -> bool:
        return True

    def _look(self, z: Tensor, velocity: Tensor, run: Run) -> Tensor:
        return z + self.decay * run.alpha * run.confined(run.threat.ahead(velocity), 0)
