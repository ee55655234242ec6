"""What an attack is after."""

import re

import pytest
import torch
from torch import Tensor

from segtrans.attack import Attack
from segtrans.catalogue import attack as read
from segtrans.data.base import VOID
from segtrans.errors import UsageError
from segtrans.goals import AllAs, Goal, HideClass, LeastLikely, Towards, Untargeted
from segtrans.run import Run
from toys import CLASSES, Context, PixelLinear, images, labels

SIZE = (9, 11)
X, Y = images(4, SIZE), labels(4, SIZE, block=3)
MODEL = Context()


def wanted(goal: Goal, y: Tensor | None = Y, x: Tensor = X) -> Tensor:
    return Run(Attack(goal=goal), MODEL, x, y).y


def nearest(y: Tensor, row: int, col: int, hidden: int) -> set[int]:
    """All labels that are nearest to a pixel, by looking everywhere."""
    others = [
        ((r - row) ** 2 + (c - col) ** 2, int(y[r, c]))
        for r in range(SIZE[0])
        for c in range(SIZE[1])
        if y[r, c] not in (hidden, VOID)
    ]
    least = min((distance for distance, _ in others), default=None)
    return {label for distance, label in others if distance == least} or {VOID}


@pytest.mark.parametrize("hidden", range(CLASSES))
def test_a_hidden_class_takes_the_nearest_labels(hidden: int) -> None:
    y = Y.clone()
    y[1] = hidden  # nothing else in the whole image
    y[2] = torch.where(y[2] == VOID, VOID, hidden)  # nothing else but void
    found = wanted(HideClass(index=hidden), y)
    assert torch.equal(found[y != hidden], y[y != hidden]), "void, too"
    for image, row, col in (y == hidden).nonzero().tolist():
        assert int(found[image, row, col]) in nearest(y[image], row, col, hidden)
    assert (found[1] == VOID).all()
    assert (found[2] == VOID).all()
    assert not (found[[0, 3]] == hidden).any()
    assert torch.equal(found[[0, 3]] == VOID, y[[0, 3]] == VOID)


def test_hiding_does_not_depend_on_the_batch() -> None:
    y = Y.clone()
    y[1] = 0
    together = wanted(HideClass(), y)
    for image in range(4):
        assert torch.equal(wanted(HideClass(), y[image : image + 1], X[image : image + 1])[0], together[image])
    assert torch.equal(wanted(HideClass(), y.flip(0), X.flip(0)), together.flip(0))


@pytest.mark.parametrize("shape", [(1, 30), (30, 1), (1, 1)], ids=str)
def test_hiding_in_narrow_images(shape: tuple[int, int]) -> None:
    x, y = images(2, shape), torch.zeros(2, *shape, dtype=torch.int64)
    y[1].view(-1)[-1] = 1
    found = wanted(HideClass(), y, x)
    assert (found[0] == VOID).all()
    assert (found[1] == 1).all()


def test_a_class_that_is_not_there_is_hidden_already() -> None:
    assert torch.equal(wanted(HideClass(index=7)), Y)
    assert torch.equal(wanted(HideClass(index=7), torch.full_like(Y, 3)), torch.full_like(Y, 3))
    assert (wanted(HideClass(index=7), torch.full_like(Y, VOID)) == VOID).all()


def test_without_labels_the_class_is_hidden_in_the_prediction() -> None:
    assert torch.equal(wanted(HideClass(index=1), None), wanted(HideClass(index=1), MODEL(X).argmax(1)))


def test_least_likely() -> None:
    logits = MODEL(X)
    found, without = wanted(LeastLikely()), wanted(LeastLikely(), None)
    for image, row, col in (Y != VOID).nonzero().tolist():
        values = logits[image, :, row, col].tolist()
        assert values[int(found[image, row, col])] == min(values)
    assert (found[Y == VOID] == VOID).all()
    assert torch.equal(without, logits.argmin(1))


def test_all_as() -> None:
    assert torch.equal(wanted(AllAs(index=2)), torch.where(Y == VOID, VOID, 2))
    assert torch.equal(wanted(AllAs(index=1), None), torch.ones_like(Y))
    with pytest.raises(UsageError, match=r"^labels contain 3; the surrogate has 3 classes"):
        read("bim + allas(index=3)")(MODEL, X, Y)


def test_towards_takes_what_it_is_given() -> None:
    assert torch.equal(wanted(Towards()), Y)
    for name in ("towards", "towards-cospgd", "towards()"):
        with pytest.raises(UsageError, match=re.escape("goal Towards got no labels; give the wanted label map as y")):
            read(name)(MODEL, X)


@pytest.mark.parametrize("name", ["towards", "towards-cospgd", "least-likely", "hide", "all-as"])
def test_targeted_attacks_come_nearer_to_what_is_wanted(name: str) -> None:
    attack = read(f"linf(eps=0.15) + {name}")
    target = Run(attack, MODEL, X, Y).y
    valid = target != VOID
    before, after = ((MODEL(z).argmax(1) == target)[valid].double().mean() for z in (X, attack(MODEL, X, Y)))
    assert after > before + 0.1


def test_towards_and_away_are_opposites_on_a_model_of_single_pixels() -> None:
    """One step from the same image, in opposite directions; nothing moves under void."""
    goals = (Untargeted(), Towards())
    away, towards = (Attack(goal=goal, iterations=1, step_size="1/255")(PixelLinear(), X, Y) for goal in goals)
    inside = ((away - X).abs() > 0) & ((towards - X).abs() > 0)
    assert inside.double().mean() > 0.5
    assert ((away - X) * (towards - X) <= 0).all()
    assert torch.allclose((away - X)[inside], (X - towards)[inside])


def test_targets_reach_the_labels_through_transformations() -> None:
    found = read("HideClass + remap + mi(iterations=2)")(MODEL, X, Y)
    given = read("towards + remap + mi(iterations=2)")(MODEL, X, wanted(HideClass()))
    assert not torch.equal(found, X)
    assert torch.equal(found, given)


def test_a_class_that_the_surrogate_does_not_have_cannot_be_hidden() -> None:
    with pytest.raises(UsageError, match=f"HideClass index is 7; the surrogate has {CLASSES} classes"):
        read("HideClass(index=7) + mi(iterations=2)")(MODEL, X, Y)


@pytest.mark.parametrize("index", [-1, 1.0, "1", True, None])
@pytest.mark.parametrize("goal", [HideClass, AllAs])
def test_bad_classes_are_refused(goal: type[HideClass | AllAs], index: object) -> None:
    with pytest.raises(UsageError, match=rf"^{goal.__name__} index is {index!r}; allowed are whole numbers from 0$"):
        goal(index=index)  # type: ignore[arg-type]


def test_labels_are_the_callers_and_stay_so() -> None:
    y = Y.clone()
    for goal in (Towards(), LeastLikely(), HideClass(), AllAs()):
        wanted(goal, y)
    assert torch.equal(y, Y)
