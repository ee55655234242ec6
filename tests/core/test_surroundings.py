"""What stands around an attack does not reach it: a default device, autocast, surrogates that work in place."""

import pytest
import torch
from torch import Tensor, nn

from segtrans.attack import Attack
from segtrans.catalogue import attack as read
from segtrans.random import COUNT
from segtrans.testing.attacks import check_budget
from segtrans.threat import L2
from segtrans.worst import WorstCase
from toys import Context, draw, images, labels, run_of

SIZE = (12, 14)
X, Y = images(2, SIZE), labels(2, SIZE)
SEVERAL = ("bim", "pgd", "segtrans", "bsr(iterations=1)", "di", "pgd + l2(eps=1)", "wrongclass + bim")


@pytest.mark.parametrize("name", SEVERAL)
def test_a_default_device_changes_nothing(name: str) -> None:
    attack, model = read(name), Context()
    expected = attack(model, X, Y, seed=3)
    # Stands for a GPU: what is made there has no values.
    with torch.device("meta"):
        assert torch.equal(attack(model, X, Y, seed=3), expected)


@pytest.mark.parametrize("name", [*SEVERAL, "fspgd", "rp-pgd"])
def test_a_callers_autocast_changes_nothing(name: str) -> None:
    attack, model = read(name), Context().float()
    expected = attack(model, X.float(), Y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attack(model, X.float(), Y), expected)


class InPlace(nn.Module):
    """Works in place on what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Context()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.mul_(0.5))


RESIZED = tuple(read(f"resize(probability=1) + {name}") for name in ("bim", "segpgd"))


@pytest.mark.parametrize("attack", [RESIZED[0], WorstCase(attacks=RESIZED)], ids=["attack", "worst case"])
@pytest.mark.parametrize("given", [False, True], ids=["no labels", "labels"])
def test_surrogates_may_work_in_place(attack: Attack | WorstCase, given: bool) -> None:
    x = X.clone()
    found = attack.perturb(InPlace(), x, Y if given else None)
    assert torch.equal(x, X)
    check_budget(attack.attacks[0].threat, found.adversarial, X, attack)
    assert (found.adversarial != X).any()


def test_numbers_go_on_wherever_they_are_given() -> None:
    one, other = draw(3), draw(3)
    other.device = torch.device("meta")
    expected = [one.uniform(2), one.uniform(COUNT + 1), one.uniform(2)]
    found = other.on_cpu()
    assert torch.equal(found.uniform(2), expected[0])
    other.uniform(COUNT + 1)
    assert torch.equal(found.uniform(2), expected[2])


def test_a_reference_of_other_copies_is_shown_as_those() -> None:
    """Parts that ask which items the surrogate is shown, such as Ghost, are told so in both passes."""
    seen: list[tuple[bool, list[int]]] = []

    class Watched(Context):
        def forward(self, x: Tensor) -> Tensor:
            if run.shown is not None:
                seen.append((torch.is_grad_enabled(), run.shown.copy.tolist()))
            return super().forward(x)

    run = run_of(read("copysimilarity + crop(copies=2)"), X, Y, Watched())
    run.chunk = 2
    run.gradient(X)
    assert seen == [(True, [0, 0]), (False, [1, 1]), (True, [1, 1]), (False, [0, 0])]


def test_directions_of_small_gradients_have_length_one() -> None:
    for size in (1e-30, 1e-18, 1.0, 1e18):
        direction = L2().direction(torch.full((2, 3, 4, 5), size))
        assert torch.allclose(direction.flatten(1).norm(dim=1), torch.ones(2))
    assert (L2().direction(torch.zeros(1, 3, 2, 2)) == 0).all()
