"""Gradients taken where the objective is low nearby, so that what is climbed is a plateau and not a peak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from segtrans.errors import check_number, check_whole
from segtrans.gradients.base import GradientFunction, GradientTransform
from segtrans.threat import scaled

if TYPE_CHECKING:
    from segtrans.run import Run


@dataclass(frozen=True, kw_only=True)
class Sharpness(GradientTransform):
    """Takes the gradient at the point near z that an inner attack finds when it lowers the objective: the reverse
    adversarial perturbation of RAP (Qin et al., NeurIPS 2022, arXiv 2210.05968), and with a single step from z itself
    the ascent of sharpness-aware minimisation with its sign turned.

    Attributes:
        steps: inner steps, of equal lengths that add up to the radius; 0 takes the gradient at z.
        radius: how far from z they may go, in budgets.
        random_start: begin at a random point instead of at z.
        late: iteration, from 0, at which the inner attack sets in. Until then one gradient is taken, so that a late
            start spends less than ``evaluations`` says.
    """

    steps: int = 8
    radius: float = 1.0
    random_start: bool = True
    late: int = 0

    def __post_init__(self) -> None:
        check_whole("Sharpness steps", self.steps, 0)
        check_whole("Sharpness late", self.late, 0)
        check_number("Sharpness radius", self.radius, 0)

    @property
    def draws(self) -> bool:
        return self.random_start

    @property
    def evaluations(self) -> int:
        return 1 + self.steps if self.radius else 1

    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        if self.evaluations == 1:
            return gradient
        stream, near = run.stream(), scaled(run.threat, self.radius)
        size = near.radius / self.steps

        def sharp(z: Tensor) -> Tensor:
            if run.iteration < self.late:
                return gradient(z)
            low = near.start(z, run.draw(stream)).where(run.allowed, z) if self.random_start else z
            for _ in range(self.steps):
                step = (size * near.direction(gradient(low))).where(run.allowed, 0)
                low = near.project(low - step, z)
            return gradient(low)

        return sharp
