"""What a gradient transformation is, and what several of them share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segtrans.errors import UsageError
from segtrans.threat import LInf, Threat

if TYPE_CHECKING:
    from segtrans.run import Run

GradientFunction = Callable[[Tensor], Tensor]
"""From images (N, 3, H, W) to the gradient of the objective there, of the same shape."""


@dataclass(frozen=True, kw_only=True)
class GradientTransform(ABC):
    """Turns one gradient function into another; ``evaluations`` is how often it calls the inner one."""

    @property
    def evaluations(self) -> int:
        return 1

    @abstractmethod
    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        """The new gradient function, with fresh state for one attack call."""


def normalise(gradient: Tensor) -> Tensor:
    """Each image's gradient divided by its mean absolute value; an all-zero gradient stays zero."""
    scale = gradient.abs().mean((1, 2, 3), keepdim=True)
    return gradient / torch.where(scale > 0, scale, 1)


def scaled(threat: Threat, factor: float) -> Threat:
    """The same budget with ``factor`` times the radius; an L-inf ball never reaches further than the box."""
    radius = factor * threat.radius
    return replace(threat, eps=min(radius, 1.0) if isinstance(threat, LInf) else radius)


def check_number(what: str, value: object, least: float, most: float = math.inf) -> None:
    """UsageError unless ``value`` is a finite number from ``least`` to ``most``."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    # NaN fails every comparison.
    if not (least <= number <= most and number < math.inf):
        bounds = f"from {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise UsageError(f"{what} is {value!r}; allowed are numbers {bounds}")
