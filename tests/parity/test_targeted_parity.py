"""Attacks towards a target are those of other libraries, in float64, on labels without void."""

import pytest
import torch
from torch.nn import functional as F

from segtrans.attack import Attack
from segtrans.catalogue import attack as read
from segtrans.goals import Towards
from segtrans.objectives import CosPGD
from toys import CLASSES, Context, dense, images, loss_of, run_of

EPS, STEP, STEPS = 8 / 255, 2 / 255, 10
MODEL = Context()


@pytest.mark.parametrize(
    ("name", "text", "settings"),
    [
        ("PGD", "towards", {"alpha": STEP, "steps": STEPS, "random_start": False}),
        ("MIFGSM", "mi(step_size='eps/T') + towards", {"alpha": EPS / STEPS, "steps": STEPS, "decay": 1.0}),
    ],
)
def test_towards_given_labels_like_torchattacks(name: str, text: str, settings: dict[str, object]) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed ; make setup installs it")
    x, wanted = images(2), dense(2, seed=4)
    theirs = getattr(torchattacks, name)(MODEL, eps=EPS, **settings)
    theirs.set_mode_targeted_by_label(quiet=True)
    expected, found = theirs(x, wanted), read(text)(MODEL, x, wanted)
    assert torch.equal(found, expected)
    assert (MODEL(found).argmax(1) == wanted).double().mean() > (MODEL(x).argmax(1) == wanted).double().mean()


def test_cospgd_towards_given_labels_like_its_authors() -> None:
    cospgd = pytest.importorskip("cospgd", reason="cospgd is not installed ; make setup installs it")
    x, wanted = images(2), dense(2, seed=4)
    run = run_of(Attack(objective=CosPGD(), goal=Towards(), iterations=STEPS), x, wanted)
    adversarial = x
    for _ in range(STEPS):
        leaf = adversarial.clone().requires_grad_()
        logits = MODEL(leaf)
        losses = F.cross_entropy(logits, wanted, reduction="none")
        loss = cospgd.functions.cospgd_scale(logits, wanted, losses, num_classes=CLASSES, targeted=True).mean() * 2
        assert torch.allclose(loss_of(CosPGD(), logits, wanted, run).sum(), loss, rtol=1e-12)
        (gradient,) = torch.autograd.grad(loss, leaf)
        adversarial = cospgd.functions.step_inf(adversarial, EPS, gradient, x, STEP, targeted=True)
    found = read("towards-cospgd(random_start=False, step_size=2/255)")(MODEL, x, wanted)
    assert (found != x).double().mean() > 0.9
    assert (found - adversarial).abs().max() <= 1e-6
