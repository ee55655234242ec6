"""Random numbers by address."""

import math

import pytest
import torch

from segtrans.random import CALLS, COUNT, Draw, _numbers, derive, image_keys
from toys import draw, images


def test_draws_never_change_between_versions() -> None:
    """Results on disk were made with these; a change of theirs is a change of every random attack."""
    keys = derive(derive(torch.arange(3), 1), torch.tensor([5, 6, 7]))
    assert keys.tolist() == KEYS
    assert (draw(2).uniform(3) * 2**24).long().tolist() == UNIFORM


KEYS = [-8996343559924824937, 7689863537575292650, -4554278063890130401]
UNIFORM = [[2175092, 837519, 11246243], [14844309, 6764026, 14063751]]


def test_numbers_made_ahead_are_those_made_one_by_one() -> None:
    random = draw(3)
    for call, shape in enumerate([(), (2, 3), (COUNT,), (COUNT + 1,)] * (CALLS // 2)):
        expected = [_numbers(derive(random._keys, call)[i : i + 1], math.prod(shape)) for i in range(3)]
        assert torch.equal(random.uniform(*shape), torch.cat(expected).view(3, *shape))


def test_an_address_is_the_same_as_a_number_and_as_a_tensor() -> None:
    keys = torch.arange(4)
    for address in (0, 1, 7, 2**40, -1):
        assert torch.equal(derive(keys, address), derive(keys, torch.full((4,), address)))


@pytest.mark.parametrize("seed", [0, -1, 2**63, -(2**70), 10**30])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    assert derive(torch.zeros(1, dtype=torch.int64), seed).dtype == torch.int64


def test_addresses_do_not_collide() -> None:
    keys = torch.zeros(1, dtype=torch.int64)
    found = {int(derive(derive(derive(keys, a), b), c)) for a in range(12) for b in range(12) for c in range(12)}
    assert len(found) == 12**3


def test_uniform_numbers_are_uniform_and_unrelated() -> None:
    numbers = draw(200).uniform(100)
    assert numbers.shape == (200, 100)
    assert 0 <= numbers.min() < 1e-3
    assert 1 - 1e-3 < numbers.max() < 1
    counts = torch.histc(numbers, 10, 0, 1) / numbers.numel()
    assert (counts - 0.1).abs().max() < 0.01
    assert numbers.mean() == pytest.approx(0.5, abs=0.01)
    assert numbers.std() == pytest.approx(12**-0.5, abs=0.01)
    # Across images, within an image, and with another seed.
    for one, other in (
        (numbers[1:], numbers[:-1]),
        (numbers[:, 1:], numbers[:, :-1]),
        (numbers, draw(200, seed=1).uniform(100)),
    ):
        assert abs(float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])) < 0.03


def test_calls_are_independent_and_repeat_in_a_new_draw() -> None:
    numbers = draw(2)
    first, second = numbers.uniform(5), numbers.uniform(5)
    assert not (first == second).any()
    again = draw(2)
    assert torch.equal(first, again.uniform(5))
    assert torch.equal(second, again.uniform(5))


def test_an_item_does_not_depend_on_its_neighbours_or_on_the_shape() -> None:
    assert torch.equal(draw(5).uniform(2, 3)[:2], draw(2).uniform(2, 3))
    assert torch.equal(draw(2).uniform(6).view(2, 2, 3), draw(2).uniform(2, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision_does_not_change_the_draw(dtype: torch.dtype) -> None:
    exact, rounded = draw(3).uniform(50, low=-2, high=3), draw(3, dtype=dtype).uniform(50, low=-2, high=3)
    assert rounded.dtype == dtype
    assert rounded.isfinite().all()
    assert torch.allclose(exact, rounded.double(), rtol=0, atol=5 * torch.finfo(dtype).eps)
    if dtype == torch.float32:
        assert torch.equal(draw(3).uniform(50), draw(3, dtype=dtype).uniform(50).double())


def test_bounds() -> None:
    numbers = draw(20).uniform(100, low=-0.25, high=0.5)
    assert -0.25 <= numbers.min() < -0.24
    assert 0.49 < numbers.max() < 0.5


def test_normal_numbers_are_normal_and_unrelated() -> None:
    numbers = draw(200).normal(500)
    assert numbers.shape == (200, 500)
    assert numbers.mean() == pytest.approx(0, abs=0.01)
    assert numbers.std() == pytest.approx(1, abs=0.01)
    assert numbers.pow(3).mean() == pytest.approx(0, abs=0.05)
    assert numbers.pow(4).mean() == pytest.approx(3, abs=0.1)
    expected = torch.special.ndtr(torch.linspace(-3, 3, 13, dtype=torch.float64))
    found = (numbers.flatten() < torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None]).double().mean(1)
    assert (found - expected).abs().max() < 0.005
    assert 4 < numbers.abs().max() < 5.8
    for one, other in (
        (numbers[1:], numbers[:-1]),
        (numbers[:, 1:], numbers[:, :-1]),
        (numbers, draw(200, seed=1).normal(500)),
    ):
        assert abs(float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])) < 0.015
    assert torch.allclose(draw(3).normal(4, deviation=0.1), 0.1 * draw(3).normal(4))


