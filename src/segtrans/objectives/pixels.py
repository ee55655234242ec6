"""Objectives on the logits: cross-entropy and its relatives, pixels weighted by how far the attack has come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor
from torch.autograd import Function

from segtrans.data.base import VOID
from segtrans.errors import UsageError, check_choice, check_number
from segtrans.lengths import safe_divide
from segtrans.logits import largest
from segtrans.objectives.base import Objective, pixel_losses, valid_mean

if TYPE_CHECKING:
    from segtrans.run import Run, View


def unfinished(view: View, run: Run) -> Tensor:
    """Where the attack is not done yet, (B, H, W): pixels still right or, with a target, still elsewhere."""
    logits = view.logits.detach()
    # As asking for the argmax, which takes many times as long as the maximum, but where classes are level.
    right = at_label(logits, view.labels) >= largest(logits)
    return (right & (view.labels != VOID)) != run.targeted


def at_label(values: Tensor, labels: Tensor) -> Tensor:
    """The value (B, C, H, W) of each pixel's own label, (B, H, W); that of class 0 where void."""
    return at(values, labels.where(labels != VOID, 0))


def at(values: Tensor, index: Tensor) -> Tensor:
    """The value (B, C, H, W) of one channel per pixel, (B, H, W) as ``index`` is; 255 is a channel like any other."""
    return values.gather(1, index[:, None])[:, 0]


def class_sizes(view: View) -> Tensor:
    """How many valid pixels of each item have each class, (B, at least 256) int64; none in the column of void."""
    labels = view.labels
    # Row by row, since a GPU's threads wait for each other at numbers that all of them add to.
    rows = labels.new_zeros(*labels.shape[:2], max(view.logits.shape[1], VOID + 1))
    counts = rows.scatter_add_(2, labels, labels.new_ones(()).expand_as(labels)).sum(1)
    counts[:, VOID] = 0
    return counts


def cosine(values: Tensor, labels: Tensor) -> Tensor:
    """Cosine between the values of each pixel (B, C, H, W) and its one-hot label, (B, H, W); zero for zeros."""
    return safe_divide(at_label(values, labels), torch.linalg.vector_norm(values, dim=1))


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Objective):
    """Plain pixel cross-entropy (Arnab et al., CVPR 2018)."""

    def __call__(self, view: View, run: Run) -> Tensor:
        return valid_mean(pixel_losses(view.logits, view.labels), view.labels)


@dataclass(frozen=True, kw_only=True)
class SegPGD(Objective):
    """Cross-entropy with weight 1-w on pixels still classified correctly and w on the others, where w grows from 0
    to 1/2 over the iterations: w = (t-1)/(2T) for t = 1 … T (Gu et al., ECCV 2022, arXiv 2207.12391).

    Both attributes are ours; at their defaults they are not there.

    Attributes:
        temperature: what logits are divided by. Above 1, pixels that the surrogate is sure of keep a gradient.
        balance: pixels are divided by this power of how many of the image's valid pixels have their class: at 0 every
            pixel counts the same, at 1 every class, as it does in mIoU.
    """

    temperature: float = 1.0
    balance: float = 0.0

    def __post_init__(self) -> None:
        check_number("SegPGD temperature", self.temperature, 0.01)
        check_number("SegPGD balance", self.balance, 0, 1)

    def __call__(self, view: View, run: Run) -> Tensor:
        w = run.iteration / (2 * run.iterations)
        # Before the logits are copied, since it needs memory of its own.
        share = unfinished(view, run).to(view.logits).mul_(1 - 2 * w).add_(w)
        # The gradient is divided where it is one number per pixel, not one per pixel and class.
        losses = pixel_losses(_divided(view.logits, self.temperature, 1), view.labels)
        losses = _divided(losses, 1, self.temperature) * share
        if self.balance == 0:
            return valid_mean(losses, view.labels)
        of_class = class_sizes(view).clamp_min(1).to(losses) ** -self.balance
        weights = of_class.gather(1, view.labels.flatten(1)).view_as(losses) * (view.labels != VOID)
        # Where no pixel is valid nothing is weighed; elsewhere the sum is far larger.
        return (losses * weights).sum((1, 2)) / weights.sum((1, 2)).clamp_min(1e-12)


def _divided(values: Tensor, by: float, gradient_by: float) -> Tensor:
    """``values`` divided by one number, and their gradient by another."""
    return cast(Tensor, _Divided.apply(values, by, gradient_by))


class _Divided(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, by: float, gradient_by: float) -> Tensor:
        ctx.by = gradient_by
        return values.view_as(values) if by == 1 else values / by

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient if ctx.by == 1 else gradient / ctx.by, None, None


