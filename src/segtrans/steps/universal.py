"""Steps of one perturbation for many images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.errors import check_whole
from segtrans.steps.base import Step, StepFunction

if TYPE_CHECKING:
    from segtrans.run import Run


@dataclass(frozen=True, kw_only=True)
class Universal(Step):
    """A single perturbation for the whole batch, moved along the sum of all images' gradients (Metzen et al., ICCV
    2017, arXiv 1704.05712, who weigh the loss and lead towards targets, as ``universal`` of the catalogue does not).

    An image's result therefore depends on the batch it is in. A random start counts for the first gradient alone; the
    perturbation begins at zero. Images whose gradient is NaN or infinite have no say.

    Attributes:
        tile: side of a square in pixels that is repeated over the image; 0 for a perturbation of the image's size.
    """

    tile: int = 0

    shared: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole("Universal tile", self.tile, 0)

    def bind(self, run: Run) -> StepFunction:
        height, width = run.x.shape[-2:]
        rows, cols = (self.tile, self.tile) if self.tile else (height, width)
        down, across = -(-height // rows), -(-width // cols)
        tile = run.x.new_zeros(1, run.x.shape[1], rows, cols)

        def universal(adversarial: Tensor, gradient: Tensor) -> Tensor:
            nonlocal tile
            finite = gradient.isfinite().flatten(1).all(1).view(-1, 1, 1, 1)
            total = gradient.where(finite, 0).sum(0, keepdim=True)
            padded = F.pad(total, (0, across * cols - width, 0, down * rows - height))
            total = padded.view(1, -1, down, rows, across, cols).sum((2, 4))
            tile = (tile + run.alpha * run.threat.direction(total)).clamp(-run.threat.radius, run.threat.radius)
            whole = tile.repeat(1, 1, down, across)[..., :height, :width]
            # Nothing to do for L-inf. No box yet: it is each image's own, and only shortens.
            length = run.threat.distance(whole, torch.zeros_like(whole)).clamp_min(1e-12)
            share = (run.threat.radius / length).clamp_max(1).view(-1, 1, 1, 1)
            tile = tile * share
            return (run.x + whole * share).clamp(0, 1)

        return universal
