"""One perturbation for many images, against a plain loop."""

import pytest
import torch
from torch import Tensor

from segtrans.attack import Attack
from segtrans.catalogue import ENTRIES, attack
from segtrans.errors import UsageError
from segtrans.steps import Steepest, Universal
from segtrans.threat import L2, LInf
from toys import ATTACKS, SEPARATE, BreaksOnBright, Context, PixelLinear, bright, images, labels, run_of

SIZE, EPS = (9, 11), 8 / 255
# Away from the box, so that the perturbation shows in full.
X, Y = 0.2 + 0.6 * images(4, SIZE), labels(4, SIZE, block=3)
MODEL = Context()


def by_hand(tile: int, iterations: int = 5, x: Tensor = X) -> Tensor:
    """Pixel by pixel: gradients of all images and of all places that share a number are added up."""
    rows, cols = (tile, tile) if tile else SIZE
    delta = torch.zeros(3, rows, cols, dtype=torch.float64)
    whole = torch.zeros(3, *SIZE, dtype=torch.float64)
    for _ in range(iterations):
        gradient = run_of(Attack(), x, Y, MODEL).gradient((x + whole).clamp(0, 1))
        total = torch.zeros_like(delta)
        for row in range(SIZE[0]):
            for col in range(SIZE[1]):
                total[:, row % rows, col % cols] += gradient[:, :, row, col].sum(0)
        delta = (delta + 2 / 255 * total.sign()).clamp(-EPS, EPS)
        for row in range(SIZE[0]):
            for col in range(SIZE[1]):
                whole[:, row, col] = delta[:, row % rows, col % cols]
    return (x + whole).clamp(0, 1)


@pytest.mark.parametrize("tile", [0, 1, 4, 9, 20])
def test_one_perturbation_by_hand(tile: int) -> None:
    moved = Attack(step=Universal(tile=tile), iterations=5)(MODEL, X, Y)
    assert torch.allclose(moved, by_hand(tile), rtol=0, atol=1e-14)
    assert not torch.allclose(moved, Attack(iterations=5)(MODEL, X, Y), atol=1e-3)


def test_in_l2_it_is_sent_back_to_the_ball_after_every_step() -> None:
    delta = torch.zeros_like(X[:1])
    for _ in range(9):
        gradient = run_of(Attack(), X, Y, MODEL).gradient((X + delta).clamp(0, 1)).sum(0, keepdim=True)
        delta = delta + 0.5 / 3 * gradient / gradient.norm()
        delta = delta * min(1.0, 0.5 / float(delta.norm()))
    found = Attack(threat=L2(0.5), step=Universal(), iterations=9, step_size="eps/3")(MODEL, X, Y)
    assert torch.allclose(found, (X + delta).clamp(0, 1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("threat", [LInf(EPS), L2(0.5)], ids=repr)
@pytest.mark.parametrize("tile", [0, 4])
def test_it_is_the_same_for_all_images_and_periodic(tile: int, threat: LInf | L2) -> None:
    moved = Attack(threat=threat, step=Universal(tile=tile), iterations=8)(MODEL, X, Y) - X
    assert (moved - moved[:1]).abs().max() <= 1e-15
    assert (moved != 0).double().mean() > 0.9
    assert float(threat.distance(X + moved, X).max()) == pytest.approx(threat.radius, rel=1e-9)
    if tile:
        assert torch.allclose(moved[..., tile:, :], moved[..., :-tile, :], atol=1e-15)
        assert torch.allclose(moved[..., tile:], moved[..., :-tile], atol=1e-15)


def test_the_box_is_each_images_own() -> None:
    x = images(3, SIZE)
    moved = attack("universal")(MODEL, x, Y[:3])
    assert moved.min() >= 0
    assert moved.max() <= 1
    inside = ((x > EPS) & (x < 1 - EPS)).all(0)
    delta = (moved - x)[:, inside]
    assert (delta - delta[:1]).abs().max() <= 1e-15
    assert not torch.allclose(moved - x, (moved - x)[:1], atol=1e-4)


def test_one_image_alone_is_attacked_as_ever() -> None:
    """Steps of the sign, clipped to the same ball; the box may cut in another order."""
    for tile in (0, 9 * 11):
        found = Attack(step=Universal(tile=tile))(MODEL, X[:1], Y[:1])
        assert torch.allclose(found, Attack()(MODEL, X[:1], Y[:1]), rtol=0, atol=1e-14)


def test_all_images_have_a_say() -> None:
    together = attack("universal")(MODEL, X, Y) - X
    first, second = (attack("universal")(MODEL, X[part], Y[part]) - X[part] for part in (slice(0, 2), slice(2, 4)))
    assert not torch.allclose(together[0], first[0], atol=1e-3)
    assert not torch.allclose(together[2], second[0], atol=1e-3)
    order = torch.tensor([3, 1, 0, 2])
    assert torch.allclose(attack("universal")(MODEL, X[order], Y[order]) - X[order], together, atol=1e-14)


def test_an_image_that_fails_has_none() -> None:
    x = X.clone()
    x[2] = 0.95
    assert bright(x).flatten().tolist() == [False, False, True, False]
    result = attack("universal").perturb(BreaksOnBright(MODEL), x, Y)
    others = [0, 1, 3]
    assert result.failed.tolist() == [False, False, True, False]
    assert torch.equal(result.adversarial[2], x[2])
    assert torch.allclose(result.adversarial[others], attack("universal")(MODEL, x[others], Y[others]), atol=1e-14)


def test_it_goes_with_other_parts() -> None:
    found = attack("hide + remap(copies=2) + mi(iterations=3) + universal")
    assert found.evaluations == found.perturb(MODEL, X, Y).evaluations == 6
    assert found.step == Universal()
    moved = found(MODEL, X, Y) - X
    assert (moved - moved[:1]).abs().max() <= 1e-15


def test_a_universal_perturbation_harms_each_image_less_than_its_own() -> None:
    y = MODEL(X).argmax(1)
    own, shared = ((MODEL(attack(name)(MODEL, X, y)).argmax(1) != y).double().mean() for name in ("bim", "universal"))
    assert 0 < shared < own


def test_it_tells_that_it_is_shared() -> None:
    assert Attack(step=Universal()).shared
    assert not Attack().shared
    assert not Steepest().shared
    assert {name for name, value in ATTACKS.items() if value.shared} == {"universal", "universal()"}
    assert len(ATTACKS) - len(SEPARATE) == 2
    assert ENTRIES["universal"].attack == Attack(step=Universal())


def test_pixels_outside_the_image_take_no_part() -> None:
    """A tile of two by two on an odd image: the last row and column have gradients, what is cut off has none."""
    x, y = X[:1, :, :3, :3], Y[:1, :3, :3]
    moved = Attack(step=Universal(tile=2), iterations=1)(PixelLinear(), x, y) - x
    assert torch.equal(moved[..., 2, :2].sign(), moved[..., 0, :2].sign())


@pytest.mark.parametrize("tile", [-1, 2.0, "2", True])
def test_tiles_are_whole(tile: object) -> None:
    with pytest.raises(UsageError, match=rf"^Universal tile is {tile!r}; allowed are whole numbers from 0$"):
        Universal(tile=tile)  # type: ignore[arg-type]
