"""Budgets: how far an image may be moved, how to stay inside, and which way is steepest."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from segtrans.devices import CPU
from segtrans.errors import UsageError
from segtrans.lengths import image_lengths, safe_divide
from segtrans.random import Draw


def fraction(value: float | str, what: str) -> float:
    """A number, or a string such as ``"8/255"`` or ``"0.03"``, as a float; UsageError names ``what`` otherwise."""
    try:
        if isinstance(value, str):
            above, slash, below = value.partition("/")
            number = float(above) / (float(below) if slash else 1)
        else:
            number = math.nan if isinstance(value, bool) else float(value)
    except (ValueError, ZeroDivisionError, TypeError):
        raise UsageError(f"{what} is {value!r}; allowed are numbers and fractions such as 8/255") from None
    if not 0 <= number < math.inf:
        raise UsageError(f"{what} is {value!r}; allowed are numbers from 0")
    return number


def in_grey_levels(value: float) -> str:
    """``0.03137…`` as ``8/255`` where it is a whole number of grey levels below 255, else as a plain number."""
    levels = value * 255
    return f"{round(levels)}/255" if value < 1 and abs(levels - round(levels)) < 1e-6 else f"{value:g}"


def exactly(value: float) -> str:
    """As :func:`in_grey_levels` where that loses nothing, else with every digit: results are filed under it."""
    shown = in_grey_levels(value)
    return shown if float(Fraction(shown)) == value else repr(value)


@dataclass(frozen=True)
class Threat(ABC):
    """A ball of radius ``eps`` around each image, within the box [0, 1]. Images are (N, 3, H, W)."""

    eps: float | str = "8/255"

    norm: ClassVar[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", fraction(self.eps, "eps"))

    @property
    def radius(self) -> float:
        return float(self.eps)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({exactly(self.radius)!r})"

    @abstractmethod
    def start(self, x: Tensor, draw: Draw) -> Tensor:
        """A random point of the ball, inside the box."""

    @abstractmethod
    def project(self, adversarial: Tensor, x: Tensor) -> Tensor:
        """A point in the ball and in the box: the nearest one, or for L2 the nearest of the ball moved into the box."""

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The unit step of this norm that gains most along ``gradient``; zero where the gradient is zero."""

    def ahead(self, velocity: Tensor) -> Tensor:
        """How far momentum looks ahead, in steps, given an accumulated gradient of mean absolute value 1 per addend."""
        return velocity

    def reach(self, x: Tensor) -> float:
        """By how much all values of one of the images ``x`` may change at once, each by the same: eps in L-inf."""
        corner = self.direction(torch.ones(1, *x.shape[1:], dtype=torch.float64, device=CPU))
        return self.radius * float(corner[0, 0, 0, 0])

    @abstractmethod
    def distance(self, adversarial: Tensor, x: Tensor) -> Tensor:
        """Distance per image, (N,)."""

    @abstractmethod
    def quantise(self, adversarial: Tensor, x: Tensor) -> Tensor:
        """The adversarial images on the 8-bit grid, still within the ball where ``x`` is on the grid itself."""


@dataclass(frozen=True, repr=False)
class LInf(Threat):
    """Every channel value moves by at most ``eps`` (on the [0, 1] scale; write ``"8/255"``, never ``8``)."""

    norm: ClassVar[str] = "L-inf"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.radius > 1:
            raise UsageError(
                f"eps is {self.radius:g}; images are in [0, 1], "
                f"so write {self.radius:g}/255 for {self.radius:g} grey levels"
            )

    def start(self, x: Tensor, draw: Draw) -> Tensor:
        return (x + draw.uniform(*x.shape[1:], low=-self.radius, high=self.radius)).clamp(0, 1)

    def project(self, adversarial: Tensor, x: Tensor) -> Tensor:
        return (adversarial - x).clamp_(-self.radius, self.radius).add_(x).clamp_(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def distance(self, adversarial: Tensor, x: Tensor) -> Tensor:
        return (adversarial - x).abs().flatten(1).amax(1)

    def quantise(self, adversarial: Tensor, x: Tensor) -> Tensor:
        # Rounded, not truncated: truncation shifts every image by half a level and overshoots the radius downwards.
        levels = int(self.radius * 255 + 1e-6)
        grid = (x * 255).round()
        return ((adversarial * 255).round() - grid).clamp(-levels, levels).add(grid).clamp(0, 255) / 255


@dataclass(frozen=True, repr=False)
class L2(Threat):
    """The Euclidean length of an image's perturbation, over all its pixels and channels, is at most ``eps``."""

    eps: float | str = 5.0

    norm: ClassVar[str] = "L2"

    def start(self, x: Tensor, draw: Draw) -> Tensor:
        # Sum of four uniforms: close enough to a Gaussian for a direction that favours no axis.
        direction = sum((draw.uniform(*x.shape[1:], low=-1, high=1) for _ in range(4)), torch.zeros_like(x))
        share = draw.uniform(1, 1, 1)
        return self.project(x + self.radius * share * self.direction(direction), x)

    def project(self, adversarial: Tensor, x: Tensor) -> Tensor:
        delta = adversarial - x
        length = image_lengths(delta)
        # The box only shortens a perturbation, so clamping last leaves the ball intact.
        return (x + delta * (self.radius / length.clamp_min(1e-12)).clamp_max(1)).clamp(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        # Squares of values that are smaller underflow.
        largest = gradient.abs().amax((1, 2, 3), keepdim=True)
        gradient = gradient / torch.where((largest > 0) & (largest < 1e-15), largest, 1)
        length = image_lengths(gradient)
        return torch.where(length > 0, safe_divide(gradient, length), 0)

    def ahead(self, velocity: Tensor) -> Tensor:
        # The mean absolute value says nothing about a Euclidean length.
        return self.direction(velocity)

    def distance(self, adversarial: Tensor, x: Tensor) -> Tensor:
        return image_lengths(adversarial - x).flatten()

    def quantise(self, adversarial: Tensor, x: Tensor) -> Tensor:
        grid = (x * 255).round()
        delta = adversarial * 255 - grid
        whole, rest = delta.trunc(), delta.frac().abs()
        # Rounding to the nearest level can leave the ball; truncation never does, but it wipes out small perturbations.
        # So each image rounds away from zero from the smallest fraction, at least one half, that keeps it inside.
        least, safe = torch.full_like(delta[:, :1, :1, :1], 0.5), torch.ones_like(delta[:, :1, :1, :1])
        threshold = least
        for _ in range(_HALVINGS):
            inside = image_lengths((whole + delta.sign() * (rest >= threshold)).double()) <= 255 * self.radius
            safe, least = torch.where(inside, threshold, safe), torch.where(inside, least, threshold)
            threshold = (least + safe) / 2
        return (whole + delta.sign() * (rest >= safe) + grid).clamp(0, 255) / 255


def scaled(threat: Threat, factor: float) -> Threat:
    """The same budget with ``factor`` times the radius; an L-inf ball never reaches further than the box."""
    radius = factor * threat.radius
    return replace(threat, eps=min(radius, 1.0) if isinstance(threat, LInf) else radius)


# The fraction from which 8-bit values are rounded away from zero is found to 2^-20 of a level.
_HALVINGS = 20
