"""The image's frequencies, altered; labels stay with their pixels."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segtrans.errors import check_number
from segtrans.random import Draw
from segtrans.transforms.base import Transform, positions


@dataclass(frozen=True, kw_only=True)
class Spectrum(Transform):
    """Adds Gaussian noise, then multiplies every cosine coefficient of the whole image by a random factor: spectrum
    simulation (SSA, Long et al., ECCV 2022, arXiv 2207.05382).

    The gradient comes back through the transformation; the public code takes the gradient of what the model sees for
    that of the image. As there, nothing is clipped to [0, 1].

    Attributes:
        rho: factors are uniform in [1 - rho, 1 + rho].
        sigma: standard deviation of the noise, in budgets; one in the paper. Where pixels are free, as those of a
            patch, a budget is all of [0, 1].
    """

    moves: ClassVar[bool] = False

    copies: int = 20
    rho: float = 0.5
    sigma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("Spectrum rho", self.rho, 0, 1)
        check_number("Spectrum sigma", self.sigma, 0)

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        image = x
        if self.sigma > 0:
            image = image + draw.normal(*x.shape[1:], deviation=self.sigma * draw.reach)
        if self.rho > 0:
            factor = draw.uniform(*x.shape[1:], low=1 - self.rho, high=1 + self.rho)
            image = from_cosines(to_cosines(image) * factor)
        return image, y


def to_cosines(x: Tensor) -> Tensor:
    """The two-dimensional cosine transform (DCT-II) of (…, H, W): ``sum x[m, n] cos(pi k (m + 1/2) / H) cos(pi l
    (n + 1/2) / W)`` at [k, l].
    """
    # Fourier transforms, not matrix products: these round differently in batches of different sizes.
    return _to_cosines(_to_cosines(x).mT).mT


def from_cosines(coefficients: Tensor) -> Tensor:
    """The inverse of :func:`to_cosines`."""
    return _from_cosines(_from_cosines(coefficients).mT).mT


def _to_cosines(x: Tensor) -> Tensor:
    """Along the last axis. With even places in order and odd ones backwards behind them, coefficient k is the real part
    of the Fourier coefficient turned by -pi k / 2n, and coefficient n - k its imaginary part, negated (Makhoul, 1980).
    """
    size = x.shape[-1]
    half = torch.fft.rfft(x.index_select(-1, _order(size, x))) * _turned(size, -1, x)
    return torch.cat([half.real, -half.imag[..., 1 : (size + 1) // 2].flip(-1)], -1)


def _from_cosines(coefficients: Tensor) -> Tensor:
    size = coefficients.shape[-1]
    real = coefficients[..., : size // 2 + 1]
    behind = coefficients[..., (size + 1) // 2 :].flip(-1)
    imaginary = -torch.cat([torch.zeros_like(real[..., :1]), behind], -1)
    line = torch.fft.irfft(torch.complex(real, imaginary) * _turned(size, 1, real), size)
    return line.index_select(-1, _order(size, real).argsort())


def _order(size: int, like: Tensor) -> Tensor:
    place = torch.arange(size, device=like.device)
    return torch.cat([place[::2], place[1::2].flip(0)])


def _turned(size: int, sign: int, like: Tensor) -> Tensor:
    angle = sign * math.pi / (2 * size) * positions(size // 2 + 1, like)
    return torch.polar(torch.ones_like(angle), angle)
