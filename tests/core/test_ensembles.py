"""Several models as one."""

import pytest
import torch
from ensemble_of_toys import MODELS, each_fuse, member
from torch import Tensor, nn

from segtrans.attack import Attack
from segtrans.errors import UsageError
from segtrans.models import Ensemble, wrap
from toys import CLASSES, Context, images, labels, run_of

X, Y = images(2), labels(2)


def test_logits_are_averaged() -> None:
    assert torch.allclose(Ensemble(MODELS)(X), sum(m(X) for m in MODELS) / 3, atol=1e-12)


def test_probabilities_are_averaged() -> None:
    found = Ensemble(MODELS, "probabilities")(X).softmax(1)
    assert torch.allclose(found, sum(m(X).softmax(1) for m in MODELS) / 3, atol=1e-12)


def test_probabilities_that_underflow_keep_their_gradient() -> None:
    ensemble = Ensemble([m.float() for m in (member(Context(0)), member(Context(1)))], "probabilities")
    for m in ensemble.members:
        m.network.body[-1].weight.mul_(1e4)
    x = X.float().requires_grad_()
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(ensemble(x), Y, ignore_index=255), x)
    assert gradient.isfinite().all()
    assert (gradient != 0).flatten(1).any(1).all()


@each_fuse
def test_one_loss_or_a_loss_each(fuse: str) -> None:
    """Only a mean of losses has the mean of the members' gradients."""

    def gradient(model: torch.nn.Module) -> Tensor:
        return run_of(Attack(), X, Y, model).gradient(X)

    expected = sum(map(gradient, MODELS)) / 3
    same = torch.allclose(gradient(Ensemble(MODELS, fuse)), expected, rtol=1e-9, atol=0)  # type: ignore[arg-type]
    assert same == (fuse == "loss")


def test_a_member_can_be_asked_alone() -> None:
    run = run_of(Attack(), X, Y, Ensemble(MODELS, "loss"))
    assert torch.allclose(run.ask(run.gradient, X, 1), run_of(Attack(), X, Y, MODELS[1]).gradient(X), rtol=1e-12)


@each_fuse
def test_twins_are_as_good_as_one(fuse: str) -> None:
    twins = Ensemble([MODELS[0], MODELS[0]], fuse)  # type: ignore[arg-type]
    attack = Attack(iterations=3)
    assert (attack(twins, X, Y) - attack(MODELS[0], X, Y)).abs().max() < 1e-9


def test_members_have_their_classes_in_the_same_order() -> None:
    one, other = (wrap(nn.Conv2d(3, 2, 1), names, name=names[0]) for names in (["sky", "road"], ["road", "sky"]))
    with pytest.raises(
        UsageError, match=r"road has those of sky in another order \(class 0 is 'road' instead of 'sky'"
    ):
        Ensemble([one, other])


def test_models_of_one_name_are_told_apart() -> None:
    models = [wrap(nn.Conv2d(3, classes, 1), classes) for classes in (5, 4)]
    with pytest.raises(UsageError, match="must have the same classes; these have: Conv2d 5, Conv2d 4"):
        Ensemble(models)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(UsageError, match="1 model"):
        Ensemble(MODELS[:1])
    with pytest.raises(UsageError, match="same classes"):
        Ensemble([MODELS[0], member(Context(1), CLASSES + 1)])
    with pytest.raises(UsageError, match=r"^fuse is 'probs'; allowed are 'logits', 'probabilities' and 'loss'$"):
        Ensemble(MODELS, "probs")  # type: ignore[arg-type]
