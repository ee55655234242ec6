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

    Ours, chosen by measurement. That perturbations act mostly through brightness is known of classifiers (Pestana et
    al., arXiv 2003.00883), whose channel Y weighs colours as the eye does; the plain mean transfers further.
    """

    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        def grey(z: Tensor) -> Tensor:
            found = gradient(z)
            return found.mean(1, keepdim=True).expand_as(found)

        return grey
