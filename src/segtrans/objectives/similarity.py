"""Objectives on how alike the features of positions, of copies and of classes are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor
from torch.autograd import Function

from segtrans.data.base import VOID
from segtrans.errors import UsageError, check_number, check_whole
from segtrans.lengths import safe_divide
from segtrans.objectives.base import pixel_losses, valid_mean
from segtrans.objectives.features import FeatureObjective, feature_labels, labels_at
from segtrans.objectives.pixels import RegionWeighted, unfinished

if TYPE_CHECKING:
    from segtrans.run import Run, View


@dataclass(frozen=True, kw_only=True)
class FeatureSimilarity(FeatureObjective):
    """Minus the similarity to the clean features and among features that were alike (FSPGD, Park et al., arXiv
    2502.01262): with w = t/T for t = 0 … T-1 the loss is -w·L - (1-w)·C, where L is the mean cosine between each
    position's features and its clean ones, and C is half the mean cosine between the features of those pairs of
    positions whose clean features have a cosine above ``similar``.

    Attributes:
        similar: above which cosine two clean positions belong together; the paper's is cos(π/3).
        rows: how many rows of the (hw)² matrix of pairs are held at a time, which changes memory, not results.
    """

    uses_clean: ClassVar[bool] = True
    knows_targets: ClassVar[bool] = False

    similar: float = 0.5
    rows: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("FeatureSimilarity rows", self.rows, 1)
        if not -1 <= self.similar <= 1:
            raise UsageError(f"FeatureSimilarity similar is {self.similar}; allowed are cosines from -1 to 1")

    def __call__(self, view: View, run: Run) -> Tensor:
        valid = feature_labels(view) != VOID
        found, clean = _unit(view.features), _unit(view.clean.features)
        local = ((found * clean).sum(1) * valid).sum((1, 2)) / valid.sum((1, 2)).clamp_min(1)
        pairs = _Pairs.apply(found.flatten(2), clean.flatten(2), valid.flatten(1), self.similar, self.rows)
        share = run.iteration / run.iterations
        return -share * local - (1 - share) * cast(Tensor, pairs)


class _Pairs(Function):
    """Half the mean of f_i·f_j over pairs i ≠ j of valid positions whose clean features have a cosine above a bound.

    The sum is quadratic in F with a constant symmetric matrix W of zeros and ones: its gradient is W F, of which
    the sum itself is half the product with F. So W F is all that is kept for the backward pass, and it takes only a few
    rows of W at a time.
    """

    @staticmethod
    def forward(ctx: Any, found: Tensor, clean: Tensor, valid: Tensor, similar: float, rows: int) -> Tensor:
        pull, count = torch.empty_like(found), torch.zeros_like(valid[:, 0], dtype=torch.int64)
        for first in range(0, found.shape[2], rows):
            part = slice(first, first + rows)
            near = clean[:, :, part].mT @ clean > similar
            near &= valid[:, part, None] & valid[:, None]
            near.diagonal(first, 1, 2).fill_(False)
            count += near.sum((1, 2))
            pull[:, :, part] = found @ near.mT.to(found)
        pull /= count.clamp_min(1).view(-1, 1, 1)
        ctx.save_for_backward(pull)
        return (found * pull).sum((1, 2)) / 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (pull,) = ctx.saved_tensors
        return gradient.view(-1, 1, 1) * pull, None, None, None, None


@dataclass(frozen=True, kw_only=True)
class CopySimilarity(FeatureObjective):
    """Cross-entropy, and a cosine that makes the features of an image's copies alike (the feature similarity of the
    self-universality attack, SU, Wei et al., CVPR 2023, arXiv 2209.03716; the paper is about targets, and its
    code takes cross-entropy or their logit for the loss; here it is cross-entropy whatever the goal).

    A copy is compared with the one half of the copies further on, whose features are held constant: with an even number
    the gradients of the two add up to that of their cosine. Features are compared where neither view is void.

    Attributes:
        weight: of a pair's cosine, the paper's λ, beside the pair's mean cross-entropy; copies become alike towards a
            target too.
    """

    uses_logits: ClassVar[bool] = True
    uses_other: ClassVar[bool] = True

    weight: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("CopySimilarity weight", self.weight, 0)

    def __call__(self, view: View, run: Run) -> Tensor:
        valid = ((feature_labels(view) != VOID) & (feature_labels(view.other) != VOID))[:, None]
        # A vector per image, as if its positions were channels of a single one.
        found, other = (_unit(v.features.where(valid, 0).flatten(1)) for v in (view, view.other))
        # Twice, since a copy has half of the gradient, and the mean is taken over both.
        weight = 2 * (-self.weight if run.targeted else self.weight)
        return valid_mean(pixel_losses(view.logits, view.labels), view.labels) + weight * (found * other).sum(1)


@dataclass(frozen=True, kw_only=True)
class Prototype(FeatureObjective):
    """Region-weighted cross-entropy, and the mean cosine between the prototypes of an image's classes, which pulls the
    classes together: region and prototype based PGD (RP-PGD, Zhang et al., AAAI 2025, doi 10.1609/aaai.v39i10.33122).

    A class's prototype is the mean of its features where pixels are still right. In the authors' code features are cut
    off from the image, so that their prototypes have no gradient; here they have. Its third term, within classes, is
    left out: it counts the last class alone, and draws features towards their prototype.

    Attributes:
        region: weight of :class:`RegionWeighted`.
        between: weight of the mean cosine over pairs of classes.
    """

    uses_logits: ClassVar[bool] = True
    uses_clean: ClassVar[bool] = True
    knows_targets: ClassVar[bool] = False

    region: float = 0.5
    between: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("Prototype region", self.region, 0)
        check_number("Prototype between", self.between, 0)

    def bind(self, run: Run) -> Callable[[View], Tensor]:
        classes = max(VOID, int(run.y.max())) + 1
        return lambda view: self._loss(view, run, classes)

    def __call__(self, view: View, run: Run) -> Tensor:
        return self.bind(run)(view)

    def _loss(self, view: View, run: Run, classes: int) -> Tensor:
        right = unfinished(view, run) & unfinished(view.clean, run)
        labels = feature_labels(view).where(labels_at(right, view.features.shape[-2:]), VOID).flatten(1)
        own = (labels[:, None] == torch.arange(classes, device=labels.device).view(-1, 1)).to(view.features)
        own[:, VOID] = 0
        # The sum over a class has its mean's direction.
        prototypes = _unit(view.features.flatten(2) @ own.mT)
        count = own.any(2).sum(1)
        # The square of a sum of vectors is that of each with each.
        pairs = prototypes.sum(2).square().sum(1) - prototypes.square().sum((1, 2))
        return self.region * RegionWeighted()(view, run) + self.between * pairs / (count * (count - 1)).clamp_min(1)


def _unit(features: Tensor) -> Tensor:
    """Every position's features (B, C, …) at length one; those of length zero stay zero."""
    return safe_divide(features, torch.linalg.vector_norm(features, dim=1, keepdim=True))
