"""The tiny float64 surrogates that attacks are tried on, and images, labels and random numbers for them."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from segtrans.data.base import VOID
from segtrans.random import Draw, derive

CLASSES = 3
"""That the toys tell apart."""

SIZE = (17, 22)
"""Height and width of their images."""


class Block(nn.Module):
    """A residual block as in a ResNet, in place like there."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=2, dilation=2)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn(self.conv(x))
        out += x
        return self.relu(out)


class Context(nn.Module):
    """Three small convolutions, so that a pixel's logits depend on its neighbours; in evaluation mode."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        last, norms = nn.Conv2d(6, CLASSES, 1), (nn.BatchNorm2d(6), Block(6))
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), norms[0], nn.Tanh(), nn.Dropout(0.5), norms[1], last)
        generator = torch.Generator().manual_seed(seed)
        for value in self.state_dict().values():
            if value.is_floating_point():
                value.copy_(2 * torch.rand(value.shape, generator=generator) - 1)
        for norm in (norms[0], norms[1].bn):
            cast(Tensor, norm.running_var).fill_(2.0)
        self.double().eval()
        # All classes are about equally likely, so that there is much to be changed about predictions.
        with torch.no_grad():
            cast(Tensor, last.bias).sub_(self.body(2 * images(8, seed=99)).mean((0, 2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(2 * x)


class Constant(nn.Module):
    """The same features and logits whatever the image, and a gradient of exactly zero."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Context()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(0 * x)


def bright(x: Tensor) -> Tensor:
    """Which images are bright on the whole, (N, 1, 1, 1)."""
    return (x.mean((1, 2, 3)) > 0.6).view(-1, 1, 1, 1)


class BreaksOnBright(nn.Module):
    """``inner``, but with ``value``, or NaN made from it, in the features and logits of every bright image; ``broken``
    once there was one.
    """

    def __init__(self, inner: nn.Module, value: float = torch.nan) -> None:
        super().__init__()
        self.inner, self.value, self.broken = inner, value, False

    def forward(self, x: Tensor) -> Tensor:
        self.broken |= bool(bright(x).any())
        factor = torch.where(bright(x), self.value, 1.0)
        return self.inner(x * factor) * factor


def images(count: int = 3, size: tuple[int, int] = SIZE, *, seed: int = 0, high: float = 1.0) -> Tensor:
    """Random images on the 8-bit grid, float64 in [0, high]."""
    generator = torch.Generator().manual_seed(seed)
    return (high * torch.rand(count, 3, *size, generator=generator, dtype=torch.float64) * 255).round() / 255


def labels(
    count: int = 3,
    size: tuple[int, int] = SIZE,
    *,
    seed: int = 0,
    values: Iterable[int] = (*range(CLASSES), VOID),
    block: int = 5,
) -> Tensor:
    """Patches of about ``block`` pixels with one of ``values`` each, so that there are insides as well as borders."""
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.tensor(tuple(values))
    rows, cols = (torch.arange(side) * 2 // (2 * block - 1) for side in size)
    patches = torch.randint(len(allowed), (count, int(rows[-1]) + 1, int(cols[-1]) + 1), generator=generator)
    return allowed[patches[:, rows][:, :, cols]]


def draw(batch: int, *, seed: int = 0, copy: int = 0, dtype: torch.dtype = torch.float64, same: bool = False) -> Draw:
    """Random numbers for a part on its own, with a budget of 8/255; with ``same`` all items get the same ones."""
    items = torch.zeros(batch, dtype=torch.int64) if same else torch.arange(batch)
    start = torch.zeros(1, dtype=torch.int64)
    return Draw(derive(derive(items, seed), copy), torch.full((batch,), copy), derive(start, seed), dtype, 8 / 255)
