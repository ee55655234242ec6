"""What a gradient transformation is, and what several of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from segtrans.lengths import safe_divide
from segtrans.random import MayDraw

if TYPE_CHECKING:
    from segtrans.run import Run

GradientFunction = Callable[[Tensor], Tensor]
"""From images (N, 3, H, W) to the gradient of the objective there, of the same shape, which may share memory among its
channels and is not written to."""


@dataclass(frozen=True, kw_only=True)
class GradientTransform(MayDraw, ABC):
    """Turns one gradient function into another; ``evaluations`` is how often it calls the inner one, and ``plain`` how
    often besides with untransformed images.

    Attributes:
        apart: whether every call of the inner one is, or costs as much as those, for a single member of an ensemble.
        accumulates: whether it sums gradients up over the iterations. Of such parts an attack that is composed has one,
            the last one named, and it comes after all others.
    """

    apart: ClassVar[bool] = False
    accumulates: ClassVar[bool] = False

    @property
    def evaluations(self) -> int:
        return 1

    @property
    def plain(self) -> int:
        return 0

    @property
    def elsewhere(self) -> bool:
        """Whether it may call the inner one last at other images than it was given, or for some members only, so that
        what the run remembers of the last gradient is not of those images.
        """
        return self.evaluations > 1

    def evaluations_on(self, members: int) -> int:
        """How often it calls the inner one on an ensemble of so many members."""
        return self.evaluations

    @abstractmethod
    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        """The new gradient function, with fresh state for one attack call."""


def normalise(gradient: Tensor) -> Tensor:
    """Each image's gradient divided by its mean absolute value; an all-zero gradient stays zero."""
    return safe_divide(gradient, gradient.abs().mean((1, 2, 3), keepdim=True))