@dataclass(frozen=True, kw_only=True)
class CosPGD(Objective):
    """Cross-entropy weighted by the cosine between the softmax and the one-hot label, which is p_y / ‖p‖
    (Agnihotri et al., ICML 2024, arXiv 2302.02213); the weight is not differentiated.
    Towards a target the weight is one minus that.

    Attributes:
        probabilities: ``"softmax"`` as in the paper, or ``"sigmoid"`` as in the SEA repository (Croce et al., ECCV
            2024), a weaker attack that has been reported under this one's name.
    """

    probabilities: Literal["softmax", "sigmoid"] = "softmax"

    def __post_init__(self) -> None:
        check_choice("CosPGD probabilities", self.probabilities, ("softmax", "sigmoid"))

    def __call__(self, view: View, run: Run) -> Tensor:
        logits = view.logits.detach()
        # Any multiple of the softmax has the same cosine. The denominator is left out, since torch's softmax depends,
        # in the last bit, on how it shares a batch among threads.
        soft = self.probabilities == "softmax"
        weight = cosine((logits - largest(logits)[:, None]).exp() if soft else logits.sigmoid(), view.labels)
        weight = 1 - weight if run.targeted else weight
        return valid_mean(pixel_losses(view.logits, view.labels) * weight, view.labels)


@dataclass(frozen=True, kw_only=True)
class MaskedCrossEntropy(Objective):
    """Cross-entropy of the pixels still classified correctly, divided by the number of all valid pixels
    (SEA's masked loss, Croce et al., ECCV 2024, arXiv 2306.12941). Towards a target, of the pixels not there yet.
    """

    def __call__(self, view: View, run: Run) -> Tensor:
        return valid_mean(pixel_losses(view.logits, view.labels) * unfinished(view, run), view.labels)


@dataclass(frozen=True, kw_only=True)
class AdaptiveCrossEntropy(Objective):
    """Cross-entropy in which pixels still classified correctly have weight γ and the others 1-γ, where γ is the share
    of the valid pixels that are still correct: the fewer are left, the less they have to say (the patch attack of Nesti
    et al., WACV 2022, arXiv 2108.06179, whose code gives the gradients of the two sums the same length before it weighs
    them, and asks patches to be smooth and printable). Towards a target, of the pixels not there yet.
    """

    def __call__(self, view: View, run: Run) -> Tensor:
        losses = pixel_losses(view.logits, view.labels)
        left = unfinished(view, run).to(losses)
        share = valid_mean(left, view.labels)[:, None, None]
        return valid_mean(losses * (left * (2 * share - 1) + 1 - share), view.labels)


@dataclass(frozen=True, kw_only=True)
class UnsureCrossEntropy(Objective):
    """Cross-entropy of the pixels where the goal is not reached beyond doubt: with a target, those that give it a
    probability of at most ``confidence``; otherwise those that give their label at least one minus that (Metzen et al.,
    ICCV 2017, arXiv 1704.05712, whose weight between the hidden object and its surroundings is left out). Where that is
    none from the beginning there is no gradient, and the image counts as one without.

    Attributes:
        confidence: from 0 to 1, which leaves no pixel out.
    """

    confidence: float = 0.75

    def __post_init__(self) -> None:
        check_number("UnsureCrossEntropy confidence", self.confidence, 0, 1)

    def __call__(self, view: View, run: Run) -> Tensor:
        losses = pixel_losses(view.logits, view.labels)
        probability = losses.detach().neg().exp()
        unsure = probability <= self.confidence if run.targeted else probability >= 1 - self.confidence
        return valid_mean(losses * unsure, view.labels)


