"""What is maximised, against the papers' formulas."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.attack import Attack
from segtrans.data.base import VOID
from segtrans.objectives import CosPGD, CrossEntropy, Objective, SegPGD, pixel_losses, valid_mean
from segtrans.run import Run
from toys import CLASSES, OBJECTIVES, PixelLinear, dense, each_objective, images, labels, loss_of, run_of

X, Y = images(2, (6, 7)), labels(2, (6, 7), block=2)
LOGITS = 3 * PixelLinear()(X)
VALID = Y != VOID


def at(objective: Objective, iteration: int, iterations: int = 10) -> Run:
    run = run_of(Attack(objective=objective, iterations=iterations), X, Y)
    run.iteration = iteration
    return run


def by_hand(weight: Tensor) -> Tensor:
    """Weighted cross-entropy, from logarithms of softmax probabilities."""
    p = LOGITS.exp() / LOGITS.exp().sum(1, keepdim=True)
    own = p.gather(1, Y.where(VALID, 0)[:, None])[:, 0]
    return torch.stack([(-own.log() * weight)[i][VALID[i]].mean() for i in range(len(X))])


def test_labels_are_partly_void_and_partly_wrong() -> None:
    assert 0.1 < VALID.double().mean() < 0.95
    assert 0.1 < (LOGITS.argmax(1) == Y)[VALID].double().mean() < 0.9


def test_cross_entropy() -> None:
    losses = loss_of(CrossEntropy(), LOGITS, Y, at(CrossEntropy(), 0))
    assert torch.allclose(losses, by_hand(torch.ones_like(LOGITS[:, 0])))


@pytest.mark.parametrize("iteration", [0, 1, 5, 9])
def test_segpgd_weights(iteration: int) -> None:
    """λ = (t-1)/2T with t from 1: wrong pixels count nothing at first and almost half in the end."""
    share = iteration / 20
    weight = torch.where(LOGITS.argmax(1) == Y, 1 - share, share)
    assert torch.allclose(loss_of(SegPGD(), LOGITS, Y, at(SegPGD(), iteration)), by_hand(weight))


def test_segpgd_begins_with_correct_pixels_alone() -> None:
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(SegPGD(), logits, Y, at(SegPGD(), 0)).sum(), logits)
    assert torch.equal((gradient != 0).any(1), (LOGITS.argmax(1) == Y) & VALID)


def test_cospgd_weights() -> None:
    """The cosine between softmax and one-hot label, of softmax, not of sigmoid."""
    one_hot = F.one_hot(Y.where(VALID, 0), CLASSES).movedim(-1, 1).double()
    weight = torch.cosine_similarity(LOGITS.softmax(1), one_hot)
    assert torch.allclose(loss_of(CosPGD(), LOGITS, Y, at(CosPGD(), 0)), by_hand(weight))


@each_objective
def test_one_loss_per_image_and_no_mean_over_the_batch(objective: Objective) -> None:
    run = at(objective, 4)
    losses = loss_of(objective, LOGITS, Y, run)
    assert losses.shape == (2,)
    for places in (torch.tensor([0]), torch.tensor([1]), torch.tensor([0, 1]).repeat(3)):
        assert torch.equal(loss_of(objective, LOGITS[places], Y[places], run, places), losses[places])


@each_objective
def test_confident_logits_are_finite(objective: Objective) -> None:
    run = at(objective, 4)
    for factor in (1e4, -1e4, 0.0):
        logits = (factor * LOGITS.float()).requires_grad_()
        losses = loss_of(objective, logits, Y, run)
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        assert losses.isfinite().all()
        assert gradient.isfinite().all()


@each_objective
def test_worse_predictions_have_a_larger_loss(objective: Objective) -> None:
    """Following the gradient makes the loss grow: the sign is that of something to maximise."""
    run = at(objective, 4)
    logits = LOGITS.clone().requires_grad_()
    losses = loss_of(objective, logits, Y, run)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    # A small step, since some weights (CosPGD) shrink as the loss grows.
    assert (loss_of(CrossEntropy(), LOGITS + gradient, Y, run) > loss_of(CrossEntropy(), LOGITS, Y, run)).all()


def test_parts_of_an_objective() -> None:
    losses = pixel_losses(LOGITS, Y)
    assert losses.shape == Y.shape
    assert (losses[~VALID] == 0).all()
    assert (losses[VALID] > 0).all()
    assert valid_mean(torch.full_like(losses, 3.0), Y).tolist() == [3, 3]
    assert valid_mean(losses, torch.full_like(Y, VOID)).tolist() == [0, 0]


def test_uniform_logits_lose_the_logarithm_of_the_classes() -> None:
    logits = torch.zeros(1, 5, 2, 2)
    loss = loss_of(CrossEntropy(), logits, dense(1, (2, 2)), at(CrossEntropy(), 0))
    assert float(loss) == pytest.approx(math.log(5))


def test_registry_holds_them_all() -> None:
    assert {"crossentropy", "segpgd", "cospgd"} <= set(OBJECTIVES)
