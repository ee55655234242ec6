"""Objectives on the features of an inner layer, where the forward pass ends unless logits count too; positions under
void never count.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor
from torch.autograd import Function

from segtrans.data.base import VOID
from segtrans.errors import ModelError, UsageError, check_number, check_whole
from segtrans.features import find_layer, forward_with
from segtrans.objectives.base import Objective, pixel_losses, valid_mean
from segtrans.objectives.pixels import RegionWeighted, unfinished

if TYPE_CHECKING:
    from segtrans.run import Run, View


@dataclass(frozen=True, kw_only=True)
class FeatureObjective(Objective):
    """Looks at the features (B, C, h, w) of one layer.

    Attributes:
        layer: a module's name, or a share of the depth from 0 to 1, as :func:`segtrans.features.find_layer` takes it.
    """

    uses_logits: ClassVar[bool] = False

    layer: str | float = 0.6  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]

    def __post_init__(self) -> None:
        if isinstance(self.layer, bool) or not (self.layer if isinstance(self.layer, str) else 0 <= self.layer <= 1):
            raise UsageError(
                f"{type(self).__name__} layer is {self.layer!r}; allowed are names of modules and shares of the depth "
                "from 0 to 1"
            )


def labels_at(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels (B, H, W) at another size (B, h, w): those of the pixels nearest to each position's centre."""
    rows, cols = (
        (2 * torch.arange(small, device=labels.device) + 1) * large // (2 * small)
        for small, large in zip(size, labels.shape[-2:], strict=True)
    )
    return labels[:, rows[:, None], cols]


def _labels(view: View) -> Tensor:
    return labels_at(view.labels, view.features.shape[-2:])


def _unit(features: Tensor) -> Tensor:
    """Every position's features (B, C, …) at length one; those of length zero stay zero."""
    length = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / torch.where(length > 0, length, 1)


def _refuse_targets(objective: Objective, run: Run) -> None:
    if run.targeted:
        raise UsageError(f"{type(objective).__name__} leads away from the clean features and knows no targets")


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

    similar: float = 0.5
    rows: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("FeatureSimilarity rows", self.rows, 1)
        if not -1 <= self.similar <= 1:
            raise UsageError(f"FeatureSimilarity similar is {self.similar}; allowed are cosines from -1 to 1")

    def bind(self, run: Run) -> Callable[[View], Tensor]:
        _refuse_targets(self, run)
        return super().bind(run)

    def __call__(self, view: View, run: Run) -> Tensor:
        valid = _labels(view) != VOID
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
    self-universality attack, SU, Wei et al., CVPR 2023, arXiv 2209.03716).

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
        valid = ((_labels(view) != VOID) & (_labels(view.other) != VOID))[:, None]
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

    region: float = 0.5
    between: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("Prototype region", self.region, 0)
        check_number("Prototype between", self.between, 0)

    def bind(self, run: Run) -> Callable[[View], Tensor]:
        _refuse_targets(self, run)
        classes = max(VOID, int(run.y.max())) + 1
        return lambda view: self._loss(view, run, classes)

    def __call__(self, view: View, run: Run) -> Tensor:
        return self.bind(run)(view)

    def _loss(self, view: View, run: Run, classes: int) -> Tensor:
        right = unfinished(view, run) & unfinished(view.clean, run)
        labels = _labels(view).where(labels_at(right, view.features.shape[-2:]), VOID).flatten(1)
        own = (labels[:, None] == torch.arange(classes, device=labels.device).view(-1, 1)).to(view.features)
        own[:, VOID] = 0
        # The sum over a class has its mean's direction.
        prototypes = _unit(view.features.flatten(2) @ own.mT)
        count = own.any(2).sum(1)
        # The square of a sum of vectors is that of each with each.
        pairs = prototypes.sum(2).square().sum(1) - prototypes.square().sum((1, 2))
        return self.region * RegionWeighted()(view, run) + self.between * pairs / (count * (count - 1)).clamp_min(1)