@dataclass(frozen=True, kw_only=True)
class BalancedCrossEntropy(Objective):
    """Cross-entropy in which every class weighs the same, however many pixels it has
    (SEA's balanced loss, Croce et al., ECCV 2024, arXiv 2306.12941). Towards a target, classes are the target's.

    Attributes:
        pixels: how many pixels of each class a data set has, or any multiple; empty counts those of the image itself,
            as the surrogate sees it.
        masked: leaves out pixels where the attack is done already.
    """

    pixels: tuple[float, ...] = ()
    masked: bool = False

    def __post_init__(self) -> None:
        if any(not 0 < count < float("inf") for count in self.pixels):
            raise UsageError(f"BalancedCrossEntropy pixels is {self.pixels}; allowed are numbers above 0")

    def __call__(self, view: View, run: Run) -> Tensor:
        losses = pixel_losses(view.logits, view.labels)
        if self.masked:
            losses = losses * unfinished(view, run)
        if self.pixels:
            weights = self._weights(view)
            return valid_mean(losses * weights[view.labels.where(view.labels != VOID, 0)], view.labels)
        counts = class_sizes(view)
        # The mean over classes of each class's mean.
        share = (losses.flatten(1) / counts.gather(1, view.labels.flatten(1)).clamp_min(1)).sum(1)
        return share / (counts > 0).sum(1).clamp_min(1)

    def _weights(self, view: View) -> Tensor:
        """A weight per class, inverse to its pixels, that is one where all have the same number."""
        if len(self.pixels) != view.logits.shape[1]:
            raise UsageError(
                f"BalancedCrossEntropy pixels has {len(self.pixels)} numbers; "
                f"the surrogate has {view.logits.shape[1]} classes"
            )
        mean = sum(self.pixels) / len(self.pixels)
        return view.logits.new_tensor([mean / count for count in self.pixels])


@dataclass(frozen=True, kw_only=True)
class TwoStage(Objective):
    """Cross-entropy that first favours hard pixels, then pixels that have moved far (TranSegPGD, Jia et al., arXiv
    2312.02207; the weights are those of third-party code, the authors' thresholds are not public).

    Stage one gives weight 1-gamma to pixels where the attack is not done yet (with a target: not there yet) and gamma
    to the others. Stage two gives 1-beta to pixels whose divergence KL(attacked ‖ clean) exceeds the image's mean, and
    beta to the others, with a target too. An image, and each transformed copy of it for itself, is in stage two when
    none of its pixels is hard, and all are after the share ``switch`` of the iterations.
    """

    gamma: float = 0.1
    beta: float = 0.1
    switch: float = 0.5

    uses_clean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("gamma", "beta", "switch"):
            check_number(f"TwoStage {name}", getattr(self, name), 0, 1)

    def __call__(self, view: View, run: Run) -> Tensor:
        hard = unfinished(view, run) & (view.labels != VOID)
        moved = _divergence(view.logits.detach(), view.clean.logits)
        far = moved > valid_mean(moved, view.labels)[:, None, None]
        second = ~hard.flatten(1).any(1)[:, None, None] | (run.iteration >= self.switch * run.iterations)
        losses = pixel_losses(view.logits, view.labels)
        one = hard.to(losses).mul_(1 - 2 * self.gamma).add_(self.gamma)
        two = far.to(losses).mul_(1 - 2 * self.beta).add_(self.beta)
        return valid_mean(losses * two.where(second, one), view.labels)


def _divergence(logits: Tensor, clean: Tensor) -> Tensor:
    """KL(softmax of ``logits`` ‖ softmax of ``clean``) of every pixel, (B, H, W)."""
    log_p, log_q = (_log_probabilities(z) for z in (logits, clean))
    # In place, since each is as large as all logits.
    return log_q.neg_().add_(log_p).mul_(log_p.exp_()).sum(1)


def _log_probabilities(logits: Tensor) -> Tensor:
    # Not torch's, for the reason given at CosPGD.
    shifted = logits - largest(logits)[:, None]
    return shifted.sub_(shifted.exp().sum(1, keepdim=True).log())


@dataclass(frozen=True, kw_only=True)
class RegionWeighted(Objective):
    """Sum of the mean cross-entropies of three regions, each weighted by what has become of it: 1-t/(2T) where pixels
    are right on the clean image and still are, 1/(2T) where they were and are wrong, and (t-1)/(2T) on the boundary
    between these, where they have changed, for t = 1 … T (the region part of RP-PGD, Zhang et al., AAAI 2025, doi
    10.1609/aaai.v39i10.33122).

    Towards a target, right means not there yet. The authors' code counts t from 0, looks at the random start instead of
    the clean image, keeps a pixel on the boundary once it has changed, and leaves those that were wrong and have become
    right off it; here pixels enter whichever way they change, and leave when they change back, since the clean image
    and the present one are all that is looked at, in whatever view.
    """

    uses_clean: ClassVar[bool] = True

    def __call__(self, view: View, run: Run) -> Tensor:
        now, before = unfinished(view, run), unfinished(view.clean, run)
        losses, t, whole = pixel_losses(view.logits, view.labels), run.iteration + 1, 2 * run.iterations
        regions = (now & before, 1 - t / whole), (now != before, (t - 1) / whole), (~(now | before), 1 / whole)
        means = [weight * valid_mean(losses, view.labels.where(region, VOID)) for region, weight in regions]
        return torch.stack(means).sum(0)
