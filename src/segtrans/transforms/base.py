"""What an input transformation is, and how pixels and labels move together."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.data.base import VOID
from segtrans.errors import UsageError, check_choice, check_whole
from segtrans.random import Draw


@dataclass(frozen=True, kw_only=True)
class Transform(ABC):
    """Changes what the surrogate sees; the gradient flows back through it to the original pixels.

    ``copies`` is how many differently transformed copies of an image one gradient is averaged over; which of them an
    item is, ``draw.copy`` says. ``moves`` is false for those that leave every pixel where it is.

    Attributes:
        labels: ``"move"`` lets every label go where its pixel goes, and makes void what is hidden. With ``"keep"`` an
            attack leaves them as they were, as attacks on classifiers do, whose one label has no place; on label maps
            that is a mistake, there to be measured. The attack sees to it, not the transformation.

    Those that can, have two more. ``beneath`` changes the clean image beneath the perturbation, which itself stays
    whole. ``descent`` is the length, in multiples of the gradient, of a step downhill on the attack's objective by the
    numbers that were drawn; it doubles the cost.
    """

    moves: ClassVar[bool] = True

    @property
    def beneath(self) -> bool:
        return False

    @property
    def descent(self) -> float:
        return 0.0

    copies: int = 1
    labels: Literal["move", "keep"] = "move"

    def __post_init__(self) -> None:
        check_whole(f"{type(self).__name__} copies", self.copies, 1)
        check_choice(f"{type(self).__name__} labels", self.labels, ("move", "keep"))

    @abstractmethod
    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and labels (B, H, W), 255 = void, to transformed ones; differentiable in ``x``."""


def check_range(name: str, bounds: tuple[float, float]) -> None:
    """UsageError unless ``bounds`` are two positive numbers in order."""
    if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] < math.inf:
        raise UsageError(f"{name} is {bounds}; allowed are two positive numbers, the smaller first")


def resample(x: Tensor, y: Tensor, rows: Tensor, cols: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Images and labels read at fractional source positions: bilinear for images, nearest for labels.

    Whole-numbered positions copy pixels exactly, and pixels that are read nowhere get exactly zero gradient.

    Args:
        x, y: (B, 3, H, W) and (B, H, W).
        rows, cols: source position of every output pixel, (B, h, w), clamped to the image.
        inside: (B, h, w), false where the output is black and void.
    """
    height, width = x.shape[-2:]
    rows, cols = rows.clamp(0, height - 1), cols.clamp(0, width - 1)
    image = _read(x, rows, cols)
    nearest = (rows.round().long() * width + cols.round().long()).flatten(1)
    label = y.flatten(1).gather(1, nearest).view(rows.shape)
    if inside is None:
        return image, label
    return image * inside[:, None], label.where(inside, VOID)


def _read(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Images (B, 3, H, W) at positions (B, h, w) on them, (B, 3, h, w), bilinear."""
    # ``grid_sample`` measures positions in half sides of the image and rounds them. On sides that are powers of two it
    # rounds to fractions of a pixel (some side / 2^24), so that whole numbers stay what they are and nothing is moved
    # beyond one. In the last row and column, of which the next has no weight, its slope by the position means nothing.
    height, width = (1 << (side - 1).bit_length() for side in x.shape[-2:])
    if x.shape[-2:] != (height, width):
        x = F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))
    places = torch.stack([cols * (2 / width) + (1 / width - 1), rows * (2 / height) + (1 / height - 1)], -1)
    if x.device.type == "mps":
        # It has no backward pass there before torch 2.13.
        return F.grid_sample(x.cpu(), places.cpu(), align_corners=False).to(x.device)
    return F.grid_sample(x, places, align_corners=False)


def on_canvas(x: Tensor, factor: Tensor, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns that pixels come from, and which come from anywhere, (B, H, W) each, once every image is shrunk
    by its ``factor`` (B, 1), at most 1, and put somewhere on a canvas of the original size.
    """
    found: list[tuple[Tensor, Tensor]] = []
    for size in x.shape[-2:]:
        small = (factor * size).round().clamp(1, size)
        local = positions(size, x) - draw.integers((size + 1 - small).long()).to(x.dtype)
        found.append(((local + 0.5) * (size / small) - 0.5, (local >= 0) & (local < small)))
    (rows, in_rows), (cols, in_cols) = found
    shape = (len(x), *x.shape[-2:])
    return rows[:, :, None].expand(shape), cols[:, None].expand(shape), in_rows[:, :, None] & in_cols[:, None]


def first_copy(draw: Draw) -> Tensor:
    """Which items are their image's first copy, (B, 1, 1)."""
    return (draw.copy == 0).view(-1, 1, 1)


def within(rows: Tensor, cols: Tensor, height: Tensor | float, width: Tensor | float) -> Tensor:
    """Which positions are on an image, or a piece of one, of height × width pixels."""
    # A pixel reaches half a pixel beyond its centre.
    return (rows >= -0.5) & (rows <= height - 0.5) & (cols >= -0.5) & (cols <= width - 0.5)


def positions(size: int, like: Tensor) -> Tensor:
    """0 … size-1 in the dtype and on the device of ``like``."""
    return torch.arange(size, dtype=like.dtype, device=like.device)
