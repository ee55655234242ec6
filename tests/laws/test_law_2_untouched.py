"""Law 2: what an attack has no business with stays as it was, bit by bit."""

import pytest
import torch
from torch import nn

from segtrans.attack import Attack
from segtrans.threat import L2, LInf, Threat
from toys import Context, changed, each_attack, images, labels

X, Y = images(2), labels(2)
MODEL = Context()


@pytest.mark.parametrize("threat", [LInf(0), LInf("0/255"), L2(0)], ids=repr)
@each_attack
def test_no_budget_no_change(attack: Attack, threat: Threat) -> None:
    assert torch.equal(changed(attack, threat=threat)(MODEL, X, Y), X)


@each_attack
def test_every_image_may_have_a_region_of_its_own(attack: Attack) -> None:
    region = torch.rand(2, *X.shape[-2:], generator=torch.Generator().manual_seed(1)) < 0.3
    moved = (attack(MODEL, X, Y, region=region) != X).any(1)
    assert not (moved & ~region).any()
    assert moved.any() or not (attack.iterations or attack.random_start)


@each_attack
def test_a_region_of_everything_is_no_region(attack: Attack) -> None:
    region = torch.ones(X.shape[-2:], dtype=torch.bool)
    assert torch.equal(attack(MODEL, X, Y, region=region), attack(MODEL, X, Y))


@pytest.mark.parametrize("training", [False, True])
def test_the_models_mode_is_left_alone(training: bool) -> None:
    """Batch statistics that a model in training mode gathers are its own doing; SegModel prevents it."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh()).double().train(training)
    Attack(iterations=2)(model, X, Y)
    assert [m.training for m in model.modules()] == [training] * 3


def test_attacks_work_where_gradients_are_switched_off() -> None:
    attack = Attack(iterations=2)
    with torch.no_grad():
        inside = attack(MODEL, X, Y)
        assert not torch.is_grad_enabled()
    assert torch.equal(inside, attack(MODEL, X, Y))
