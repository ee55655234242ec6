"""Other photographs mixed into the image, and the image at evenly spaced brightnesses; labels stay as they are."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segtrans.bank import channel_statistics, photographs
from segtrans.errors import check_number
from segtrans.random import Draw
from segtrans.transforms.base import Transform, check_range

_ONE_LEVEL = 1 / 255


def _picture(bank: str, x: Tensor, draw: Draw) -> Tensor:
    """One photograph of the bank for every item, (B, 3, H, W)."""
    pictures = photographs((x.shape[-2], x.shape[-1]), bank, x.device)
    return pictures[_which(len(pictures), draw)].to(x.dtype)


def _which(count: int, draw: Draw) -> Tensor:
    return draw.integers(torch.full_like(draw.copy, count))


@dataclass(frozen=True, kw_only=True)
class Admix(Transform):
    """Adds a share of another photograph, which keeps its place below the image (Admix, Wang et al., ICCV 2021,
    arXiv 2102.00436).

    The photograph comes from a bank instead of the batch, and every copy draws its own, also where further
    transformations multiply the copies. The sum may exceed 1, as in the paper; clipping it would lose gradients. An
    image that is itself in the bank is now and then mixed with itself, as it is in a shuffled batch.

    Attributes:
        share: what the photograph is multiplied by.
        bank: a folder of images; empty for the six free photographs of :mod:`segtrans.bank`.
    """

    moves: ClassVar[bool] = False

    copies: int = 3
    share: float = 0.2
    bank: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("Admix share", self.share, 0, 1)

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        if self.share == 0:
            return x, y
        return x + self.share * _picture(self.bank, x, draw), y


@dataclass(frozen=True, kw_only=True)
class UniformScale(Transform):
    """Copies multiplied by evenly spaced factors, the brightest first: the uniform scale of US-MM (Wang et al.,
    arXiv 2311.12051).

    Attributes:
        scale: the smallest and the largest factor; a single copy has the largest.
    """

    moves: ClassVar[bool] = False

    copies: int = 5
    scale: tuple[float, float] = (0.1, 0.75)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("UniformScale scale", self.scale)

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        low, high = self.scale
        factor = high - (high - low) / max(1, self.copies - 1) * draw.copy.to(x.dtype)
        return x * factor.view(-1, 1, 1, 1), y


@dataclass(frozen=True, kw_only=True)
class MixMask(Transform):
    """Multiplies by a photograph whose values [0, 1] are stretched to [1 - strength, 1 + strength]: the mix mask of
    US-MM (Wang et al., arXiv 2311.12051).

    The photograph comes from a bank instead of the batch. The product is not clipped to [0, 1], and the gradient comes
    back through it; the public code clips, and takes the gradient of what the model sees for that of the image.

    Attributes:
        strength: half the width of the mask's range.
        bank: a folder of images; empty for the six free photographs of :mod:`segtrans.bank`.
    """

    moves: ClassVar[bool] = False

    copies: int = 3
    strength: float = 0.5
    bank: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("MixMask strength", self.strength, 0, 1)

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        if self.strength == 0:
            return x, y
        return x * (1 - self.strength + 2 * self.strength * _picture(self.bank, x, draw)), y


@dataclass(frozen=True, kw_only=True)
class StyleMix(Transform):
    """Mixes the image with itself in the colours of a photograph, and adds uniform noise. This is our reconstruction of
    STM (Ge et al., ACM MM 2023, arXiv 2308.10601) without its style network, which is a download.

    In the colours of a photograph means: each channel shifted and stretched to the photograph's mean and standard
    deviation (AdaIN, Huang and Belongie, ICCV 2017, on pixels instead of features). The gradient comes back through the
    colours too, which the authors hold constant. Nothing is clipped to [0, 1].

    Attributes:
        keep: weight of the image as it is; the rest is the one in other colours.
        noise: bound of the noise, in budgets; two in the paper. Where pixels are free, as those of a patch, a budget is
            all of [0, 1].
        bank: a folder of images; empty for the six free photographs of :mod:`segtrans.bank`.
    """

    moves: ClassVar[bool] = False

    copies: int = 20
    keep: float = 0.5
    noise: float = 2.0
    bank: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("StyleMix keep", self.keep, 0, 1)
        check_number("StyleMix noise", self.noise, 0)

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        image = x
        if self.keep < 1:
            means, contrasts = channel_statistics(self.bank, x.device)
            which = _which(len(means), draw)
            mean, contrast = means[which].to(x.dtype), contrasts[which].to(x.dtype)
            centred = x - x.mean((2, 3), keepdim=True)
            # A channel of one value has no contrast to stretch; the constant keeps its derivative finite.
            own = (centred.square().mean((2, 3), keepdim=True) + _ONE_LEVEL**2).sqrt()
            image = self.keep * x + (1 - self.keep) * (contrast / own * centred + mean)
        if self.noise > 0:
            bound = self.noise * draw.reach
            image = image + draw.uniform(*x.shape[1:], low=-bound, high=bound)
        return image, y
