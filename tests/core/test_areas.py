"""Where an attack may change pixels, and what then counts."""

import re

import pytest
import torch
from torch import Tensor

from segtrans.areas import Classes, Patch
from segtrans.attack import Attack
from segtrans.catalogue import attack as read
from segtrans.data.base import VOID
from segtrans.errors import UsageError
from toys import Context, dense, images, labels, run_of

SIZE = (17, 22)
X, Y = images(3, SIZE), labels(3, SIZE)
MODEL = Context()


def square(patch: Patch, size: tuple[int, int] = SIZE) -> tuple[int, int, int, int]:
    """Top, left, height and width of what a patch covers."""
    mask = patch.mask(torch.zeros(1, 3, *size), torch.zeros(1, *size, dtype=torch.int64))
    assert mask.shape == (1, 1, *size)
    rows, cols = mask[0, 0].any(1).nonzero().flatten().tolist(), mask[0, 0].any(0).nonzero().flatten().tolist()
    assert int(mask.sum()) == len(rows) * len(cols), "a rectangle"
    assert rows == list(range(rows[0], rows[0] + len(rows)))
    assert cols == list(range(cols[0], cols[0] + len(cols)))
    return rows[0], cols[0], len(rows), len(cols)


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        (Patch(), (6, 9, 4, 4)),
        (Patch(side=0.5, row=0, col=0), (0, 0, 8, 8)),
        (Patch(side=5, row=1, col=1), (12, 17, 5, 5)),
        (Patch(side=17, row=0.3, col=0.0), (0, 0, 17, 17)),
        (Patch(side=17.0, row=0.3, col=1.0), (0, 5, 17, 17)),
        (Patch(side=1, row=0.5, col=0.25), (8, 5, 1, 1)),
        (Patch(side=0.001), (8, 10, 1, 1)),
    ],
    ids=repr,
)
def test_places_of_patches(patch: Patch, expected: tuple[int, int, int, int]) -> None:
    assert square(patch) == expected


@pytest.mark.parametrize("text", ["patch(iterations=3)", "bim(iterations=3) + patch", "indirect(iterations=3)"])
def test_only_the_area_changes_and_all_else_counts(text: str) -> None:
    attack = read(text)
    area = run_of(attack, X, Y, MODEL).allowed.expand(3, 1, *SIZE)
    moved = (attack(MODEL, X, Y) != X).any(1, keepdim=True)
    assert not moved[~area].any()
    assert moved[area].double().mean() > 0.5
    # What is inside has no say: other labels there lead to the same.
    run = run_of(attack, X, Y, MODEL)
    assert (run.y[area[:, 0]] == VOID).all()
    assert torch.equal(run.y[~area[:, 0]], Y[~area[:, 0]])


def test_labels_under_a_patch_have_no_say() -> None:
    area = Patch().mask(X, Y)[:, 0]
    attack = read("patch(iterations=2)")
    assert torch.equal(attack(MODEL, X, Y), attack(MODEL, X, torch.where(area, 2, Y)))


def test_a_patch_is_free_within_the_largest_budget() -> None:
    moved = (read("patch")(MODEL, X, Y) - X).abs().amax((1, 2, 3))
    assert (moved > 0.5).all()
    bounded = (read("patch(iterations=5) + linf(eps=4/255)")(MODEL, X, Y) - X).abs().amax()
    assert float(bounded) == pytest.approx(4 / 255)


def test_a_patch_costs_its_copies() -> None:
    attack = read("patch")
    assert attack.evaluations == 40
    assert attack.perturb(MODEL, X, Y).evaluations == 40


def chosen(area: Classes, y: Tensor = Y) -> Tensor:
    return area.mask(X, y)[:, 0]


def test_areas_of_classes() -> None:
    assert torch.equal(chosen(Classes()), Y == 0)
    assert torch.equal(chosen(Classes(classes=(0, 2))), (Y == 0) | (Y == 2))
    assert torch.equal(chosen(Classes(classes=(1,), inside=False)), (Y == 0) | (Y == 2))
    assert not chosen(Classes(classes=(VOID,))).any(), "void is no class"
    assert not chosen(Classes(classes=())).any()
    assert torch.equal(chosen(Classes(classes=(), inside=False)), Y != VOID)


def test_areas_of_classes_follow_the_surrogate_where_there_are_no_labels() -> None:
    attack = read("indirect(random_start=False)")
    moved = (attack(MODEL, X) != X).any(1)
    assert moved.any()
    assert not moved[MODEL(X).argmax(1) != 0].any()


def test_what_is_around_changes_what_is_inside() -> None:
    """The point of indirect attacks: pixels are misread that were not touched."""
    y = MODEL(X).argmax(1)
    adversarial = read("linf(eps=0.1) + indirect")(MODEL, X, y)
    untouched = (adversarial == X).all(1)
    assert untouched[y != 0].all()
    assert (MODEL(adversarial).argmax(1) != y)[untouched].double().mean() > 0.05


def test_areas_join_the_callers_region() -> None:
    region = torch.zeros(SIZE, dtype=torch.bool)
    region[:, :11] = True
    run = run_of(Attack(area=Patch(side=6)), X, Y)
    assert run.allowed[..., 11:].any()
    moved = (read("bim(iterations=2) + patch")(MODEL, X, dense(3), region=region) != X).any(1)
    assert moved.any()
    assert not moved[..., 11:].any()


@pytest.mark.parametrize("side", [0, -1, 1.5, float("nan"), float("inf")])
def test_sides_are_shares_or_whole_numbers(side: float) -> None:
    with pytest.raises(
        UsageError, match=rf"^Patch side is {side}; allowed are shares below 1 and whole numbers from 1$"
    ):
        Patch(side=side)


@pytest.mark.parametrize("place", [{"row": -0.1}, {"col": 1.1}], ids=repr)
def test_places_are_shares(place: dict[str, float]) -> None:
    ((name, value),) = place.items()
    with pytest.raises(UsageError, match=re.escape(f"Patch {name} is {value}; allowed are numbers from 0 to 1")):
        Patch(**place)


def test_patches_must_fit() -> None:
    with pytest.raises(UsageError, match=r"^Patch side is 18; images are only 17×22$"):
        Attack(area=Patch(side=18))(MODEL, X, Y)


@pytest.mark.parametrize("classes", [(-1,), (0, 1.5), ("0",), (True,)], ids=repr)
def test_classes_are_whole_numbers(classes: tuple[object, ...]) -> None:
    with pytest.raises(UsageError, match=r"^Classes classes is .*; allowed are whole numbers from 0$"):
        Classes(classes=classes)  # type: ignore[arg-type]
