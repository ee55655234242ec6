"""Adam's steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segtrans.errors import UsageError
from segtrans.steps.base import Step, StepFunction, check_betas

if TYPE_CHECKING:
    from segtrans.run import Run


@dataclass(frozen=True, kw_only=True)
class Adam(Step):
    """Adam's ascent with the step size as learning rate, projected onto the budget after each step (the optimiser of
    PAdam, Halmosi et al., ECCV 2024, arXiv 2407.09150).

    Attributes:
        betas: decay of the gradient's and of its square's running mean.
        amsgrad: divide by the largest mean square so far instead of the present one.
        floor: added to the root mean square.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    amsgrad: bool = True
    floor: float = 1e-8

    def __post_init__(self) -> None:
        check_betas("Adam", self.betas)
        if not 0 < self.floor < math.inf:
            raise UsageError(f"Adam floor is {self.floor}; allowed are numbers above 0")

    def bind(self, run: Run) -> StepFunction:
        (one, two), count = self.betas, 0
        mean, square, largest = (torch.zeros_like(run.x) for _ in range(3))

        def adam(adversarial: Tensor, gradient: Tensor) -> Tensor:
            nonlocal count, mean, square, largest
            count += 1
            mean = one * mean + (1 - one) * gradient
            square = two * square + (1 - two) * gradient.square()
            largest = largest.maximum(square) if self.amsgrad else square
            scale = largest.sqrt() / math.sqrt(1 - two**count) + self.floor
            return run.threat.project(adversarial + run.alpha / (1 - one**count) * mean / scale, run.x)

        return adam
