"""Gradients without colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from segtrans.gradients.base import GradientFunction, GradientTransform

if TYPE_CHECKING:
    from segtrans.run import Run


@dataclass(frozen=True, kw_only=True)
class Grey(GradientTransform):
    """The mean over the three channels in the place of each, so that brightness changes and colour does not.

    What networks react to lies in brightness first (Pestana et al., arXiv 2003.00883, who attack the Y channel alone);
    which colours fool one of them says little about another, and in a sign step a channel counts whole.
    """

    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        def grey(z: Tensor) -> Tensor:
            found = gradient(z)
            return found.mean(1, keepdim=True).expand_as(found)

        return grey
