"""Law 3: the seed and the image decide everything; batch, order and chunking decide nothing."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from segtrans import random
from segtrans.attack import Attack
from segtrans.gradients import Relevance, VarianceReduced
from segtrans.objectives import FeatureImportance, WrongClass
from toys import ATTACKS, BY_THEMSELVES, SEPARATE, Context, changed, each_attack, images, labels

X, Y = images(4), labels(4)
MODEL = Context()


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Grows whenever a random number is drawn."""
    calls: list[int] = []
    original = random._numbers

    def counted(keys: torch.Tensor, count: int) -> torch.Tensor:
        calls.append(1)
        return original(keys, count)

    monkeypatch.setattr(random, "_numbers", counted)
    return calls


@each_attack
def test_the_seed_decides(attack: Attack, draws: list[int]) -> None:
    one = attack.attacks[0]
    if isinstance(one.objective, FeatureImportance):
        # What follows the toy's block is linear, so its gradient is the same whatever is dropped from the image.
        attack = changed(attack, objective=replace(one.objective, layer=0.0))
    first = attack(MODEL, X, Y, seed=1)
    drawn = bool(draws)
    # Transformations are not asked, and a single surrogate leaves the ensembles' nothing to draw.
    assert drawn == attack.draws or one.transforms or any(isinstance(g, VarianceReduced) for g in one.gradients)
    assert torch.equal(first, attack(MODEL, X, Y, seed=1))
    # Three classes can be assigned to each other in two ways only, and the sign of a mean over neighbours is often that
    # of the gradient itself, so that a draw can make no difference.
    few = isinstance(one.objective, WrongClass) or any(isinstance(g, Relevance) for g in one.gradients)
    others = [attack(MODEL, X, Y, seed=seed) for seed in range(2, 12 if few else 3)]
    same = torch.stack([(first == other).flatten(1).all(1) for other in others]).all(0)
    assert not same.any() if drawn else same.all(), "another seed is another draw for every image"


def test_default_seed_is_zero() -> None:
    attack = ATTACKS["segtrans"]
    assert torch.equal(attack(MODEL, X, Y), attack(MODEL, X, Y, seed=0))


ALONE = {name: attack for name, attack in SEPARATE.items() if name in BY_THEMSELVES}


@pytest.mark.parametrize("attack", ALONE.values(), ids=ALONE)
def test_the_models_own_prediction_does_not_depend_on_the_batch_either(attack: Attack) -> None:
    together = attack(MODEL, X)
    assert torch.equal(together[1:2], attack(MODEL, X[1:2]))
    assert torch.equal(together, attack(MODEL, X, MODEL(X).argmax(1)))


def test_chunks_are_what_the_model_sees() -> None:
    sizes: list[int] = []

    def model(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return MODEL(x)

    ATTACKS["remap(copies=3)"].perturb(model, X, Y, chunk=5)
    assert sizes == [5, 5, 2] * 2


def test_copies_of_one_image_differ_but_equal_images_are_treated_alike() -> None:
    attack = ATTACKS["segtrans"]
    twice = attack(MODEL, X[[0, 0]], Y[[0, 0]])
    assert torch.equal(twice[0], twice[1])


@each_attack
def test_float32_follows_float64(attack: Attack) -> None:
    """The draw is the same in both; only steps whose gradient is close to zero may turn out otherwise."""
    exact = attack(MODEL, X, Y)
    rounded = attack(Context().float(), X.float(), Y).double()
    assert (exact - rounded).abs().median() < 1e-6
