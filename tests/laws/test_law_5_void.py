"""Law 5: void pixels never matter, neither to an attack nor to a measure."""

import math

import pytest
import torch

from segtrans.attack import Attack, ZeroGradientWarning
from segtrans.data.base import VOID
from segtrans.gradients import Smooth
from segtrans.metrics import Counts
from segtrans.objectives import Objective
from segtrans.steps import Patchwise
from toys import (
    CLASSES,
    SEPARATE,
    Context,
    PixelLinear,
    dense,
    each_objective,
    images,
    labels,
    loss_of,
    run_of,
)

X, Y = images(3), labels(3)


@pytest.mark.parametrize("nonsense", [0.0, 1e6, -1e6])
@each_objective
def test_logits_under_void_do_not_reach_the_objective(objective: Objective, nonsense: float) -> None:
    run = run_of(Attack(objective=objective), X, Y)
    run.iteration = 4
    logits = PixelLinear()(X).requires_grad_()
    other = torch.where((Y == VOID)[:, None], nonsense, logits.detach()).requires_grad_()
    losses = loss_of(objective, logits, Y, run), loss_of(objective, other, Y, run)
    assert losses[0].shape == (3,)
    assert torch.equal(*losses)
    gradients = [torch.autograd.grad(loss.sum(), z)[0] for loss, z in zip(losses, (logits, other), strict=True)]
    assert torch.equal(*gradients)
    assert (gradients[0].movedim(1, -1)[Y == VOID] == 0).all()
    assert (gradients[0].movedim(1, -1)[Y != VOID] != 0).any()


@each_objective
def test_the_mean_is_over_the_images_own_valid_pixels(objective: Objective) -> None:
    """Making an image larger by void, or the batch larger by images, changes no image's loss."""
    run = run_of(Attack(objective=objective), X, Y)
    run.iteration = 4
    logits = PixelLinear()(X)
    loss = loss_of(objective, logits, Y, run)
    tall = torch.cat([logits, logits], 2), torch.cat([Y, torch.full_like(Y, VOID)], 1)
    assert torch.allclose(loss_of(objective, *tall, run), loss, rtol=1e-12)
    twice = torch.cat([logits, logits], 2), torch.cat([Y, Y], 1)
    assert torch.allclose(loss_of(objective, *twice, run), loss, rtol=1e-12)
    assert torch.equal(loss_of(objective, logits[:1], Y[:1], run), loss[:1])


@each_objective
def test_an_image_of_void_has_no_loss_and_no_gradient(objective: Objective) -> None:
    y = Y.clone()
    y[1] = VOID
    logits = PixelLinear()(X).requires_grad_()
    loss = loss_of(objective, logits, y, run_of(Attack(objective=objective), X, y))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss[1] == 0
    assert (gradient[1] == 0).all()
    assert gradient.isfinite().all()


# Smoothing carries gradients from valid pixels to void ones, patch-wise steps carry noise there, transformations carry
# pixels to other places, a random start moves every pixel, a shared perturbation is other images' too, and in a hidden
# area nothing is gained on a model that sees single pixels; all others must leave a void pixel alone on such a model.
STAYING = {
    name: attack
    for name, attack in SEPARATE.items()
    if all(
        not one.random_start
        and not one.transforms
        and not one.area.hidden
        and not isinstance(one.step, Patchwise)
        and not one.backward
        and not any(isinstance(g, Smooth) for g in one.gradients)
        for one in attack.attacks
    )
}


@pytest.mark.parametrize("attack", STAYING.values(), ids=STAYING)
def test_void_pixels_are_left_alone_by_a_model_of_single_pixels(attack: Attack) -> None:
    adversarial = attack(PixelLinear(), X, Y)
    moved = (adversarial != X).any(1)
    assert not moved[Y == VOID].any()
    assert moved[Y != VOID].any() or attack.iterations == 0


@pytest.mark.parametrize("attack", STAYING.values(), ids=STAYING)
def test_what_is_under_void_does_not_matter_to_a_model_of_single_pixels(
    attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An image's random numbers are a function of all its pixels; here only those of the gradient are of interest.
    monkeypatch.setattr("segtrans.run.image_keys", lambda images: torch.arange(len(images)))
    under = (Y == VOID)[:, None]
    one = attack(PixelLinear(), X, Y)
    other = attack(PixelLinear(), torch.where(under, 0.5, X), Y)
    # An L2 ball is over the whole image, but void pixels take no part of it.
    assert torch.allclose(one.where(~under, 0), other.where(~under, 0), atol=1e-12)


def test_an_image_of_void_is_reported() -> None:
    y = Y.clone()
    y[2] = VOID
    with pytest.warns(ZeroGradientWarning, match=r"image\(s\) 2 "):
        Attack()(Context(), X, y)


def test_predictions_under_void_do_not_count() -> None:
    truth, clean, attacked = labels(3, seed=1), dense(3, seed=2), dense(3, seed=3)
    void = truth == VOID
    counts = Counts.of(truth, clean, attacked, CLASSES)
    other = Counts.of(truth, clean.where(~void, 0), attacked.where(~void, 2), CLASSES)
    for name in ("clean", "attacked", "flipped", "changed"):
        assert torch.equal(getattr(counts, name), getattr(other, name))


def test_measures_of_void_are_not_a_number_and_change_no_mean() -> None:
    truth, clean, attacked = labels(3, seed=1), dense(3, seed=2), dense(3, seed=3)
    counts = Counts.of(truth, clean, attacked, CLASSES)
    nothing = Counts.of(torch.full_like(truth, VOID), clean, attacked, CLASSES)
    assert all(math.isnan(value) for value in nothing.measures().values())
    assert all(math.isnan(end) for interval in nothing.intervals(replicates=10).values() for end in interval)
    both = Counts.concatenate([counts, nothing])
    assert both.measures() == counts.measures()
