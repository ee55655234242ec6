"""Steps whose length follows progress."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from segtrans.errors import UsageError, check_choice, check_number
from segtrans.steps.base import Step, StepFunction
from segtrans.threat import scaled

if TYPE_CHECKING:
    from segtrans.run import Run
    from segtrans.threat import Threat


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
