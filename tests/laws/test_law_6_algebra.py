"""Law 6: neutral settings are neutral to the last bit, and pixels that nobody reads have a gradient of exactly zero."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from segtrans.attack import Attack
from segtrans.catalogue import attack as read
from segtrans.catalogue import compose
from segtrans.gradients import Momentum
from segtrans.objectives import CrossEntropy
from segtrans.threat import L2
from segtrans.transforms import Transform
from toys import ATTACKS, Context, dense, draw, images, labels, run_of

X, Y = images(2), labels(2)
MODEL = Context()

NEUTRAL_TRANSFORMS = (
    "remap(grid=1, window=(1, 1), flip='none')",
    "remap(grid=1, window=(1, 1), flip='none', cuts='even')",
    "resize(probability=0)",
    "resize(scale=(1, 1), probability=1)",
    "rescale(scale=(1, 1))",
    "scale(copies=1)",
    "uniformscale(copies=1, scale=(1, 1))",
    "mixmask(copies=1, strength=0)",
    "spectrum(copies=1, rho=0, sigma=0)",
    "stylemix(copies=1, keep=1, noise=0)",
)
NEUTRAL = (*NEUTRAL_TRANSFORMS, "momentum(decay=0)", "nesterov(decay=0)", "smooth(size=1)", "smooth(size=1, sigmas=9)")


@pytest.mark.parametrize("base", ["bim", "pgd", "fgsm", "segpgd", "cospgd"])
@pytest.mark.parametrize("neutral", NEUTRAL)
def test_neutral_parts_change_nothing(neutral: str, base: str) -> None:
    assert torch.equal(read(f"{base} + {neutral}")(MODEL, X, Y), read(base)(MODEL, X, Y))


@pytest.mark.parametrize("neutral", [*NEUTRAL_TRANSFORMS, "smooth(size=1)"])
def test_neutral_parts_change_nothing_before_momentum_either(neutral: str) -> None:
    assert torch.equal(read(f"{neutral} + mi")(MODEL, X, Y), read("mi")(MODEL, X, Y))


@pytest.mark.parametrize("neutral", NEUTRAL_TRANSFORMS)
def test_neutral_transformations_return_what_they_were_given(neutral: str) -> None:
    (transform,) = read(neutral).transforms
    for dtype in (torch.float32, torch.float64):
        x, y = transform(X.to(dtype), Y, draw(2, dtype=dtype))
        assert torch.equal(x, X.to(dtype))
        assert torch.equal(y, Y)


def test_copies_of_a_transformation_that_draws_nothing_are_one() -> None:
    """Their mean is the same up to rounding, so that its sign is."""
    bim = read("bim")
    assert torch.equal(compose(*read("resize(probability=0, copies=3)").transforms, bim)(MODEL, X, Y), bim(MODEL, X, Y))


@pytest.mark.parametrize(
    ("spelling", "same_as"),
    [
        ("ni(iterations=1)", "mi(iterations=1)"),
        ("mi(iterations=1, step_size='eps/T')", "fgsm"),
        ("bim(iterations=1, step_size='eps/1')", "fgsm"),
        ("segpgd(iterations=0)", "noise"),
        ("pgd(random_start=False)", "bim"),
        ("crossentropy + bim", "bim"),
        ("linf(eps=8/255) + bim", "bim"),
        ("momentum", "mi"),
        ("di(iterations=3) + resize(probability=0)", "di(iterations=3)"),
    ],
)
def test_equal_attacks(spelling: str, same_as: str) -> None:
    assert torch.equal(read(spelling)(MODEL, X, Y), read(same_as)(MODEL, X, Y))


def test_neutral_momentum_in_l2_is_neutral_up_to_rounding() -> None:
    """Momentum divides by the gradient's mean, which a direction of unit length undoes."""
    base = Attack(threat=L2(1.0))
    assert torch.allclose(compose(Momentum(decay=0), base)(MODEL, X, Y), base(MODEL, X, Y), atol=1e-12)


def one_step(transform: Transform) -> Tensor:
    attack = Attack(transforms=(replace(transform, copies=1),), objective=CrossEntropy(), iterations=1)
    return (attack(MODEL, X, dense(2)) != X).any(1)


def test_an_attack_leaves_unread_pixels_alone() -> None:
    (transform,) = read("remap(grid=3, window=(0.1, 0.17))").transforms
    moved = one_step(transform)
    assert 0.05 < moved.double().mean() < 0.7


def test_every_attack_moves_something() -> None:
    """Otherwise the equalities above would hold for want of an effect."""
    for name, attack in ATTACKS.items():
        allowed = run_of(attack.attacks[0], X, Y, MODEL).allowed.expand_as(X)
        moved = (attack(MODEL, X, Y) != X)[allowed].double().mean()
        assert moved > 0.5 or name == "clean", name