def test_normal_numbers_are_those_of_box_and_muller() -> None:
    numbers = draw(2)
    distance, angle = numbers.uniform(5), numbers.uniform(5)
    expected = (-2 * (1 - distance).log()).sqrt() * (2 * torch.pi * angle).cos()
    assert torch.allclose(draw(2).normal(5), expected, rtol=1e-6)
    again = draw(2)
    assert not (again.normal(5) == again.normal(5)).any()
    assert torch.equal(draw(4).normal(5)[:2], draw(2).normal(5))
    assert torch.equal(draw(1).normal(4001)[:, :7], draw(1).normal(7)), "whatever the place in memory"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision_does_not_change_normal_numbers(dtype: torch.dtype) -> None:
    exact, rounded = draw(3).normal(500), draw(3, dtype=dtype).normal(500)
    assert rounded.dtype == dtype
    assert torch.equal(rounded, exact.to(dtype))


def test_integers() -> None:
    bound = torch.tensor([[1, 2], [5, 1000]]).expand(500, 2, 2)
    found = draw(500).integers(bound)
    assert found.dtype == torch.int64
    assert (found >= 0).all()
    assert (found < bound).all()
    assert (found[:, 0, 0] == 0).all()
    assert set(found[:, 1, 0].tolist()) == set(range(5))
    assert float((found[:, 0, 1] == 0).double().mean()) == pytest.approx(0.5, abs=0.1)


def test_chance() -> None:
    assert not draw(50).chance(0.0, 10).any()
    assert draw(50).chance(1.0, 10).all()
    assert float(draw(500).chance(0.3, 10).double().mean()) == pytest.approx(0.3, abs=0.03)
    assert draw(3).chance(0.5).shape == (3,)


def test_shared_numbers_belong_to_the_run() -> None:
    assert draw(1).shared() == draw(7).shared()
    assert draw(1).shared() != draw(1, seed=1).shared()
    numbers = draw(1)
    assert numbers.shared() != numbers.shared()
    assert 3 <= draw(1).shared(3, 4) < 4


def test_length_and_copy() -> None:
    numbers = draw(4, copy=2)
    assert isinstance(numbers, Draw)
    assert len(numbers) == 4
    assert numbers.copy.tolist() == [2] * 4
    assert not torch.equal(draw(4, copy=2).uniform(3), draw(4, copy=1).uniform(3))


def test_image_keys_are_of_content() -> None:
    x = images(4)
    keys = image_keys(x)
    assert keys.dtype == torch.int64
    assert len(set(keys.tolist())) == 4
    assert torch.equal(image_keys(x[[2, 0]]), keys[[2, 0]])
    assert torch.equal(image_keys(x.float()), keys)
    assert torch.equal(image_keys(x.contiguous(memory_format=torch.channels_last)), keys)
    assert torch.equal(image_keys(x.requires_grad_()), keys)
    nudged = x.detach().clone()
    nudged[1, 0, 0, 0] = (nudged[1, 0, 0, 0] + 1 / 255) % 1
    assert (image_keys(nudged) == keys).tolist() == [True, False, True, True]


def test_numbers_are_given_where_they_are_wanted() -> None:
    """The meta device stands for a GPU: what it is sent has a shape and no values."""
    away, here = draw(3, copy=2), draw(3, copy=2)
    away.device = torch.device("meta")
    for numbers in (away.uniform(4), away.uniform(COUNT + 1), away.normal(2), away.chance(0.5), away.copy):
        assert numbers.device.type == "meta"
    here.uniform(4), here.uniform(COUNT + 1), here.normal(2), here.chance(0.5)
    back = away.on_cpu()
    assert torch.equal(back.uniform(4), here.uniform(4)), "they go on where the others stopped"
    assert torch.equal(back.copy, here.copy)
    assert here.on_cpu() is here
