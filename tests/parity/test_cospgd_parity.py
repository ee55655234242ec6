"""SegPGD and CosPGD are those of the ``cospgd`` package of CosPGD's authors, in float64, on labels without void."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.attack import Attack
from segtrans.catalogue import attack as read
from segtrans.data.base import VOID
from segtrans.objectives import CosPGD, Objective, SegPGD
from toys import CLASSES, Context, dense, images, labels, loss_of, run_of

cospgd = pytest.importorskip("cospgd", reason="cospgd is not installed ; make setup installs it")

EPS, STEP, STEPS = 8 / 255, 2 / 255, 10
MODEL = Context()


def their_segpgd(logits: Tensor, y: Tensor, iteration: int) -> Tensor:
    """Counted from 0, their λ = t/2T is the paper's (t-1)/2T; their sum over the batch is ours."""
    losses = F.cross_entropy(logits, y, reduction="none", ignore_index=VOID)
    return cospgd.functions.segpgd_scale(logits, y, losses, iteration, STEPS)


def their_cospgd(logits: Tensor, y: Tensor, iteration: int) -> Tensor:
    """They leave the mean to the caller; over all pixels of the batch it is ours divided by the batch size."""
    losses = F.cross_entropy(logits, y, reduction="none", ignore_index=VOID)
    return cospgd.functions.cospgd_scale(logits, y, losses, num_classes=CLASSES).mean() * len(y)


Loss = Callable[[Tensor, Tensor, int], Tensor]
PAIRS = [
    pytest.param("segpgd", SegPGD(), their_segpgd, id="SegPGD"),
    pytest.param("cospgd", CosPGD(), their_cospgd, id="CosPGD"),
]


def their_attack(loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    """Their step in a plain loop from the clean image."""
    adversarial = x
    for iteration in range(STEPS):
        leaf = adversarial.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(MODEL(leaf), y, iteration), leaf)
        adversarial = cospgd.functions.step_inf(adversarial, EPS, gradient, x, STEP, targeted=False)
    return adversarial


@pytest.mark.parametrize(("name", "objective", "loss"), PAIRS)
def test_same_loss_and_gradient_at_every_iteration(name: str, objective: Objective, loss: Loss) -> None:
    x, y = images(2), dense(2)
    run = run_of(Attack(objective=objective, iterations=STEPS), x, y)
    for run.iteration in range(STEPS):
        logits = MODEL(x).detach().requires_grad_()
        found, expected = loss_of(objective, logits, y, run).sum(), loss(logits, y, run.iteration)
        assert torch.allclose(found, expected, rtol=1e-12)
        ours, theirs = (torch.autograd.grad(value, logits)[0] for value in (found, expected))
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-18)
    assert (MODEL(x).argmax(1) == y).double().mean() < 0.9, "right and wrong pixels are weighted differently"


@pytest.mark.parametrize(("name", "objective", "loss"), PAIRS)
def test_same_adversarial_images(name: str, objective: Objective, loss: Loss) -> None:
    x, y = images(2), dense(2)
    expected = their_attack(loss, x, y)
    found = read(f"{name}(random_start=False, step_size=2/255)")(MODEL, x, y)
    assert (found != x).double().mean() > 0.9
    assert (found - expected).abs().max() <= 1e-6
    assert not torch.equal(found, read("pgd(random_start=False)")(MODEL, x, y)), "the weights have an effect"


def test_their_segpgd_counted_from_one_is_another_attack() -> None:
    """Counting t = 1 … T, as some code does, gives wrong pixels a weight from the start; the paper gives them none."""
    x, y = images(2), dense(2)
    logits = MODEL(x).detach()
    run = run_of(Attack(objective=SegPGD(), iterations=STEPS), x, y)
    assert float(loss_of(SegPGD(), logits, y, run).sum()) != pytest.approx(float(their_segpgd(logits, y, 1)))
    run.iteration = 1
    assert float(loss_of(SegPGD(), logits, y, run).sum()) == pytest.approx(float(their_segpgd(logits, y, 1)))


@pytest.mark.parametrize(("name", "objective", "loss"), PAIRS)
def test_with_void_theirs_divides_by_all_pixels_and_ours_by_valid_ones(
    name: str, objective: Objective, loss: Loss
) -> None:
    x, y = images(1), labels(1)
    logits = MODEL(x).detach()
    run = run_of(Attack(objective=objective, iterations=STEPS), x, y)
    run.iteration = 3
    share = float((y != VOID).double().mean())
    assert 0.3 < share < 0.95
    assert float(loss_of(objective, logits, y, run)) * share == pytest.approx(float(loss(logits, y, 3)), rel=1e-12)
