"""What an attack is after: which labels, and whether the surrogate is driven away from them or towards them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from segtrans.run import Run


@dataclass(frozen=True, kw_only=True)
class Goal(ABC):
    """Chooses the labels of the objective; where ``targeted``, the objective is made small instead of large."""

    targeted: ClassVar[bool] = True

    @abstractmethod
    def labels(self, run: Run, y: Tensor | None) -> Tensor:
        """The labels (N, H, W), 255 = void, from those the caller gave, if any."""


@dataclass(frozen=True, kw_only=True)
class Untargeted(Goal):
    """Away from the given labels, or from the surrogate's own clean prediction where there are none."""

    targeted: ClassVar[bool] = False

    def labels(self, run: Run, y: Tensor | None) -> Tensor:
        return run.clean_logits.argmax(1) if y is None else y
