"""Objectives that prepare themselves before the first step: importance, attribution and projection, by hand."""

import math
from dataclasses import replace

import pytest
import torch
from feature_maps import MODEL, PREPARED, SIZE, X, Y, at
from torch import Tensor

from segtrans.attack import Attack
from segtrans.catalogue import attack as read
from segtrans.catalogue import compose
from segtrans.data.base import VOID
from segtrans.errors import ModelError, UsageError
from segtrans.features import find_layer, forward_with
from segtrans.gradients import Momentum
from segtrans.objectives import Attribution, FeatureImportance, Objective, Projection
from segtrans.objectives.features import labels_at
from segtrans.run import Run
from segtrans.threat import L2
from segtrans.transforms import Remap, Scale
from toys import CLASSES, Context

each_prepared_part = pytest.mark.parametrize("part", PREPARED)


def gain_gradient(x: Tensor, of: str) -> Tensor:
    """Gradient of minus the labels' mean logit, or of their cross-entropy, with respect to the features."""
    model = MODEL
    logits, features = forward_with(find_layer(model, 0.6, X[:1]), model, x.clone().requires_grad_(), stop=False)
    total = torch.zeros((), dtype=torch.float64)
    for image in range(len(x)):
        for row, col in (Y[image] != VOID).nonzero().tolist():
            pixel, label = logits[image, :, row, col], int(Y[image, row, col])
            value = -pixel[label] if of == "logit" else pixel.logsumexp(0) - pixel[label]
            total = total + value / int((Y[image] != VOID).sum())
    return torch.autograd.grad(total, features)[0]


def features_of(x: Tensor) -> Tensor:
    return forward_with(find_layer(MODEL, 0.6, X[:1]), MODEL, x, stop=True)[1].detach()


def at_length_one(weights: Tensor) -> Tensor:
    return torch.stack([w / math.sqrt(float((w * w).sum())) for w in weights])


@pytest.mark.parametrize("of", ["logit", "cross-entropy"])
def test_feature_importance_by_hand(of: str) -> None:
    objective = FeatureImportance(samples=4, of=of)
    run = at(objective, 0)
    z = (X + 0.01).clamp(0, 1)
    run.gradient(z)
    weights = torch.zeros_like(features_of(X))
    kept = []
    for number in range(4):
        # The first stream of a run.
        before = at(objective, 0)
        keep = before.draw(1001, before.items(2 * number, 2 * number + 2)).uniform(3, *SIZE) >= 0.3
        kept.append(keep.double().mean())
        weights += gain_gradient(X * keep, of)
    assert torch.allclose(run.losses, (at_length_one(weights) * features_of(z)).sum((1, 2, 3)), rtol=1e-10)
    assert sum(kept) / 4 == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize("of", ["logit", "cross-entropy"])
@pytest.mark.parametrize("oppose", [1.0, 0.3])
def test_attribution_by_hand(oppose: float, of: str) -> None:
    objective = Attribution(samples=3, of=of, oppose=oppose)
    run = at(objective, 0)
    z = (X + 0.01).clamp(0, 1)
    run.gradient(z)
    weights = at_length_one(sum(gain_gradient(X * m / 3, of) for m in (1, 2, 3)))
    attribution = -(features_of(z) - features_of(torch.zeros_like(X))) * weights
    positive, negative = attribution.clamp_min(0).sum((1, 2, 3)), -attribution.clamp_max(0).sum((1, 2, 3))
    assert torch.allclose(run.losses, -(positive - oppose * negative), rtol=1e-10)


def test_projection_by_hand() -> None:
    objective = Projection(iterations=3)
    run = at(objective, 0)
    z = (X + 0.01).clamp(0, 1)
    run.gradient(z)
    first = Attack(gradients=(Momentum(),), iterations=3)(MODEL, X, Y)
    direction = at_length_one(features_of(first) - features_of(X))
    valid = (labels_at(Y, SIZE) != VOID)[:, None]
    expected = ((features_of(z) - features_of(X)) * direction * valid).sum((1, 2, 3))
    assert torch.allclose(run.losses, expected, rtol=1e-10)


def test_projection_has_the_budget_and_the_region_of_its_attack() -> None:
    region = torch.zeros(SIZE, dtype=torch.bool)
    region[:4] = True
    attack = Attack(objective=Projection(iterations=3), threat=L2(0.5), iterations=5, step_size=0.05)
    run = Run(attack, MODEL, X, Y, region=region)
    z = (X + 0.01).clamp(0, 1)
    run.gradient(z)
    first = Attack(gradients=(Momentum(),), threat=L2(0.5), iterations=3, step_size=0.05)(MODEL, X, Y, region=region)
    direction = at_length_one(features_of(first) - features_of(X))
    expected = ((features_of(z) - features_of(X)) * direction * (Y != VOID)[:, None]).sum((1, 2, 3))
    assert torch.allclose(run.losses, expected, rtol=1e-10)


@each_prepared_part
def test_weights_of_the_clean_image_go_with_its_pixels_only(part: type[Objective]) -> None:
    with pytest.raises(UsageError, match=rf"^{part.__name__} weighs features where .*, which Remap moves$"):
        compose(part(), Scale(), Remap())(MODEL, X, Y)
    assert compose(part(), Scale(copies=2), Attack(iterations=2))(MODEL, X, Y).isfinite().all()


@each_prepared_part
def test_ensembles_cannot_be_prepared_on(part: type[Objective]) -> None:
    class Members(Context):
        @property
        def members(self) -> tuple[Context, ...]:
            return (Context(1), Context(2))

    with pytest.raises(ModelError, match=rf"^{part.__name__} prepares itself on one network; the surrogate is an ens"):
        compose(part())(Members(), X, Y)


@each_prepared_part
def test_labels_that_the_surrogate_does_not_know_are_refused(part: type[Objective]) -> None:
    y = torch.full_like(Y, CLASSES)
    with pytest.raises(UsageError, match=f"labels contain {CLASSES}; the surrogate has {CLASSES} classes"):
        compose(part())(MODEL, X, y)


@pytest.mark.parametrize("part", [FeatureImportance, Attribution])
def test_layers_that_the_logits_do_not_depend_on_are_refused(part: type[Objective]) -> None:
    class Aside(Context):
        def __init__(self) -> None:
            super().__init__()
            self.aside = torch.nn.Conv2d(3, 3, 1).double()

        def forward(self, x: Tensor) -> Tensor:
            self.aside(x)
            return super().forward(x)

    with pytest.raises(ModelError, match="the logits do not depend on layer Conv2d"):
        compose(part(layer="aside"))(Aside(), X, Y)


def test_without_drops_importance_is_the_gradient_at_the_clean_image() -> None:
    one, many = (
        replace(read("fia(iterations=2)"), objective=FeatureImportance(drop=0.0, samples=n))(MODEL, X, Y)
        for n in (1, 2)
    )
    assert torch.equal(one, many)
