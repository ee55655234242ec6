"""Update rules: from an adversarial image and a gradient to the next adversarial image, within the budget."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.errors import UsageError, check_choice, check_number, check_whole
from segtrans.random import MayDraw
from segtrans.threat import scaled

if TYPE_CHECKING:
    from segtrans.run import Run
    from segtrans.threat import Threat

StepFunction = Callable[[Tensor, Tensor], Tensor]
"""From adversarial images and gradient, both (N, 3, H, W), to the next adversarial images."""


@dataclass(frozen=True, kw_only=True)
class Step(MayDraw, ABC):
    """How a gradient is turned into the next point.

    Attributes:
        shared: whether the images of a batch share a perturbation, so that one's result depends on the others.
    """

    shared: ClassVar[bool] = False

    @property
    def uses_remaining(self) -> bool:
        """Whether :attr:`Run.remaining` is looked at."""
        return False

    @property
    def uses_tracked(self) -> bool:
        """Whether :attr:`Run.tracked` is to be what :meth:`Objective.tracked` finds, and not the objective again."""
        return False

    @abstractmethod
    def bind(self, run: Run) -> StepFunction:
        """The rule, with fresh state for one attack call; what it returns at the last iteration is inside budget and
        box.
        """


@dataclass(frozen=True, kw_only=True)
class Steepest(Step):
    """A step of fixed length in the direction that gains most in the budget's norm (the sign, for L-inf)."""

    def bind(self, run: Run) -> StepFunction:
        def steepest(adversarial: Tensor, gradient: Tensor) -> Tensor:
            return run.threat.project((run.alpha * run.threat.direction(gradient)).add_(adversarial), run.x)

        return steepest


@dataclass(frozen=True, kw_only=True)
class Proportional(Step):
    """Moves every value in proportion to its gradient, the one with the largest by the step size: step·∇/max|∇| (DAG,
    Xie et al., ICCV 2017, arXiv 1703.08603).
    """

    def bind(self, run: Run) -> StepFunction:
        def proportional(adversarial: Tensor, gradient: Tensor) -> Tensor:
            largest = gradient.abs().amax((1, 2, 3), keepdim=True)
            direction = gradient / torch.where(largest > 0, largest, 1)
            return run.threat.project(adversarial + run.alpha * direction, run.x)

        return proportional


@dataclass(frozen=True, kw_only=True)
class Damped(Step):
    """Shortens the step of a value each time its direction changes: the decay indicator of GRA (Zhu et al., ICCV 2023).

    Attributes:
        decay: factor per change of sign. As in the authors' code every value starts at 1/decay, and its first move is a
            change from nothing.
    """

    decay: float = 0.94

    def __post_init__(self) -> None:
        check_number("Damped decay", self.decay, 0.01, 1)

    def bind(self, run: Run) -> StepFunction:
        scale, last = torch.full_like(run.x, 1 / self.decay), torch.zeros_like(run.x)

        def damped(adversarial: Tensor, gradient: Tensor) -> Tensor:
            nonlocal scale, last
            sign = gradient.sign()
            scale, last = scale * torch.where(sign == last, 1.0, self.decay), sign
            return run.threat.project(adversarial + run.alpha * scale * run.threat.direction(gradient), run.x)

        return damped


