"""What every update rule is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from segtrans.errors import UsageError
from segtrans.random import MayDraw

if TYPE_CHECKING:
    from segtrans.run import Run

StepFunction = Callable[[Tensor, Tensor], Tensor]
"""From adversarial images and gradient, both (N, 3, H, W), to the next adversarial images."""


@dataclass(frozen=True, kw_only=True)
class Step(MayDraw, ABC):
    """How a gradient is turned into the next point.

    Attributes:
        shared: whether the images of a batch share a perturbation, so that one's result depends on the others.
    """

    shared: ClassVar[bool] = False

    @property
    def uses_remaining(self) -> bool:
        """Whether :attr:`Run.remaining` is looked at."""
        return False

    @property
    def uses_tracked(self) -> bool:
        """Whether :attr:`Run.tracked` is to be what :meth:`Objective.tracked` finds, and not the objective again."""
        return False

    @abstractmethod
    def bind(self, run: Run) -> StepFunction:
        """The rule, with fresh state for one attack call; what it returns at the last iteration is inside budget and
        box.
        """


def check_betas(name: str, betas: tuple[float, float]) -> None:
    """UsageError unless both decays are at least 0 and below 1."""
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise UsageError(f"{name} betas is {betas}; allowed are two numbers from 0 to below 1")
