"""Gradients made of an ensemble's members, which are asked one by one whatever the ensemble averages.

On a surrogate that is no ensemble they see a single member. Parts that remember gradients, such as Momentum, belong
after these: before them they would take all members for one. Distances are in multiples of the budget's radius.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.errors import check_number, check_whole
from segtrans.gradients.base import GradientFunction, GradientTransform, normalise
from segtrans.lengths import safe_divide

if TYPE_CHECKING:
    from segtrans.run import Run


@dataclass(frozen=True, kw_only=True)
class _OneByOne(GradientTransform):
    """Asks the members of an ensemble one by one."""

    apart: ClassVar[bool] = True

    @property
    def elsewhere(self) -> bool:
        return True

    @property
    def evaluations(self) -> int:
        return self.evaluations_on(1)

    @abstractmethod
    def evaluations_on(self, members: int) -> int: ...


def _each(gradient: GradientFunction, z: Tensor, run: Run) -> Tensor:
    """Every member's gradient, (M, N, 3, H, W)."""
    return torch.stack([run.ask(gradient, z, member) for member in range(len(run.members))])


@dataclass(frozen=True, kw_only=True)
class VarianceReduced(_OneByOne):
    """What momentum has gathered after an inner path from z, each step of which asks one random member k and corrects
    its gradient by how far it was off at z: ∇_k(point) − (∇_k(z) − ∇(z)), where ∇ is the mean of the members' gradients
    (SVRE, Xiong et al., CVPR 2022, arXiv 2111.10752).

    Every image draws its own members. ∇_k(z) is taken once per member and not again in every step, and the first step
    needs none, since at z itself the corrected gradient is ∇(z) whatever the member. The authors' code averages logits
    for ∇, and steps a tenth of the budget; ours keeps that length whatever the attack's step. On one surrogate nothing
    is left to correct: it is momentum along a path of ``rounds`` steps. With input transformations that draw, every
    gradient sees other numbers, so that some of what is corrected is the transformation's.

    Attributes:
        rounds: steps of the path per member; 1 on one surrogate takes the gradient at z.
        stride: length of a step, in budgets.
        decay: of the momentum along the path.
    """

    rounds: int = 4
    stride: float = 0.1
    decay: float = 1.0

    def __post_init__(self) -> None:
        check_whole("VarianceReduced rounds", self.rounds, 1)
        check_number("VarianceReduced stride", self.stride, 0)
        check_number("VarianceReduced decay", self.decay, 0)

    @property
    def draws(self) -> bool:
        return True

    def evaluations_on(self, members: int) -> int:
        return members + self.rounds * members - 1

    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        stream, count, size = run.stream(), len(run.members), self.stride * run.threat.radius

        def reduced(z: Tensor) -> Tensor:
            draw, own = run.draw(stream), _each(gradient, z, run)
            here = torch.arange(len(z), device=z.device)
            mean, point, member = own.mean(0), z, torch.zeros_like(here)
            velocity = normalise(mean)
            for _ in range(self.rounds * count - 1):
                along = run.threat.direction(velocity.where(run.allowed, 0))
                point = run.threat.project(point + size * along, run.x)
                if count > 1:
                    member = draw.integers(torch.full_like(here, count))
                corrected = run.ask(gradient, point, member) - (own[member, here] - mean)
                velocity = self.decay * velocity + normalise(corrected)
            return velocity

        return reduced


