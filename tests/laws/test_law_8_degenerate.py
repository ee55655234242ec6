"""Law 8: a zero gradient is reported, NaN is an error of its image alone, and neither spreads."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from segtrans.attack import Attack, ZeroGradientWarning
from segtrans.catalogue import attack as read
from segtrans.errors import ModelError, NonFiniteError
from segtrans.threat import L2
from segtrans.transforms import Operators
from toys import (
    CLASSES,
    BreaksOnBright,
    Constant,
    Context,
    PixelLinear,
    bright,
    each_attack,
    each_separate_attack,
    images,
    labels,
)

# The bright image is so through every transformation but the darker copies of Scale, of which the first is bright, and
# chains of operators, which may darken it every time.
X = torch.cat([images(3, high=0.4), 0.97 + 0.03 * images(1, seed=7)])[[0, 3, 1, 2]]
Y = labels(4)
OTHERS = [0, 2, 3]


def test_a_constant_model_is_reported() -> None:
    with pytest.warns(ZeroGradientWarning, match=r"zero gradient for image\(s\) 0, 1, 2, 3 "):
        assert torch.equal(Attack()(Constant(), X, Y), X)


@each_attack
def test_a_model_with_a_gradient_is_not_reported(attack: Attack) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack(Context(), X, Y)


def test_nan_is_an_error_that_names_the_image() -> None:
    with pytest.raises(NonFiniteError, match=r"image\(s\) 1 of the batch") as error:
        Attack()(BreaksOnBright(Context()), X, Y)
    assert error.value.indices == (1,)


@each_separate_attack
def test_the_bright_image_is_bright_to_the_model(attack: Attack) -> None:
    """Otherwise what check_attack says about NaN would hold for want of any."""
    model = BreaksOnBright(Context())
    attack.perturb(model, X, Y)
    assert model.broken == (attack.iterations > 0) or any(isinstance(t, Operators) for t in attack.transforms)


class RootOfZero(nn.Module):
    """Finite logits whose gradient is NaN, 0/0, for bright images."""

    def forward(self, x: Tensor) -> Tensor:
        return PixelLinear()(x) + ((x - x).abs() + ~bright(x)).sqrt()


class NanAtVoid(nn.Module):
    """NaN logits at one pixel, of bright images only; the loss of other pixels stays finite."""

    def forward(self, x: Tensor) -> Tensor:
        spot = torch.zeros_like(x[:, :1])
        spot[:, :, 0, 0] = 1
        return PixelLinear()(x) * torch.where(bright(x) & (spot > 0), torch.nan, 1.0)


class RulesOut(nn.Module):
    """Minus infinity for class 0 of bright images: an infinite loss whose gradient is finite."""

    def forward(self, x: Tensor) -> Tensor:
        first = torch.arange(CLASSES).view(1, -1, 1, 1) == 0
        return PixelLinear()(x).masked_fill(bright(x) & first, -torch.inf)


@pytest.mark.parametrize(
    "model",
    [RootOfZero(), NanAtVoid(), RulesOut()],
    ids=["gradient only", "logits under void", "loss only"],
)
@pytest.mark.parametrize("objective", ["bim", "segpgd", "cospgd", "mi"])
def test_nan_is_not_taken_for_a_gradient(objective: str, model: nn.Module) -> None:
    """The sign of NaN is 0 or NaN, neither of which is an attack."""
    y = Y.clone()
    y[:, 0, 0] = 255
    result = read(objective).perturb(model, X, y)
    assert result.failed.tolist() == [False, True, False, False]
    assert torch.equal(result.adversarial[1], X[1])
    assert result.adversarial.isfinite().all()


def test_nan_in_a_later_iteration_counts() -> None:
    seen: list[int] = []

    def model(x: Tensor) -> Tensor:
        seen.append(1)
        return PixelLinear()(x) * (torch.nan if len(seen) == 3 else 1)

    result = Attack(iterations=5).perturb(model, X, Y)
    assert result.failed.all()
    assert torch.equal(result.adversarial, X)


def test_l2_steps_of_zero_length_are_zero() -> None:
    direction = L2(1.0).direction(torch.stack([torch.zeros(3, 4, 5), torch.full((3, 4, 5), 1e-30)]))
    assert (direction[0] == 0).all()
    assert direction.isfinite().all()


@pytest.mark.parametrize(
    "model",
    [
        lambda x: torch.zeros(len(x), 3, *x.shape[-2:], dtype=x.dtype),
        lambda x: x.detach() * 2,
        lambda x: nn.Parameter(torch.ones(3, 1, 1)).expand(len(x), 3, *x.shape[-2:]),
    ],
    ids=["constant tensor", "detached", "only parameters"],
)
def test_models_without_any_path_to_the_image_are_refused(model: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ModelError, match="does not depend on its input"):
        Attack()(model, X, Y)