@dataclass(frozen=True, kw_only=True)
class Dispersion(FeatureObjective):
    """Log of the length of the features below their position's mean over channels, minus that of those above: what
    supports the prediction shrinks, what was suppressed grows (FDA, Ganeshan et al., ICCV 2019, arXiv 1909.04385, who
    sum this over many layers).
    """

    def bind(self, run: Run) -> Callable[[View], Tensor]:
        _refuse_targets(self, run)
        return super().bind(run)

    def __call__(self, view: View, run: Run) -> Tensor:
        features, valid = view.features, (_labels(view) != VOID)[:, None]
        above = features.detach() >= features.detach().mean(1, keepdim=True)

        def log_length(which: Tensor) -> Tensor:
            # ReLU leaves nothing below the mean but zeros; the addend keeps their logarithm finite.
            return (features.square() * (which & valid)).sum((1, 2, 3)).add(1e-12).log() / 2

        return log_length(~above) - log_length(above)


@dataclass(frozen=True, kw_only=True)
class PreparedObjective(FeatureObjective):
    """Multiplies features by weights that are found once, at the clean image, and lie where its pixels lie."""

    @abstractmethod
    def bind(self, run: Run) -> Callable[[View], Tensor]: ...

    def __call__(self, view: View, run: Run) -> Tensor:
        return self.bind(run)(view)

    def check(self, run: Run) -> None:
        """UsageError or ModelError where weights of the clean image and of one network are of no use."""
        name = type(self).__name__
        moving = [type(transform).__name__ for transform in run.attack.transforms if transform.moves]
        if moving:
            raise UsageError(f"{name} weighs features where they are in the clean image, which {moving[0]} moves")
        if len(run.members) > 1:
            raise ModelError(f"{name} prepares itself on one network; the surrogate is an ensemble")

    def clean_features(self, run: Run, images: Tensor) -> Tensor:
        """Features (N, C, h, w) of images (N, 3, H, W), without a gradient."""
        layer, network = find_layer(run.network, self.layer, run.x[:1]), partial(run.logits, run.network)
        with torch.no_grad():
            parts = images.split(run.chunk)
            return torch.cat([forward_with(layer, network, part, stop=True)[1] for part in parts])


