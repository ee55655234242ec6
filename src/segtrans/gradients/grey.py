"""Gradients without colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segtrans.errors import check_number
from segtrans.gradients.base import GradientFunction, GradientTransform

if TYPE_CHECKING:
    from segtrans.run import Run


@dataclass(frozen=True, kw_only=True)
class Grey(GradientTransform):
    """The mean over the three channels in the place of each, so that brightness changes and colour does not.

    Ours, chosen by measurement. That perturbations act mostly through brightness is known of classifiers (Pestana et
    al., arXiv 2003.00883), whose channel Y weighs colours as the eye does; the plain mean transfers further.

    Attributes:
        share: how much of the way to the mean each channel goes, from 0 to 1.
    """

    share: float = 1.0

    def __post_init__(self) -> None:
        check_number("Grey share", self.share, 0, 1)

    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        def grey(z: Tensor) -> Tensor:
            found = gradient(z)
            mean = found.mean(1, keepdim=True).expand_as(found)
            return mean if self.share == 1 else torch.lerp(found, mean, self.share)

        return grey