@dataclass(frozen=True, kw_only=True)
class AdaptiveWeights(_OneByOne):
    """Members' gradients weighted by how well a step along each raises the others' objectives, and dropped at pixels
    where they disagree (AdaEA, Chen et al., ICCV 2023, arXiv 2308.02897).

    With x_j one step of the attack along the gradient of member j, its weight is the softmax over j of ``contrast``
    times the sum over the other members i of L_i(x_j) / L_i(x_i), where L_i is the objective of member i: a mean over
    an image's pixels, so that every image has weights of its own. Targeted attacks take the inverse ratios, since they
    lower the loss. The ratio wants an objective that is positive, such as a cross-entropy; where L_i(x_i) is zero it
    counts as 1. These M² objectives take a forward pass each, which no gradient evaluation counts.

    Pixels are dropped where the cosine of two members' gradients, over the three channels and on average over all
    pairs, lies below ``threshold``. The authors' code weighs logits instead of gradients, finds its weights in the
    first iteration alone, leaves a member out of that average, starts at random and lets momentum decay by 0.9. On one
    surrogate the gradient is left as it is. With input transformations that draw, members are asked with different
    numbers, so that some of their disagreement is the transformation's.

    Attributes:
        contrast: the paper's β; 0 weighs all members alike.
        threshold: the paper's η; -1 drops nothing.
    """

    contrast: float = 10.0
    threshold: float = -0.3

    def __post_init__(self) -> None:
        check_number("AdaptiveWeights contrast", self.contrast, 0)
        check_number("AdaptiveWeights threshold", self.threshold, -1, 1)

    def evaluations_on(self, members: int) -> int:
        return members

    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        if len(run.members) == 1:
            return gradient

        def adaptive(z: Tensor) -> Tensor:
            own = _each(gradient, z, run)
            weights = self._weights(own, z, run)[..., None, None, None]
            return (weights * own).sum(0).where(_agreement(own) >= self.threshold, 0)

        return adaptive

    def _weights(self, own: Tensor, z: Tensor, run: Run) -> Tensor:
        """(M, N), summing to one over the members."""
        steps = (run.alpha * run.threat.direction(g.where(run.allowed, 0)) for g in own)
        reached = [run.threat.project(z + step, run.x) for step in steps]
        # (i, j, N): member i's objective at the point that member j would go to.
        found = torch.stack([torch.stack([run.ask(run.value, x, i) for x in reached]) for i in range(len(own))])
        theirs, his = found, found.diagonal().T[:, None].expand_as(found)
        above, below = (his, theirs) if run.targeted else (theirs, his)
        ratio = torch.where(below.abs() > 1e-12, above / below, 1)
        return (self.contrast * (ratio.sum(0) - ratio.diagonal().T)).softmax(0)


def _agreement(gradients: Tensor) -> Tensor:
    """Mean cosine of all pairs of gradients (M, N, 3, H, W) at each pixel, (N, 1, H, W); one of zero has cosine 0."""
    # Squares of raw gradients can underflow.
    units = F.normalize(safe_divide(gradients, gradients.abs().amax(2, keepdim=True)), dim=2)
    both = units.sum(0).square().sum(1, keepdim=True) - units.square().sum((0, 2))[:, None]
    return both / (len(units) * (len(units) - 1))


@dataclass(frozen=True, kw_only=True)
class Sequential(_OneByOne):
    """The way from z to where a path leads that first goes back against the ensemble's gradient, to where the objective
    is flat, and then one step along each member's, in turn, with momentum, which favours members whose gradients agree:
    the common weakness attack (CWA, Chen et al., ICLR 2024, arXiv 2303.09105).

    The members' steps are β·∇/‖∇‖₂ in the paper. Its images of 3·224² values turn the β = 250 of the authors' code into
    10 budgets per value, as a root mean square, which does not depend on the size of an image; most values therefore
    end at the edge of the budget. The authors take the first gradient of averaged logits; ours is of whatever the
    ensemble averages. On one surrogate it is one long step along the sharpness-aware gradient of ``sam``.

    Attributes:
        reverse: length of the first step, in budgets; 0 leaves it out, which is the paper's cosine similarity
            encourager alone.
        stride: length of the other steps, in budgets: a root mean square over an image's values, or for L2 their
            Euclidean length.
        decay: of the momentum from member to member and from one iteration to the next.
    """

    reverse: float = 1 / 15
    stride: float = 10.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        check_number("Sequential reverse", self.reverse, 0)
        check_number("Sequential stride", self.stride, 0)
        check_number("Sequential decay", self.decay, 0)

    def evaluations_on(self, members: int) -> int:
        return (2 if self.reverse else 1) * members

    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        velocity = torch.zeros_like(run.x)

        def sequential(z: Tensor) -> Tensor:
            nonlocal velocity
            point = z
            if self.reverse:
                back = run.threat.direction(gradient(z).where(run.allowed, 0))
                point = run.threat.project(z - self.reverse * run.threat.radius * back, run.x)
            for member in range(len(run.members)):
                along = normalise(run.ask(gradient, point, member).where(run.allowed, 0))
                length = along.square().mean((1, 2, 3), keepdim=True).sqrt()
                velocity = self.decay * velocity + safe_divide(along, length)
                point = run.threat.project(point + self.stride * run.reach * velocity, run.x)
            return point - z

        return sequential
