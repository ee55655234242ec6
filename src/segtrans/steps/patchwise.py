"""Steps beyond the budget, whose cut noise goes to the neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.errors import check_number, check_odd
from segtrans.steps.base import Step, StepFunction

if TYPE_CHECKING:
    from segtrans.run import Run


@dataclass(frozen=True, kw_only=True)
class Patchwise(Step):
    """Steps further than the budget allows and moves what is cut off to the neighbouring pixels (PI-FGSM, Gao et al.,
    ECCV 2020, arXiv 2007.06765). The paper's step is the budget divided by the iterations: write step_size="eps/T".

    Attributes:
        amplification: factor of the step size.
        size: side in pixels, odd, of the square around a pixel that its cut noise is spread over; 1 discards it.
    """

    amplification: float = 10.0
    size: int = 3

    def __post_init__(self) -> None:
        check_number("Patchwise amplification", self.amplification, 0)
        check_odd("Patchwise size", self.size)

    def bind(self, run: Run) -> StepFunction:
        corner = run.threat.direction(torch.ones_like(run.x[:1]))
        step = self.amplification * run.alpha
        # Noise is counted in amplified steps, of which the budget holds one with the paper's settings: then these are
        # whole numbers, and neighbours that cancel each other do so in any precision.
        noise, limit = torch.zeros_like(run.x), round(run.threat.radius / step, 9) if step else math.inf

        def patchwise(adversarial: Tensor, gradient: Tensor) -> Tensor:
            nonlocal noise
            direction = run.threat.direction(gradient) / corner
            noise = noise + direction
            cut = (noise.abs() - limit).clamp_min(0) * noise.sign()
            around = _around(cut, self.size)
            spread = around.sign().where(run.allowed & (around.abs() > _TIE), 0)
            noise = noise + spread
            return run.threat.project(adversarial + step * corner * (direction + spread), run.x)

        return patchwise


# What rounding leaves of neighbours that cancel each other, in amplified steps.
_TIE = 1e-5


def _around(values: Tensor, size: int) -> Tensor:
    """For every pixel the sum over the square around it, itself left out and zero outside the image."""
    (height, width), half = values.shape[-2:], size // 2
    padded, total = F.pad(values, (half,) * 4), torch.zeros_like(values)
    for row in range(size):
        for col in range(size):
            if (row, col) != (half, half):
                total = total + padded[..., row : row + height, col : col + width]
    return total
