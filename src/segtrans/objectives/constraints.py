"""Objectives that hold a multiplier for every pixel: every pixel is to be wrong, and what is kept small is the
perturbation, by :class:`segtrans.steps.Proximal`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.data.base import VOID
from segtrans.devices import CPU
from segtrans.errors import UsageError, check_number, check_whole
from segtrans.objectives.base import Objective, valid_mean
from segtrans.objectives.divergences import margins
from segtrans.objectives.pixels import unfinished

if TYPE_CHECKING:
    from segtrans.attack import Attack
    from segtrans.run import Run, View

Constrained = Callable[["View"], Tensor]


@dataclass(frozen=True, kw_only=True)
class PixelMultipliers(Objective):
    """What objectives with a multiplier per pixel share. Since a multiplier stays where its pixel is, they go with no
    input transformations; the members of an ensemble that are asked one by one share them.
    """

    def check(self, attack: Attack) -> None:
        if attack.transforms:
            name, other = type(self).__name__, type(attack.transforms[0]).__name__
            raise UsageError(
                f"objective {name} has a multiplier per pixel and goes with no input transformation; leave out {other}"
            )

    def bind(self, run: Run) -> Constrained:
        state: Constrained | None = None

        def constrained(view: View) -> Tensor:
            nonlocal state
            # The shape and type of logits are known only now.
            state = state or self.begin(run, view)
            loss = state(view)
            return loss if run.targeted else -loss

        return constrained

    def __call__(self, view: View, run: Run) -> Tensor:
        return self.bind(run)(view)

    @abstractmethod
    def begin(self, run: Run, view: View) -> Constrained:
        """What is to be made small, (B,), with the multipliers' state at the attack's beginning."""


@dataclass(frozen=True, kw_only=True)
class AugmentedLagrangian(PixelMultipliers):
    """Minus the mean penalty of the constraints that every pixel be wrong (ALMA-prox, Rony et al., CVPR 2023, arXiv
    2206.07179). A pixel's constraint is y <= 0 for y = w (f_label - f_other + tolerance) / (f_1st - f_3rd), where
    f_other is the largest wrong logit and w the image's scale; with two classes nothing is divided. Towards a target a
    pixel is to be there, and f_other - f_label takes the place of the difference.

    The penalty is m y + m r y² + r² y³ / 6 where y >= 0 and m y / (1 - max(r, 1) y) elsewhere, the paper's P2. Its
    slope becomes the next multiplier m, after a running mean; r grows where a pixel has not been wrong since the last
    check and its y has not fallen. The authors' code has m y for the first term of the slope where y >= 0; here the
    slope is the penalty's own.

    Attributes:
        rest: an image is done when no more than this share of its valid pixels is left. Up to that share, which rises
            from 0 over the iterations, the pixels with the largest y are left out.
        multiplier, penalty: m and r at first.
        growth: factor of r, which ends at 1e8.
        every: iterations between checks.
        progress: y has fallen when it is at most this share of what it was.
        memory: weight of the old m in the running mean.
        scale: least and greatest w, which starts with the greatest.
        rate: how much w shrinks when an image is done, and grows when it is not.
        tolerance: added to the difference of logits.
    """

    rest: float = 0.01
    multiplier: float = 1.0
    penalty: float = 0.01
    growth: float = 2.0
    every: int = 10
    progress: float = 0.95
    memory: float = 0.8
    scale: tuple[float, float] = (0.1, 1.0)
    rate: float = 0.02
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        check_whole("AugmentedLagrangian every", self.every, 1)
        for name in ("rest", "multiplier", "progress", "memory"):
            check_number(f"AugmentedLagrangian {name}", getattr(self, name), 0, 1)
        check_number("AugmentedLagrangian penalty", self.penalty, 0)
        check_number("AugmentedLagrangian growth", self.growth, 1)
        check_number("AugmentedLagrangian rate", self.rate, 0, 0.99)
        check_number("AugmentedLagrangian tolerance", self.tolerance, 0)
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise UsageError(
                f"AugmentedLagrangian scale is {self.scale}; allowed are two numbers above 0, the least first"
            )

    def begin(self, run: Run, view: View) -> Constrained:
        shape = len(run.x), *view.labels.shape[1:]
        multiplier, penalty = (view.logits.new_full(shape, value) for value in (self.multiplier, self.penalty))
        before, done_since = torch.full_like(multiplier, math.nan), torch.zeros_like(multiplier, dtype=torch.bool)
        scale = view.logits.new_full((len(run.x), 1, 1), self.scale[1])

        def lagrangian(view: View) -> Tensor:
            at, valid = view.places, view.labels != VOID
            left = unfinished(view, run) & valid
            counts = valid.sum((1, 2)).clamp_min(1)
            done = (left.sum((1, 2)) / counts <= self.rest).view(-1, 1, 1)
            scale[at] = torch.where(done, scale[at] / (1 + self.rate), scale[at] / (1 - self.rate)).clamp(*self.scale)
            y = scale[at] * self._constraints(view, run)
            fixed = y.detach()
            counted = valid & (fixed <= self._largest(fixed.where(valid, -math.inf), counts, run))

            m, r, last = multiplier[at], penalty[at], before[at]
            first, due = last.isnan(), (run.iteration + 1) % self.every == 0
            since = done_since[at] | ~left
            stuck = ~(first | since | (fixed * counted <= self.progress * last))
            r = torch.where(stuck & due, (self.growth * r).clamp_max(_STIFFEST), r)
            slope = _slope(fixed, m, r) * counted
            m = torch.where(first, m, self.memory * m + (1 - self.memory) * slope).clamp(1e-12, 1)
            multiplier[at], penalty[at], done_since[at] = m, r, since & (not due)
            before[at] = fixed.where(first | due, last)
            return valid_mean(_penalty(y, m, r) * counted, view.labels)

        return lagrangian

    def _constraints(self, view: View, run: Run) -> Tensor:
        """How far every pixel is from where it is to be, (B, H, W); at most 0 where it is there."""
        lead = margins(view) if run.targeted else -margins(view)
        spread = 1.0
        if view.logits.shape[1] > 2:
            top = view.logits.topk(3, 1).values
            spread = top[:, 0] - top[:, 2] + 1e-8
        return (lead + self.tolerance) / spread

    def _largest(self, y: Tensor, counts: Tensor, run: Run) -> Tensor:
        """The largest constraint that still counts, (B, 1, 1)."""
        flat, passed = y.flatten(1), run.iteration / max(1, run.iterations - 1)
        out, most = ((self.rest * n * passed).long() for n in (counts, torch.tensor(flat.shape[1], device=CPU)))
        # As many as without void: how many are left out a GPU would have to be waited for. At least one, so that there
        # is something to look up where none is left out: then the largest of all counts.
        top = flat.topk(max(1, int(most)), 1).values
        return top.gather(1, (out - 1).clamp_min(0)[:, None])[..., None]


# A penalty that doubles without end leaves the range of float32.
_STIFFEST = 1e8


def _penalty(y: Tensor, m: Tensor, r: Tensor) -> Tensor:
    beyond = m * y + m * r * y**2 + r**2 * y**3 / 6
    return torch.where(y >= 0, beyond, m * y / (1 - r.clamp_min(1) * y.clamp_max(0)))


def _slope(y: Tensor, m: Tensor, r: Tensor) -> Tensor:
    beyond = m + 2 * m * r * y + r**2 * y**2 / 2
    return torch.where(y >= 0, beyond, m / (1 - r.clamp_min(1) * y.clamp_max(0)) ** 2)


@dataclass(frozen=True, kw_only=True)
class PrimalDual(PixelMultipliers):
    """Minus the sum over pixels of softplus(f_label - f_other), each with a weight from the probability simplex that it
    shares with the perturbation's norm (primal-dual gradient descent, Matyasko & Chau, arXiv 2106.01538, per pixel as
    in the library adv-lib). f_other is the largest wrong logit; towards a target the difference is the other way round.

    A weight is a pixel's odds over one plus the sum of all odds, the one being the norm's, averaged over iterations.
    Its odds grow by the factor exp(rate) while the pixel is right and shrink by it while it is wrong.

    Attributes:
        ratio: the norm's weight at first, relative to that of all pixels together.
        rate: logarithm of the odds' factor, at first.
        final: that logarithm at the end, as a share of the rate; in between it falls along a line.
        memory: weight of the old weights in their running mean.
        least: odds stay between this and its inverse.
    """

    ratio: float = 1.0
    rate: float = 0.1
    final: float = 0.1
    memory: float = 0.9
    least: float = 1e-12

    def __post_init__(self) -> None:
        check_number("PrimalDual ratio", self.ratio, 1e-9)
        check_number("PrimalDual rate", self.rate, 0)
        check_number("PrimalDual final", self.final, 0, 1)
        check_number("PrimalDual memory", self.memory, 0, 1)
        check_number("PrimalDual least", self.least, 1e-30, 1)

    def begin(self, run: Run, view: View) -> Constrained:
        odds = view.logits.new_zeros(len(run.x), *view.labels.shape[1:])
        weights, norms = torch.zeros_like(odds), odds.new_zeros(len(run.x), 1, 1)

        def lagrangian(view: View) -> Tensor:
            at, valid = view.places, view.labels != VOID
            # No odds but those at the very beginning are zero.
            now, old = odds[at], self.memory * (norms[at] > 0).to(norms)
            now = now.where(now > 0, 1 / (self.ratio * valid.sum((1, 2), keepdim=True).clamp_min(1).to(now)))
            norm = 1 / (1 + (now * valid).sum((1, 2), keepdim=True))
            weights[at] = old * weights[at] + (1 - old) * norm * now * valid
            norms[at] = old * norms[at] + (1 - old) * norm
            share = norms[at] / weights[at].sum((1, 2), keepdim=True).clamp_min(1e-12)
            run.norm_weight[at] = share.flatten().to(run.norm_weight)

            lead = margins(view) if run.targeted else -margins(view)
            passed = run.iteration / max(1, run.iterations - 1)
            factor = math.exp(self.rate * (1 - passed * (1 - self.final)))
            moved = torch.where(lead > 0, now * factor, now.where(lead == 0, now / factor))
            odds[at] = moved.clamp(self.least, 1 / self.least)
            return (_softplus(lead) * weights[at]).sum((1, 2))

        return lagrangian


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), whose slope is rounded to float32: the last digit of an exponential depends on where in memory a
    number stands, and so on the batch.
    """
    fixed = x.detach()
    return F.softplus(fixed) + (x - fixed) * fixed.sigmoid().float().to(fixed)
