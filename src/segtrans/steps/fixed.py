"""Steps of the attack's step size: whole, in proportion to the gradient, or shortened where its sign changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segtrans.errors import check_number
from segtrans.lengths import safe_divide
from segtrans.steps.base import Step, StepFunction

if TYPE_CHECKING:
    from segtrans.run import Run


@dataclass(frozen=True, kw_only=True)
class Steepest(Step):
    """A step of fixed length in the direction that gains most in the budget's norm (the sign, for L-inf)."""

    def bind(self, run: Run) -> StepFunction:
        def steepest(adversarial: Tensor, gradient: Tensor) -> Tensor:
            return run.threat.project((run.alpha * run.threat.direction(gradient)).add_(adversarial), run.x)

        return steepest


@dataclass(frozen=True, kw_only=True)
class Proportional(Step):
    """Moves every value in proportion to its gradient, the one with the largest by the step size: step·∇/max|∇| (DAG,
    Xie et al., ICCV 2017, arXiv 1703.08603).
    """

    def bind(self, run: Run) -> StepFunction:
        def proportional(adversarial: Tensor, gradient: Tensor) -> Tensor:
            direction = safe_divide(gradient, gradient.abs().amax((1, 2, 3), keepdim=True))
            return run.threat.project(adversarial + run.alpha * direction, run.x)

        return proportional


@dataclass(frozen=True, kw_only=True)
class Damped(Step):
    """Shortens the step of a value each time its direction changes: the decay indicator of GRA (Zhu et al., ICCV 2023).

    Attributes:
        decay: factor per change of sign. As in the authors' code every value starts at 1/decay, and its first move is a
            change from nothing.
    """

    decay: float = 0.94

    def __post_init__(self) -> None:
        check_number("Damped decay", self.decay, 0.01, 1)

    def bind(self, run: Run) -> StepFunction:
        scale, last = torch.full_like(run.x, 1 / self.decay), torch.zeros_like(run.x)

        def damped(adversarial: Tensor, gradient: Tensor) -> Tensor:
            nonlocal scale, last
            sign = gradient.sign()
            scale, last = scale * torch.where(sign == last, 1.0, self.decay), sign
            return run.threat.project(adversarial + run.alpha * scale * run.threat.direction(gradient), run.x)

        return damped
