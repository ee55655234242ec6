"""Objectives that weigh features by what was found once, at the clean image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, cast

import torch
from torch import Tensor

from segtrans.data.base import VOID
from segtrans.errors import ModelError, UsageError, check_choice, check_number, check_whole
from segtrans.features import find_layer, forward_with
from segtrans.lengths import image_lengths, safe_divide
from segtrans.objectives.base import pixel_losses, valid_mean
from segtrans.objectives.features import FeatureObjective, feature_labels
from segtrans.objectives.pixels import at_label

if TYPE_CHECKING:
    from segtrans.attack import Attack
    from segtrans.items import Items
    from segtrans.run import Run, View


@dataclass(frozen=True, kw_only=True)
class PreparedObjective(FeatureObjective):
    """Multiplies features by weights that are found once, at the clean image, and lie where its pixels lie."""

    @abstractmethod
    def bind(self, run: Run) -> Callable[[View], Tensor]: ...

    def __call__(self, view: View, run: Run) -> Tensor:
        return self.bind(run)(view)

    def check(self, attack: Attack) -> None:
        super().check(attack)
        name, moving = type(self).__name__, [type(part).__name__ for part in attack.transforms if part.moves]
        if moving:
            raise UsageError(f"{name} weighs features where they are in the clean image, which {moving[0]} moves")

    def refuse_ensembles(self, run: Run) -> None:
        """ModelError unless the surrogate is one network."""
        if len(run.members) > 1:
            raise ModelError(f"{type(self).__name__} prepares itself on one network; the surrogate is an ensemble")

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
        of: whose gradient weighs the features: ``"logit"`` is the mean logit of the valid pixels' labels, as in FIA's
            code (NAA's takes the probability); ``"cross-entropy"`` their mean cross-entropy.
        samples: gradients that the weights are the mean of.
    """

    of: Literal["logit", "cross-entropy"] = "logit"
    samples: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(f"{type(self).__name__} samples", self.samples, 1)
        check_choice(f"{type(self).__name__} of", self.of, ("logit", "cross-entropy"))

    @property
    def preparation(self) -> int:
        return self.samples

    def mean_gradient(self, run: Run, image: Callable[[int, Items], Tensor]) -> Tensor:
        """Mean gradient, with respect to the features (N, C, h, w), of what grows where an attack succeeds, over
        ``image(number, items)`` for each number of a sample, which is the number of the items' copy.
        """
        layer = find_layer(run.network, self.layer, run.x[:1])
        total: Tensor | float = 0.0
        for number in range(self.samples):
            first, last = number * len(run.x), (number + 1) * len(run.x)
            parts = [
                self._gradient(run, layer, image(number, items), run.y[items.index])
                for items in (run.items(at, min(at + run.chunk, last)) for at in range(first, last, run.chunk))
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
            values = pixel_losses(logits, labels) if self.of == "cross-entropy" else -at_label(logits, labels)
            gain = valid_mean(values, labels).sum()
            gradient = None
            if gain.requires_grad and features.requires_grad:
                (gradient,) = cast(tuple[Tensor | None], torch.autograd.grad(gain, features, allow_unused=True))
        if gradient is None:
            raise ModelError(f"the logits do not depend on layer {type(layer).__name__} differentiably")
        return gradient


def _scaled(weights: Tensor) -> Tensor:
    """Each image's weights at length one; weights of zero stay zero."""
    return safe_divide(weights, image_lengths(weights))


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

    @property
    def draws(self) -> bool:
        return True

    def bind(self, run: Run) -> Callable[[View], Tensor]:
        self.refuse_ensembles(run)
        stream = run.stream()

        def dropped(number: int, items: Items) -> Tensor:
            kept = ~run.draw(stream, items).chance(self.drop, *run.x.shape[1:])
            return run.x[items.index].where(kept, 0)

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
        self.refuse_ensembles(run)
        gradient = self.mean_gradient(run, lambda number, items: run.x[items.index] * ((number + 1) / self.samples))
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

    knows_targets: ClassVar[bool] = False

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

        self.refuse_ensembles(run)
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
            valid = (feature_labels(view) != VOID)[:, None]
            moved = view.features - clean[view.places]
            return (moved * direction[view.places] * valid).sum((1, 2, 3))

        return loss