@dataclass(frozen=True, kw_only=True)
class _Weighted(PreparedObjective):
    """What feature importance and attribution share.

    Attributes:
        of: whose gradient weighs the features: ``"logit"`` is the mean logit of the valid pixels' labels, as in the
            papers; ``"cross-entropy"`` their mean cross-entropy.
        samples: gradients that the weights are the mean of.
    """

    of: Literal["logit", "cross-entropy"] = "logit"
    samples: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(f"{type(self).__name__} samples", self.samples, 1)
        if self.of not in ("logit", "cross-entropy"):
            raise UsageError(f"{type(self).__name__} of is {self.of!r}; allowed are 'logit' and 'cross-entropy'")

    @property
    def preparation(self) -> int:
        return self.samples

    def mean_gradient(self, run: Run, image: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Mean gradient, with respect to the features (N, C, h, w), of what grows where an attack succeeds, over
        ``image(number, places)`` for each number of a sample; ``places`` are those of the wanted images.
        """
        layer = find_layer(run.network, self.layer, run.x[:1])
        total: Tensor | float = 0.0
        for number in range(self.samples):
            parts = [
                self._gradient(run, layer, image(number, places), run.y[places])
                for places in torch.arange(len(run.x), device=run.x.device).split(run.chunk)
            ]
            total = total + torch.cat(parts)
            run.evaluations += 1
        return cast(Tensor, total) / self.samples

    def _gradient(self, run: Run, layer: torch.nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        with torch.enable_grad():
            network = partial(run.logits, run.network)
            logits, features = forward_with(layer, network, images.requires_grad_(), stop=False)
            if run.evaluations == 0:
                run.check(logits, images)
            if self.of == "cross-entropy":
                values = pixel_losses(logits, labels)
            else:
                values = -logits.gather(1, labels.where(labels != VOID, 0)[:, None])[:, 0]
            gain = valid_mean(values, labels).sum()
            gradient = None
            if gain.requires_grad and features.requires_grad:
                (gradient,) = cast(tuple[Tensor | None], torch.autograd.grad(gain, features, allow_unused=True))
        if gradient is None:
            raise ModelError(f"the logits do not depend on layer {type(layer).__name__} differentiably")
        return gradient


def _scaled(weights: Tensor) -> Tensor:
    """Each image's weights at length one; weights of zero stay zero."""
    length = torch.linalg.vector_norm(weights.flatten(1), dim=1).view(-1, 1, 1, 1)
    return weights / torch.where(length > 0, length, 1)


@dataclass(frozen=True, kw_only=True)
class FeatureImportance(_Weighted):
    """Features weighted by how much an attack gains from them: the mean gradient over copies of the clean image of
    which random values were set to zero, scaled to length one (FIA, Wang et al., ICCV 2021, arXiv 2107.14185).

    Attributes:
        drop: probability with which a value, of one pixel in one channel, is set to zero.
    """

    drop: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop < 1:
            raise UsageError(f"FeatureImportance drop is {self.drop}; allowed are numbers from 0, below 1")

    def bind(self, run: Run) -> Callable[[View], Tensor]:
        self.check(run)
        stream = run.stream()

        def dropped(number: int, places: Tensor) -> Tensor:
            draw = run.draw(stream, torch.full_like(places, number), places)
            return run.x[places].where(~draw.chance(self.drop, *run.x.shape[1:]), 0)

        weights = _scaled(self.mean_gradient(run, dropped))
        return lambda view: (weights[view.places] * view.features).sum((1, 2, 3))


@dataclass(frozen=True, kw_only=True)
class Attribution(_Weighted):
    """The attack's gain attributed to the features: their difference from a black image's, times the mean gradient
    along the straight way from black to the clean image (NAA, Zhang et al., CVPR 2022, arXiv 2204.00008).

    Attributes:
        oppose: factor, the paper's γ, of the attributions of features that speak against the labels.
    """

    oppose: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("Attribution oppose", self.oppose, 0)

    def bind(self, run: Run) -> Callable[[View], Tensor]:
        self.check(run)
        gradient = self.mean_gradient(run, lambda number, places: run.x[places] * ((number + 1) / self.samples))
        black, weights = self.clean_features(run, torch.zeros_like(run.x[:1])), _scaled(gradient)

        def loss(view: View) -> Tensor:
            gain = (view.features - black) * weights[view.places]
            return torch.where(gain < 0, gain, self.oppose * gain).sum((1, 2, 3))

        return loss


@dataclass(frozen=True, kw_only=True)
class Projection(PreparedObjective):
    """How far the features have moved in the direction in which a first attack, plain MI-FGSM, moved them (the
    projection loss of ILA, Huang et al., ICCV 2019, arXiv 1907.10823). The attack itself starts anew from the clean
    image.

    Attributes:
        iterations: of the first attack, which has the budget and the step size of the second.
    """

    iterations: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("Projection iterations", self.iterations, 1)

    @property
    def preparation(self) -> int:
        return self.iterations

    def bind(self, run: Run) -> Callable[[View], Tensor]:
        # An attack holds its objective, so that the module of attacks cannot be loaded before this one.
        from segtrans.attack import Attack
        from segtrans.gradients import Momentum

        self.check(run)
        _refuse_targets(self, run)
        first = Attack(
            threat=run.threat,
            gradients=(Momentum(),),
            iterations=self.iterations,
            step_size=run.alpha,
            precision=run.attack.precision,
        )
        region = run.allowed.expand(len(run.x), 1, *run.x.shape[-2:])[:, 0]
        found = first.perturb(run.model, run.x, run.y, region=region, chunk=run.chunk)
        run.evaluations += found.evaluations
        clean = self.clean_features(run, run.x)
        direction = _scaled(self.clean_features(run, found.adversarial) - clean)
        # Without any budget nothing moves; every direction is then as good as another.
        nowhere = (direction == 0).flatten(1).all(1).view(-1, 1, 1, 1)
        direction = direction.where(~nowhere, 1).where(~found.failed.view(-1, 1, 1, 1), torch.nan)

        def loss(view: View) -> Tensor:
            valid = (_labels(view) != VOID)[:, None]
            moved = view.features - clean[view.places]
            return (moved * direction[view.places] * valid).sum((1, 2, 3))

        return loss
