"""Objectives on the logits that are not cross-entropy: divergences, angles and margins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segtrans.data.base import VOID
from segtrans.errors import UsageError, check_number
from segtrans.logits import largest, predicted_classes
from segtrans.objectives.base import Objective, pixel_losses, valid_mean
from segtrans.objectives.pixels import at, at_label, cosine, unfinished

if TYPE_CHECKING:
    from segtrans.run import Run, View

# An attack has one objective, so its random stream needs no number of its own; transformations count up from 1,
# gradient parts from 1000.
_STREAM = 999


def margins(view: View) -> Tensor:
    """The largest logit of a wrong class minus that of the label, (B, H, W); of class 0 where void."""
    index = view.labels.where(view.labels != VOID, 0)[:, None]
    with torch.no_grad():
        others = view.logits.scatter(1, index, -math.inf)
        rival, highest = predicted_classes(others), largest(others)
    # Which class it is decides where the gradient goes; asking for its logit is a third of differentiating a maximum.
    margin = at(view.logits, rival) - at_label(view.logits, view.labels)
    # What is not a number, whichever class it is of, stays to be seen.
    return margin + torch.zeros_like(highest).where(highest.isfinite(), torch.nan)


@dataclass(frozen=True, kw_only=True)
class JensenShannon(Objective):
    """Jensen–Shannon divergence between the softmax and the one-hot label, log 2 + (p log p - (1+p) log(1+p)) / 2 of
    the label's probability p (SEA, Croce et al., ECCV 2024, arXiv 2306.12941).

    It is bounded by log 2, and its gradient fades as p does: pixels that are done drop out. With a target it is
    minimised, and it is the pixels furthest from the target that start slowly.
    """

    def __call__(self, view: View, run: Run) -> Tensor:
        log_p = -pixel_losses(view.logits, view.labels)
        p = log_p.exp()
        # In this order of terms a sure label, and void, is exactly zero.
        divergence = (p * log_p - (1 + p) * ((1 + p) / 2).log() + (1 - p) * math.log(2)) / 2
        return valid_mean(divergence, view.labels)


@dataclass(frozen=True, kw_only=True)
class Cosine(Objective):
    """One minus the cosine between a pixel's logits and its one-hot label, f_y / ‖f‖ (PAdam-Cos, Halmosi et al., ECCV
    2024, arXiv 2407.09150). Towards a target the angle to the target's one-hot vector is made small.
    """

    def __call__(self, view: View, run: Run) -> Tensor:
        return valid_mean(1 - cosine(view.logits, view.labels), view.labels)


@dataclass(frozen=True, kw_only=True)
class Spherical(Objective):
    """Minus the label's logit on the unit sphere, -f_y / ‖f‖, of pixels still classified correctly, divided by the
    number of all valid pixels (in SEA's code, Croce et al., ECCV 2024, arXiv 2306.12941). Towards a target, of the
    pixels not there yet.
    """

    def __call__(self, view: View, run: Run) -> Tensor:
        return valid_mean(-cosine(view.logits, view.labels) * unfinished(view, run), view.labels)

    def tracked(self, view: View) -> Tensor:
        """The same of all valid pixels, (B,)."""
        return valid_mean(-cosine(view.logits, view.labels), view.labels)


@dataclass(frozen=True, kw_only=True)
class Margin(Objective):
    """The largest logit of a wrong class minus that of the label (Carlini & Wagner, S&P 2017, arXiv 1608.04644).
    Towards a target it is minimised, so that the target's logit overtakes all others.

    Attributes:
        confidence: pixels whose margin is past this, on the attack's side of zero, count no further; None for no end.
    """

    confidence: float | None = None

    def __post_init__(self) -> None:
        if self.confidence is not None and not 0 <= self.confidence < math.inf:
            raise UsageError(f"Margin confidence is {self.confidence}; allowed are numbers from 0, and None")

    def __call__(self, view: View, run: Run) -> Tensor:
        margin = margins(view)
        if self.confidence is not None:
            margin = margin.clamp_min(-self.confidence) if run.targeted else margin.clamp_max(self.confidence)
        return valid_mean(margin, view.labels)


@dataclass(frozen=True, kw_only=True)
class WrongClass(Objective):
    """The logit of a wrong class assigned to each class, minus that of the label, over pixels still classified
    correctly (dense adversary generation, Xie et al., ICCV 2017, arXiv 1703.08603).

    The assignment is a permutation without fixed points, drawn for each image; ours runs through all classes in a
    random circle. Towards a target the pixels not there yet count, and the class they are predicted as takes the place
    of the assigned one.

    Attributes:
        rest: an image is left alone once no more than this share of its valid pixels counts.
    """

    rest: float = 0.01

    def __post_init__(self) -> None:
        check_number("WrongClass rest", self.rest, 0, 1)

    @property
    def draws(self) -> bool:
        return True

    def bind(self, run: Run) -> Callable[[View], Tensor]:
        # Drawn when the number of classes is known, but with the numbers of the attack's beginning.
        draw, assigned = run.draw(_STREAM), None

        def wrong_class(view: View) -> Tensor:
            nonlocal assigned
            logits, valid = view.logits, view.labels != VOID
            if run.targeted:
                other = predicted_classes(logits.detach())
            else:
                if assigned is None:
                    assigned = _circle(draw.uniform(logits.shape[1]))
                own = view.labels.where(valid, 0)
                other = assigned[view.places].gather(1, own.flatten(1)).view(own.shape)
            active = unfinished(view, run) & valid
            enough = active.sum((1, 2)) > self.rest * valid.sum((1, 2))
            gain = at(logits, other) - at_label(logits, view.labels)
            return valid_mean(gain * active, view.labels) * enough

        return wrong_class

    def __call__(self, view: View, run: Run) -> Tensor:
        return self.bind(run)(view)


def _circle(numbers: Tensor) -> Tensor:
    """A permutation (B, C) of C classes that is one circle through all of them, in the order of ``numbers`` (B, C)."""
    order = numbers.argsort(1)
    return torch.empty_like(order).scatter_(1, order, order.roll(-1, 1))
