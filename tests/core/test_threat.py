"""Budgets."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from segtrans.errors import UsageError
from segtrans.threat import L2, LInf, Threat, fraction, in_grey_levels
from toys import draw, images

X = images(3, (8, 9))
each_threat = pytest.mark.parametrize("threat", [LInf("8/255"), LInf(0.3), L2(0.5), L2(4)], ids=repr)


@pytest.mark.parametrize(
    ("value", "number"),
    [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("0.03", 0.03), ("1e-3", 0.001), (0.5, 0.5), (1, 1.0), (0, 0.0)],
)
def test_fractions(value: float | str, number: float) -> None:
    assert fraction(value, "eps") == number


@pytest.mark.parametrize(
    "value", ["", "8/0", "eight", "8/255/2", -1, "-8/255", float("nan"), float("inf"), "nan", "inf", None, (1, 2)]
)
def test_what_is_no_fraction_is_refused_by_name(value: float | str) -> None:
    with pytest.raises(UsageError, match=r"^size is "):
        fraction(value, "size")


@pytest.mark.parametrize("eps", [8, "8", "4", 1.5, "300/255"])
def test_grey_levels_are_not_taken_for_a_fraction(eps: float | str) -> None:
    with pytest.raises(UsageError, match=r"write .*/255 for"):
        LInf(eps)


def test_the_error_says_what_to_write() -> None:
    with pytest.raises(UsageError, match="write 8/255 for 8 grey levels"):
        LInf(8)


def test_equal_budgets_are_equal() -> None:
    assert LInf("8/255") == LInf(8 / 255) == LInf()
    assert hash(LInf("8/255")) == hash(LInf(8 / 255))
    assert LInf(1) != L2(1)
    assert LInf("8/255").radius == 8 / 255
    assert L2().radius == 5
    with pytest.raises(FrozenInstanceError):
        LInf().eps = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("threat", "shown"),
    [
        (LInf(), "LInf('8/255')"),
        (LInf(4 / 255), "LInf('4/255')"),
        (LInf(0), "LInf('0/255')"),
        (LInf(0.05), "LInf('0.05')"),
        (LInf(1), "LInf('1')"),
        (L2(), "L2('5')"),
        (L2(0.5), "L2('0.5')"),
    ],
)
def test_repr_is_short(threat: Threat, shown: str) -> None:
    assert repr(threat) == shown


@given(st.floats(0, 1) | st.integers(0, 255).map(lambda levels: levels / 255))
def test_repr_is_exact(eps: float) -> None:
    """Results are filed under it."""
    assert eval(repr(LInf(eps))) == LInf(eps)
    assert eval(repr(L2(10 * eps))) == L2(10 * eps)


def test_grey_levels() -> None:
    assert in_grey_levels(16 / 255) == "16/255"
    assert in_grey_levels(0.05) == "0.05"
    assert in_grey_levels(5.0) == "5"


@each_threat
def test_starts_are_random_points_of_ball_and_box(threat: Threat) -> None:
    start = threat.start(X, draw(3))
    assert torch.equal(start, threat.start(X, draw(3)))
    assert not torch.equal(start, threat.start(X, draw(3, seed=1)))
    assert (threat.distance(start, X) <= threat.radius + 1e-12).all()
    assert (threat.distance(start, X) > 0).all()
    assert start.min() >= 0
    assert start.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_starts_in_half_precision_stay_in_the_ball(dtype: torch.dtype) -> None:
    start = LInf("8/255").start(X.to(dtype), draw(3, dtype=dtype))
    assert (LInf().distance(start, X.to(dtype)) <= 8 / 255 + 2 * torch.finfo(dtype).eps).all()


@each_threat
def test_all_values_reach_the_end_of_the_ball_together(threat: Threat) -> None:
    length = threat.distance(X + threat.reach(X), X)
    assert torch.allclose(length, torch.full_like(length, threat.radius), rtol=1e-12, atol=0)


def test_a_linf_start_is_uniform() -> None:
    moved = (LInf("8/255").start(torch.full((50, 3, 16, 16), 0.5), draw(50)) - 0.5) * 255 / 8
    assert moved.mean() == pytest.approx(0, abs=0.02)
    assert moved.std() == pytest.approx(3**-0.5, abs=0.01)
    assert moved.abs().max() > 0.99


def test_an_l2_start_favours_no_axis() -> None:
    threat = L2(2)
    x = torch.full((200, 3, 6, 6), 0.5, dtype=torch.float64)
    moved = (threat.start(x, draw(200)) - 0.5).flatten(1)
    length = moved.norm(dim=1)
    assert length.max() <= 2
    assert length.mean() == pytest.approx(1, abs=0.15)
    assert (moved / length[:, None]).std() == pytest.approx(moved.shape[1] ** -0.5, rel=0.05)


def anywhere(seed: int) -> Tensor:
    return X + torch.randn(X.shape, generator=torch.Generator().manual_seed(seed), dtype=X.dtype)


@each_threat
@given(seed=st.integers(0, 1000))
def test_projections_land_inside_and_stay_there(threat: Threat, seed: int) -> None:
    inside = threat.project(anywhere(seed), X)
    assert (threat.distance(inside, X) <= threat.radius * (1 + 1e-12)).all()
    assert inside.min() >= 0
    assert inside.max() <= 1
    assert torch.allclose(threat.project(inside, X), inside, atol=1e-15)
    assert torch.equal(threat.project(X, X), X)


def test_a_linf_projection_is_the_nearest_point() -> None:
    found = LInf(0.1).project(anywhere(0), X)
    low, high = (X - 0.1).clamp_min(0), (X + 0.1).clamp_max(1)
    assert torch.allclose(found, anywhere(0).maximum(low).minimum(high), atol=1e-15)


def test_an_l2_projection_keeps_the_direction() -> None:
    x = torch.full_like(X, 0.5)
    delta = 0.1 * (anywhere(0) - X)
    found = L2(0.2).project(x + delta, x) - x
    assert torch.allclose(found.flatten(1).norm(dim=1), torch.full((3,), 0.2, dtype=x.dtype))
    assert torch.allclose(torch.cosine_similarity(found.flatten(1), delta.flatten(1)), torch.ones(3, dtype=x.dtype))


@each_threat
def test_directions_are_unit_steps_uphill(threat: Threat) -> None:
    gradient = anywhere(1) - X
    gradient[1] = 0
    direction = threat.direction(gradient)
    assert (direction[1] == 0).all()
    length = threat.distance(direction, torch.zeros_like(direction))
    assert torch.allclose(length[[0, 2]], torch.ones(2, dtype=X.dtype))
    # No other unit step gains more, here against random ones.
    gain = (direction * gradient).flatten(1).sum(1)
    for seed in range(20):
        other = threat.direction(anywhere(seed + 5) - X)
        assert ((other * gradient).flatten(1).sum(1) <= gain + 1e-12).all()


@given(levels=st.integers(0, 40), seed=st.integers(0, 100))
def test_quantised_images_are_on_the_grid_in_the_ball_and_near(levels: int, seed: int) -> None:
    threat = LInf(levels / 255)
    adversarial = threat.project(anywhere(seed).float(), X.float())
    found = threat.quantise(adversarial, X.float())
    grid = found * 255
    assert torch.allclose(grid, grid.round(), atol=1e-4)
    assert (grid.round() - (X * 255).round()).abs().max() <= levels
    assert (found - adversarial).abs().max() <= 0.5 / 255 + 1e-6


def test_quantising_rounds_halves_away_from_nothing() -> None:
    """Truncation would move every image down by half a grey level on average."""
    x = torch.full((1, 3, 40, 40), 100 / 255, dtype=torch.float64)
    adversarial = LInf("8/255").start(x, draw(1))
    shift = (LInf("8/255").quantise(adversarial, x) - adversarial).mean() * 255
    assert abs(float(shift)) < 0.03


@pytest.mark.parametrize("eps", [0.05, 0.2, 1.0, 3.0])
def test_l2_quantises_to_the_nearest_levels_that_fit(eps: float) -> None:
    """Inside the ball, no value further off than a level, and longer than truncation leaves it."""
    threat = L2(eps)
    adversarial = threat.project(anywhere(3), X)
    found = threat.quantise(adversarial, X)
    assert torch.equal(found * 255, (found * 255).round())
    assert (threat.distance(found, X) <= eps * (1 + 1e-12)).all()
    assert ((found - adversarial).abs() < 1 / 255).all()
    truncated = ((adversarial - X) * 255).trunc() / 255 + X
    assert (threat.distance(found, X) >= threat.distance(truncated, X)).all()
    # Either the nearest levels fit, or what is left of the budget is less than one more rounding costs.
    levels, nearest = ((found - X) * 255).round(), ((adversarial - X) * 255).round()
    fits = (levels == nearest).flatten(1).all(1)
    cost = 2 * levels.abs().amax((1, 2, 3)) + 1
    assert (fits | (levels.square().sum((1, 2, 3)) + cost >= (255 * eps) ** 2)).all()
    assert (fits == (nearest.square().sum((1, 2, 3)) <= (255 * eps) ** 2)).all()
