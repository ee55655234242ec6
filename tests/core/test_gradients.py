"""Gradient transformations, on gradients that are given instead of computed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from segtrans.attack import Attack
from segtrans.catalogue import attack
from segtrans.errors import UsageError
from segtrans.gradients import GradientFunction, GradientTransform, Grey, Momentum, Nesterov, Smooth, normalise
from segtrans.run import Run
from segtrans.threat import L2
from toys import Constant, Context, PixelLinear, images, labels, parts_of, run_of

X, Y = images(2), labels(2)
RUN = run_of(Attack(), X, Y)
GRADIENTS = parts_of(GradientTransform)
each_gradient = pytest.mark.parametrize("part", [cls() for cls in GRADIENTS.values()], ids=GRADIENTS)


def noise(seed: int = 0) -> Tensor:
    return torch.randn(X.shape, generator=torch.Generator().manual_seed(seed), dtype=X.dtype)


def series() -> GradientFunction:
    """Another gradient at every call, whatever the image."""
    calls = iter(range(100))
    return lambda z: noise(next(calls))


def recorded(at: list[Tensor]) -> GradientFunction:
    """The identity, which records where it is asked."""

    def gradient(z: Tensor) -> Tensor:
        at.append(z)
        return z

    return gradient


def test_normalised_gradients_have_a_mean_size_of_one_per_image() -> None:
    gradient = noise() * torch.tensor([1e-8, 50.0]).view(2, 1, 1, 1)
    size = normalise(gradient).abs().mean((1, 2, 3))
    assert torch.allclose(size, torch.ones(2, dtype=X.dtype))
    gradient[0] = 0
    assert (normalise(gradient)[0] == 0).all()
    assert normalise(gradient).isfinite().all()


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_momentum_accumulates_normalised_gradients(decay: float) -> None:
    wrapped = Momentum(decay=decay).wrap(series(), RUN)
    expected = torch.zeros_like(X)
    for step in range(4):
        expected = decay * expected + noise(step) / noise(step).abs().mean((1, 2, 3), keepdim=True)
        assert torch.allclose(wrapped(X), expected)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_nesterov_looks_ahead(decay: float) -> None:
    at: list[Tensor] = []
    wrapped = Nesterov(decay=decay).wrap(recorded(at), RUN)
    z, velocity = X + 1, torch.zeros_like(X)
    for _ in range(3):
        ahead = z + decay * RUN.alpha * velocity
        velocity = decay * velocity + normalise(ahead)
        assert torch.allclose(wrapped(z), velocity)
        assert torch.allclose(at[-1], ahead)
    assert RUN.alpha == pytest.approx(2 / 255)


def gaussian(size: int, sigmas: float) -> Tensor:
    at = np.linspace(-sigmas, sigmas, size)
    line = np.exp(-(at**2) / 2)
    kernel = np.outer(line, line)
    return torch.from_numpy(kernel / kernel.sum())


@pytest.mark.parametrize(("size", "sigmas"), [(3, 3.0), (5, 1.0), (15, 3.0)])
def test_smoothing_is_a_gaussian_per_channel(size: int, sigmas: float) -> None:
    kernel = gaussian(size, sigmas).expand(3, 1, -1, -1)
    expected = torch.nn.functional.conv2d(noise(), kernel, padding=size // 2, groups=3)
    found = Smooth(size=size, sigmas=sigmas).wrap(series(), RUN)(X)
    assert torch.allclose(found, expected, atol=1e-14)


def test_smoothing_keeps_a_constant_away_from_the_border_and_mixes_no_channels() -> None:
    gradient = torch.zeros_like(X)
    gradient[:, 1] = 2
    found = Smooth(size=5).wrap(lambda z: gradient, RUN)(X)
    assert torch.allclose(found[:, 1, 2:-2, 2:-2], gradient[:, 1, 2:-2, 2:-2])
    assert (found[:, [0, 2]] == 0).all()
    assert (found[:, 1, 0] < 2).all()


@pytest.mark.parametrize("size", [0, -1, 2, 14, 3.0, "3"])
def test_kernels_have_a_centre(size: int) -> None:
    with pytest.raises(UsageError, match=f"^Smooth size is {size!r}; allowed are"):
        Smooth(size=size)


def test_grey_gradients_have_one_value_for_the_three_channels_which_is_their_mean() -> None:
    gradient = noise()
    found = Grey().wrap(lambda z: gradient, RUN)(X)
    red, green, blue = gradient.unbind(1)
    assert torch.allclose(found, ((red + green + blue) / 3)[:, None].expand(-1, 3, -1, -1), atol=1e-15)


def test_gradients_can_go_a_part_of_the_way_to_grey() -> None:
    gradient = noise()
    mean = gradient.mean(1, keepdim=True)
    found = Grey(share=0.25).wrap(lambda z: gradient, RUN)(X)
    assert torch.allclose(found - mean, 0.75 * (gradient - mean), atol=1e-15)
    assert torch.equal(Grey(share=0).wrap(lambda z: gradient, RUN)(X), gradient)
    with pytest.raises(UsageError, match=r"^Grey share is 1.5; allowed are"):
        Grey(share=1.5)


def test_a_grey_perturbation_changes_brightness_alone_where_the_box_leaves_room() -> None:
    x = 0.3 + 0.4 * images(2, (12, 10))
    delta = attack("grey + mi(iterations=3)")(PixelLinear(4), x, labels(2, (12, 10), values=range(4))) - x
    assert delta.abs().amax() > 2 / 255
    assert (delta - delta[:, :1]).abs().amax() < 1e-12


def test_the_order_of_gradient_transformations_is_from_the_model_outwards() -> None:
    """Momentum normalises what it is given: smoothed gradients here, raw ones there."""
    inner = Momentum().wrap(Smooth(size=5).wrap(series(), RUN), RUN)(X)
    outer = Smooth(size=5).wrap(Momentum().wrap(series(), RUN), RUN)(X)
    assert torch.allclose(inner.abs().mean((1, 2, 3)), torch.ones(2, dtype=X.dtype))
    assert (outer.abs().mean((1, 2, 3)) < 0.5).all()


def test_an_attack_wraps_in_that_order() -> None:
    order: list[str] = []

    @dataclass(frozen=True, kw_only=True)
    class Tells(GradientTransform):
        name: str

        def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
            def tell(z: Tensor) -> Tensor:
                g = gradient(z)
                order.append(self.name)
                return g

            return tell

    Attack(gradients=(Tells(name="inner"), Tells(name="outer")), iterations=2)(Context(), X, Y)
    assert order == ["inner", "outer"] * 2


@each_gradient
def test_state_is_fresh_in_every_attack(part: GradientTransform) -> None:
    first = part.wrap(series(), RUN)
    values = [first(X), first(X)]
    second = part.wrap(series(), RUN)
    assert all(torch.equal(second(X), value) for value in values)
    attack = Attack(gradients=(part,), iterations=2)
    assert torch.equal(attack(Context(), X, Y), attack(Context(), X, Y))


@each_gradient
def test_evaluations_are_as_declared(part: GradientTransform) -> None:
    calls: list[Tensor] = []
    wrapped = part.wrap(recorded(calls), RUN)
    for step in range(1, 4):
        wrapped(X + step)
        assert len(calls) == step * (part.evaluations + part.plain)


@each_gradient
def test_images_do_not_mix(part: GradientTransform) -> None:
    def only(index: int) -> Callable[[Tensor], Tensor]:
        return lambda z: torch.where(torch.arange(2).view(2, 1, 1, 1) == index, noise(), 0)

    both = part.wrap(lambda z: noise(), RUN)(X)
    for index in range(2):
        alone = part.wrap(only(index), RUN)(X)
        assert torch.equal(alone[index], both[index])
        assert (alone[1 - index] == 0).all()


@each_gradient
def test_zero_stays_zero(part: GradientTransform) -> None:
    wrapped = part.wrap(run_of(Attack(), X, Y, Constant()).gradient, RUN)
    for _ in range(2):
        assert (wrapped(X) == 0).all()


def test_nesterov_looks_one_step_ahead_in_l2_too() -> None:
    """Not by the sum of gradients whose mean absolute value is 1, which would be a way out of any image."""
    seen: list[Tensor] = []

    def gradient(z: Tensor) -> Tensor:
        seen.append(z)
        return torch.ones_like(z)

    run = run_of(Attack(threat=L2(1.0)), X, Y)
    nesterov = Nesterov().wrap(gradient, run)
    nesterov(run.x)
    nesterov(run.x)
    assert torch.equal(seen[0], run.x)
    assert torch.allclose(run.threat.distance(seen[1], run.x), torch.full((len(X),), run.alpha, dtype=X.dtype))


def test_a_part_that_draws_has_to_say_so() -> None:
    class Jitter(GradientTransform):
        def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
            stream = run.stream()
            return lambda z: gradient(z) * 0 + run.draw(stream).uniform(*z.shape[1:], low=-1)

    class Honest(Jitter):
        @property
        def draws(self) -> bool:
            return True

    with pytest.raises(UsageError, match="none of the attack's says that it does"):
        Attack(gradients=(Jitter(),))(Context(), X, Y)
    first, other = (Attack(gradients=(Honest(),))(Context(), X, Y, seed=seed) for seed in (0, 1))
    assert not torch.equal(first, other)
