"""Update rules: from an adversarial image and a gradient to the next adversarial image, within the budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from segtrans.run import Run

StepFunction = Callable[[Tensor, Tensor], Tensor]
"""From adversarial images and gradient, both (N, 3, H, W), to the next adversarial images."""


@dataclass(frozen=True, kw_only=True)
class Step(ABC):
    """How a gradient is turned into the next point.

    Attributes:
        shared: whether the images of a batch share a perturbation, so that one's result depends on the others.
    """

    shared: ClassVar[bool] = False

    @abstractmethod
    def bind(self, run: Run) -> StepFunction:
        """The rule, with fresh state for one attack call; what it returns is inside budget and box."""


@dataclass(frozen=True, kw_only=True)
class Steepest(Step):
    """A step of fixed length in the direction that gains most in the budget's norm (the sign, for L-inf)."""

    def bind(self, run: Run) -> StepFunction:
        def steepest(adversarial: Tensor, gradient: Tensor) -> Tensor:
            return run.threat.project(adversarial + run.alpha * run.threat.direction(gradient), run.x)

        return steepest