@dataclass(frozen=True, kw_only=True)
class Adam(Step):
    """Adam's ascent with the step size as learning rate, projected onto the budget after each step (the optimiser of
    PAdam, Halmosi et al., ECCV 2024, arXiv 2407.09150).

    Attributes:
        betas: decay of the gradient's and of its square's running mean.
        amsgrad: divide by the largest mean square so far instead of the present one.
        floor: added to the root mean square.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    amsgrad: bool = True
    floor: float = 1e-8

    def __post_init__(self) -> None:
        check_betas("Adam", self.betas)
        if not 0 < self.floor < math.inf:
            raise UsageError(f"Adam floor is {self.floor}; allowed are numbers above 0")

    def bind(self, run: Run) -> StepFunction:
        (one, two), count = self.betas, 0
        mean, square, largest = (torch.zeros_like(run.x) for _ in range(3))

        def adam(adversarial: Tensor, gradient: Tensor) -> Tensor:
            nonlocal count, mean, square, largest
            count += 1
            mean = one * mean + (1 - one) * gradient
            square = two * square + (1 - two) * gradient.square()
            largest = largest.maximum(square) if self.amsgrad else square
            scale = largest.sqrt() / math.sqrt(1 - two**count) + self.floor
            return run.threat.project(adversarial + run.alpha / (1 - one**count) * mean / scale, run.x)

        return adam


def check_betas(name: str, betas: tuple[float, float]) -> None:
    """UsageError unless both decays are at least 0 and below 1."""
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise UsageError(f"{name} betas is {betas}; allowed are two numbers from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class Patchwise(Step):
    """Steps further than the budget allows and moves what is cut off to the neighbouring pixels (PI-FGSM, Gao et al.,
    ECCV 2020, arXiv 2007.06765). The paper's step is the budget divided by the iterations: write step_size="eps/T".

    Attributes:
        amplification: factor of the step size.
        size: side in pixels, odd, of the square around a pixel that its cut noise is spread over; 1 discards it.
    """

    amplification: float = 10.0
    size: int = 3

    def __post_init__(self) -> None:
        check_number("Patchwise amplification", self.amplification, 0)
        check_whole("Patchwise size", self.size, 1)
        if self.size % 2 == 0:
            raise UsageError(f"Patchwise size is {self.size}; allowed are odd numbers from 1")

    def bind(self, run: Run) -> StepFunction:
        corner = run.threat.direction(torch.ones_like(run.x[:1]))
        step = self.amplification * run.alpha
        # Noise is counted in amplified steps, of which the budget holds one with the paper's settings: then these are
        # whole numbers, and neighbours that cancel each other do so in any precision.
        noise, limit = torch.zeros_like(run.x), round(run.threat.radius / step, 9) if step else math.inf

        def patchwise(adversarial: Tensor, gradient: Tensor) -> Tensor:
            nonlocal noise
            direction = run.threat.direction(gradient) / corner
            noise = noise + direction
            cut = (noise.abs() - limit).clamp_min(0) * noise.sign()
            around = _around(cut, self.size)
            spread = around.sign().where(run.allowed & (around.abs() > _TIE), 0)
            noise = noise + spread
            return run.threat.project(adversarial + step * corner * (direction + spread), run.x)

        return patchwise


# What rounding leaves of neighbours that cancel each other, in amplified steps.
_TIE = 1e-5


def _around(values: Tensor, size: int) -> Tensor:
    """For every pixel the sum over the square around it, itself left out and zero outside the image."""
    (height, width), half = values.shape[-2:], size // 2
    padded, total = F.pad(values, (half,) * 4), torch.zeros_like(values)
    for row in range(size):
        for col in range(size):
            if (row, col) != (half, half):
                total = total + padded[..., row : row + height, col : col + width]
    return total


@dataclass(frozen=True, kw_only=True)
class Adaptive(Step):
    """Momentum steps that begin at twice the radius and are halved, image by image, when progress stalls; the best
    point so far is where they go on from and what is returned (Auto-PGD, Croce & Hein, ICML 2020, arXiv 2003.01690).

    T iterations are T gradient evaluations and T-1 steps: the original with T-1 iterations, which spends one evaluation
    more than it has iterations. A single iteration steps without looking. The attack's step size has no say. What is
    best is judged by the objective where the gradient was last asked, so the rule goes with gradients of z alone.

    Attributes:
        momentum: weight of the new move; the last one has the rest.
        progress: share of the steps between two checks that must gain, or the step is halved.
        stages: (share of the iterations, factor of the radius) one after the other, each a search of its own that
            begins at the best point of the one before, projected; ((0.3, 2), (0.3, 1.5), (0.4, 1)) is SEA's schedule.
        judge: what a stage leaves to the next, and the last one returns: the point of the highest ``"objective"``, or
            as in SEA's code that of the lowest ``"accuracy"`` (with a target, the fewest pixels elsewhere), since an
            objective of unfinished pixels falls as they are finished. Steps are then halved, and begun anew from the
            best point, not by the objective either but by what it is tracked by (:meth:`Objective.tracked`).
    """

    momentum: float = 0.75
    progress: float = 0.75
    stages: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    judge: Literal["objective", "accuracy"] = "objective"

    def __post_init__(self) -> None:
        check_number("Adaptive momentum", self.momentum, 0, 1)
        check_number("Adaptive progress", self.progress, 0, 1)
        positive = all(len(stage) == 2 and min(stage) > 0 for stage in self.stages)
        if not positive or not self.stages or self.stages[-1][1] != 1 or abs(sum(s for s, _ in self.stages) - 1) > 1e-6:
            raise UsageError(
                f"Adaptive stages is {self.stages}; allowed are pairs of positive numbers (share, factor) "
                "whose shares add up to 1 and whose last factor is 1"
            )
        check_choice("Adaptive judge", self.judge, ("objective", "accuracy"))

    @property
    def uses_remaining(self) -> bool:
        return self.judge == "accuracy"

    @property
    def uses_tracked(self) -> bool:
        return self.judge == "accuracy"

    def bind(self, run: Run) -> StepFunction:
        ends = [round(share * run.iterations) for share in accumulate(share for share, _ in self.stages)]
        balls = [scaled(run.threat, factor) for _, factor in self.stages]
        # Short attacks skip stages.
        plan = [(end, ball) for start, end, ball in zip([0, *ends], ends, balls, strict=False) if start < end]
        search: _Search | None = None

        def adaptive(adversarial: Tensor, gradient: Tensor) -> Tensor:
            nonlocal search
            end, ball = plan[0]
            search = search or _Search(self, run, ball, end - 1 - run.iteration)
            search.look(adversarial, gradient)
            if run.iteration + 1 < end:
                return search.step()
            point = search.found if search.steps else search.step()
            search = None
            plan.pop(0)
            return (plan[0][1] if plan else run.threat).project(point, run.x)

        return adaptive


class _Search:
    """One stage of :class:`Adaptive`, of a given number of steps within one ball."""

    def __init__(self, rule: Adaptive, run: Run, ball: Threat, steps: int) -> None:
        self.rule, self.run, self.ball, self.steps = rule, run, ball, steps
        self.size = torch.full_like(run.x[:, :1, :1, :1], 2 * ball.radius)
        # The checks' schedule in whole steps, as the authors' code has it.
        self.period = max(int(0.22 * steps), 1)
        self.shorter, self.shortest = max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)
        self.looks = self.since = 0

    def look(self, point: Tensor, gradient: Tensor) -> None:
        """Takes in the gradient and the objective at ``point``, and halves steps where that is due."""
        loss = self.run.tracked.view(-1, 1, 1, 1)
        merit = loss if self.rule.judge == "objective" else -self.run.remaining.view(-1, 1, 1, 1)
        if self.looks == 0:
            self.found, self.merit = point, merit
            self.best, self.best_gradient, self.highest = point, gradient, loss
            self.before, self.highest_at_check = point, loss
            self.gains, self.halved = torch.zeros_like(loss), torch.ones_like(loss, dtype=torch.bool)
        else:
            better = loss > self.highest
            self.best, self.best_gradient = point.where(better, self.best), gradient.where(better, self.best_gradient)
            self.highest = loss.where(better, self.highest)
            finer = merit > self.merit
            self.found, self.merit = point.where(finer, self.found), merit.where(finer, self.merit)
            self.gains = self.gains + (loss > self.last)
            self.since += 1
        self.looks, self.last, self.point, self.gradient = self.looks + 1, loss, point, gradient
        if self.since == self.period:
            self._check()

    def _check(self) -> None:
        stuck = ~self.halved & (self.highest <= self.highest_at_check)
        self.halved = (self.gains <= self.rule.progress * self.period) | stuck
        self.size = torch.where(self.halved, self.size / 2, self.size)
        self.point = self.best.where(self.halved, self.point)
        self.gradient = self.best_gradient.where(self.halved, self.gradient)
        self.highest_at_check, self.gains, self.since = self.highest, torch.zeros_like(self.gains), 0
        self.period = max(self.period - self.shorter, self.shortest)

    def step(self) -> Tensor:
        """The next point to look at."""
        weight = self.rule.momentum if self.looks > 1 else 1.0
        x, point = self.run.x, self.point
        ahead = self.ball.project(point + self.size * self.ball.direction(self.gradient), x)
        moved = point + (ahead - point) * weight + (point - self.before) * (1 - weight)
        self.before = point
        return self.ball.project(moved, x)


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
