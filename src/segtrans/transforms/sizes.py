"""The image at other sizes and brightnesses."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.errors import UsageError, check_number
from segtrans.interpolation import interpolate
from segtrans.random import Draw
from segtrans.transforms.base import Transform, check_range, on_canvas, resample


@dataclass(frozen=True, kw_only=True)
class Resize(Transform):
    """Shrinks the image by a random factor and puts it somewhere on a black canvas of the original size
    (input diversity, DI-FGSM, Xie et al., CVPR 2019); labels shrink along, the canvas is void.

    Attributes:
        scale: bounds of the factor, at most 1. The paper's 299 → [299, 330) corresponds to (0.9, 1).
        probability: how often an image is changed at all.
    """

    scale: tuple[float, float] = (0.9, 1.0)
    probability: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("Resize scale", self.scale)
        if self.scale[1] > 1:
            raise UsageError(f"Resize scale is {self.scale}; allowed are factors up to 1")
        check_number("Resize probability", self.probability, 0, 1)

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        factor = draw.uniform(1, low=self.scale[0], high=self.scale[1])
        factor = torch.where(draw.chance(self.probability, 1), factor, 1.0)
        return resample(x, y, *on_canvas(x, factor, draw))


@dataclass(frozen=True, kw_only=True)
class Rescale(Transform):
    """Shows the surrogate the whole image at another resolution, drawn anew at every iteration (dynamic scaling,
    Gu et al., arXiv 2111.11368; the paper's range was not at hand, ours is log-symmetric).

    The factor is one number per iteration for all images, since a batch has one size.
    """

    scale: tuple[float, float] = (0.5, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("Rescale scale", self.scale)
        if self.copies != 1:
            raise UsageError(f"Rescale copies is {self.copies}; allowed is 1, since all items of a batch have one size")
        if self.labels != "move":
            raise UsageError(f"Rescale labels is {self.labels!r}; allowed is 'move', since the size changes")

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        low, high = self.scale
        factor = low * (high / low) ** draw.shared()
        height, width = (max(1, round(side * factor)) for side in x.shape[-2:])
        size = (height, width)
        if size == x.shape[-2:]:
            return x, y
        image = interpolate(x, size, antialias=factor < 1)
        label = F.interpolate(y[:, None].to(x.dtype), size, mode="nearest-exact")[:, 0].long()
        return image, label


@dataclass(frozen=True, kw_only=True)
class Scale(Transform):
    """Darker copies x / 2^i for i = 0 … copies-1 (SI-FGSM, Lin et al., ICLR 2020); labels stay, pixels do too."""

    moves: ClassVar[bool] = False

    copies: int = 5

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        return x / (2.0 ** draw.copy.to(x.dtype)).view(-1, 1, 1, 1), y
