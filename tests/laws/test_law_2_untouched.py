"""Law 2: what an attack has no business with stays as it was, bit by bit."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segtrans.attack import Attack
from segtrans.threat import L2, LInf, Threat
from toys import Context, changed, each_attack, images, labels

X, Y = images(2), labels(2)
MODEL = Context()


@pytest.mark.parametrize("threat", [LInf(0), LInf("0/255"), L2(0)], ids=repr)
@each_attack
def test_no_budget_no_change(attack: Attack, threat: Threat) -> None:
    assert torch.equal(changed(attack, threat=threat)(MODEL, X, Y), X)


@pytest.mark.parametrize("per_image", [False, True], ids=["one region", "a region per image"])
@each_attack
def test_pixels_outside_the_region_are_untouched(attack: Attack, per_image: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    shape = (2, *X.shape[-2:]) if per_image else X.shape[-2:]
    region = torch.rand(shape, generator=generator) < 0.3
    moved = (attack(MODEL, X, Y, region=region) != X).any(1)
    assert not (moved & ~region).any()
    assert moved.any() or not (attack.iterations or attack.random_start)


@each_attack
def test_a_region_of_everything_is_no_region(attack: Attack) -> None:
    region = torch.ones(X.shape[-2:], dtype=torch.bool)
    assert torch.equal(attack(MODEL, X, Y, region=region), attack(MODEL, X, Y))


def bits(value: Tensor) -> bytes:
    return value.detach().contiguous().numpy().tobytes()


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def snapshot(model: nn.Module, *tensors: Tensor) -> dict[str, Any]:
    """Everything that an attack could leave behind."""
    kind, keys, *position = np.random.get_state()  # noqa: NPY002
    return {
        "state": {name: bits(value) for name, value in model.state_dict(keep_vars=True).items()},
        "flags": [(p.requires_grad, p.grad) for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "hooks": [[dict(getattr(m, name)) for name in HOOKS] for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        # The version counts writes in place, even if the old value was put back.
        "tensors": [(bits(t), t._version, t.requires_grad, t.grad) for t in tensors],
        "torch": bits(torch.get_rng_state()),
        "numpy": (kind, keys.tobytes(), *position),
        "python": random.getstate(),
        "grad": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
    }


@each_attack
def test_nothing_else_changes(attack: Attack) -> None:
    model = Context()
    model.body[0].weight.requires_grad_(False)
    model.body[3].register_forward_hook(lambda module, inputs, output: output)
    x, y, region = X.clone().requires_grad_(), Y.clone(), torch.ones(X.shape[-2:], dtype=torch.bool)
    before = snapshot(model, x, y, region)
    adversarial = attack(model, x, y, region=region, seed=3)
    assert snapshot(model, x, y, region) == before
    assert not adversarial.requires_grad
    assert adversarial.dtype == x.dtype
    adversarial.zero_()
    assert snapshot(model, x, y, region) == before, "the result shares no memory with the input"


@each_attack
def test_global_random_state_has_no_say(attack: Attack) -> None:
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        found.append(attack(MODEL, X, Y))
    assert torch.equal(*found)


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
