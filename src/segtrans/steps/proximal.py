"""Steps towards the least perturbation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segtrans.errors import check_number
from segtrans.steps.base import Step, StepFunction, check_betas

if TYPE_CHECKING:
    from segtrans.run import Run


@dataclass(frozen=True, kw_only=True)
class Proximal(Step):
    """Steps that make the objective large and the perturbation's L-inf norm small: along the gradient in a metric that
    follows its size, then the proximal operator of the norm in the same metric (ALMA-prox, Rony et al., CVPR 2023,
    arXiv 2206.07179; with momentum PDPGD's proximal Adam, Matyasko & Chau, arXiv 2106.01538).

    Returned is, image by image, the smallest perturbation looked at that leaves no more than the share ``rest`` of the
    valid pixels to be done; where there is none, the one that left least. Only the box bounds the search: with
    ``LInf(1)`` that perturbation is the result, and a smaller budget projects it at the end. T iterations look at T
    points, the first of which is the start, and take T-1 steps.

    Attributes:
        rest: share of an image's valid pixels.
        betas: decay of the gradient's and of its square's running mean; the metric is the root of the latter.
        final: the step size at the end, as a share of the attack's.
        floor: added to the metric.
        wait: hold the step size until an image is done for the first time, at most for half of the iterations, and
            then shorten it like 1/t; otherwise shorten it exponentially from the start.
    """

    rest: float = 0.01
    betas: tuple[float, float] = (0.0, 0.8)
    final: float = 0.1
    floor: float = 1e-20
    wait: bool = True

    def __post_init__(self) -> None:
        check_number("Proximal rest", self.rest, 0, 1)
        check_betas("Proximal", self.betas)
        check_number("Proximal final", self.final, 1e-6, 1)
        check_number("Proximal floor", self.floor, 1e-30)

    @property
    def uses_remaining(self) -> bool:
        return True

    def bind(self, run: Run) -> StepFunction:
        (one, two), x = self.betas, run.x
        best, mean, square = x, torch.zeros_like(x), torch.zeros_like(x)
        norm, lowest = (torch.full_like(x[:, 0, 0, 0], math.inf) for _ in range(2))
        half = run.iterations // 2
        since, reached = torch.full_like(norm, half), torch.zeros_like(norm, dtype=torch.bool)

        def look(adversarial: Tensor) -> None:
            nonlocal best, norm, lowest, since, reached
            left, now = run.remaining, (adversarial - x).abs().amax((1, 2, 3))
            done = left <= self.rest
            better = torch.where(reached, done & (now <= norm), left <= lowest)
            best = adversarial.where(better.view(-1, 1, 1, 1), best)
            norm, lowest = now.where(better, norm), left.to(lowest).where(better, lowest)
            since = since.where(reached | ~done, min(run.iteration, half))
            reached = reached | done

        def proximal(adversarial: Tensor, gradient: Tensor) -> Tensor:
            nonlocal mean, square
            look(adversarial)
            t, count = run.iteration, run.iteration + 1
            if count == run.iterations:
                return run.threat.project(best, x)
            size = torch.full_like(norm, self.final ** (t / run.iterations))
            if self.wait:
                scale = self.final * (run.iterations - since)
                size = scale / (scale + (1 - self.final) * (t - since).clamp_min(0))
            size = run.alpha * size.view(-1, 1, 1, 1)
            mean = one * mean + (1 - one) * gradient
            square = two * square + (1 - two) * gradient.square()
            metric = (square / (1 - two**count)).sqrt() + self.floor
            moved = adversarial - x + size / (1 - one**count) * mean / metric
            return x + shrunk(moved, metric, size.flatten() * run.norm_weight, -x, 1 - x)

        return proximal


def shrunk(delta: Tensor, metric: Tensor, amount: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The proximal operator of ``amount`` (N,) times the L-inf norm, within bounds that hold zero: the d between
    ``low`` and ``high`` that minimises amount·max|d| + Σ metric·(d - delta)² / 2, image by image; all others are
    (N, 3, H, W).
    """
    inside = delta.clamp(low, high)
    # The solution cuts what is inside off at a level: the one where the pull of what is cut, a sum that falls with the
    # level and jumps where a bound ends, passes through the amount.
    ends, order = inside.abs().flatten(1).sort(1, descending=True)
    weights = metric.flatten(1).gather(1, order)
    pull = (weights * delta.abs().flatten(1).gather(1, order)).cumsum(1)
    level = ((pull - amount[:, None]) / weights.cumsum(1)).minimum(ends).amax(1).clamp_min(0).view(-1, 1, 1, 1)
    return inside.clamp(-level, level)
