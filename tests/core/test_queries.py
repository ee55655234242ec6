"""Weights of an ensemble that are found by asking the victim."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from ensemble_of_toys import ENSEMBLE, MODELS, member
from torch import Tensor, nn

from segtrans.attack import Attack, ZeroGradientWarning
from segtrans.catalogue import attack as read
from segtrans.catalogue import compose
from segtrans.errors import ModelError, UsageError
from segtrans.goals import AllAs
from segtrans.models import Ensemble
from segtrans.models.base import SegModel
from segtrans.queries import Queried, QueriedWeights
from segtrans.steps import Universal
from segtrans.threat import L2
from toys import Context, images, labels

SIZE = (9, 11)
X, Y = images(4, SIZE), labels(4, SIZE, block=3)
EPS = 8 / 255


# Long steps, so that weights make a difference on models this small.
SEARCH = QueriedWeights(step=0.9)


class Victim:
    """Answers with masks, and watches how it is asked."""

    def __init__(self, seed: int = 7) -> None:
        self.model = Context(seed)
        self.seen: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        assert not x.requires_grad
        self.seen.append(x.clone())
        return self.model(x).argmax(1)


def same(one: Queried, other: Queried) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))


def descended(models: list[SegModel], x: Tensor, y: Tensor, weights: list[float], start: Tensor) -> Tensor:
    """Five steps of PGD on one image, then 8 bits."""
    z = start
    for _ in range(5):
        leaf = z.clone().requires_grad_()
        total = sum(
            w * nn.functional.cross_entropy(m(leaf[None]), y[None], ignore_index=255)
            for w, m in zip(weights, models, strict=True)
        )
        assert isinstance(total, Tensor)
        z = z + EPS / 2.5 * torch.autograd.grad(total, leaf)[0].sign()
        z = torch.minimum(torch.maximum(z, x - EPS), x + EPS).clamp(0, 1)
    grid = (z * 255).round() / 255
    return torch.minimum(torch.maximum(grid, x - EPS), x + EPS)


@pytest.mark.parametrize(("queries", "count"), [(1, 3), (2, 3), (7, 3), (30, 3), (30, 2)])
def test_the_search_is_the_published_one(queries: int, count: int) -> None:
    """The rule written out for one image: one weight after the other, both ways, the better one if it helps."""
    models = MODELS[:count]
    found = replace(SEARCH, queries=queries)(Ensemble(models, "loss"), Victim(), X, Y)
    model, moved = Context(7), []
    for n, (x, y) in enumerate(zip(X, Y, strict=True)):

        def success(z: Tensor, y: Tensor = y) -> float:
            mask = model(z[None]).argmax(1)[0]
            wrong = [int(p) != int(t) for p, t in zip(mask.flatten(), y.flatten(), strict=True) if int(t) != 255]
            return sum(wrong) / len(wrong)

        weights, rate, turn, last = [1 / count] * count, 0.9 / count, 0, 0
        best = descended(models, x, y, weights, x)
        score, spent = success(best), 1
        while spent < queries:
            start, base = best, list(weights)
            for sign in (1, -1):
                if spent == queries:
                    break
                tried = [max(w + sign * rate * (k == turn), 0.01 / count) for k, w in enumerate(base)]
                image = descended(models, x, y, tried, start)
                spent += 1
                if success(image) > score:
                    score, best, weights, last = success(image), image, tried, turn
            turn = (turn + 1) % count
            if spent > 5 and turn == last:
                rate /= 2
        assert found.queries[n] == spent
        assert torch.allclose(found.weights[n], torch.tensor(weights, dtype=X.dtype))
        assert torch.allclose(found.adversarial[n], best, rtol=0, atol=1e-12)
        assert float(found.success[n]) == pytest.approx(score)
        moved.append(weights != [1 / count] * count)
    assert any(moved) or queries < 7


class Scripted:
    """Wrong at so many pixels of one image, call by call, whatever it is shown."""

    def __init__(self, *wrong: int) -> None:
        self.wrong = list(wrong)

    def __call__(self, x: Tensor) -> Tensor:
        wrong = torch.arange(SIZE[0] * SIZE[1]).view(1, *SIZE) < self.wrong.pop(0)
        return wrong.long()


def scripted(wrong: list[int], models: list[SegModel], step: float) -> Queried:
    search = QueriedWeights(queries=len(wrong), step=step)
    found = search(Ensemble(models, "loss"), Scripted(*wrong), X[:1], torch.zeros_like(Y[:1]))
    assert found.queries.tolist() == [len(wrong)]
    assert float(found.success) == pytest.approx(max(wrong) / 99)
    return found


def test_steps_are_halved_on_coming_back_to_the_weight_that_helped_last() -> None:
    rounds = [(1, 0), (0, 0), (2, 0), (0, 0), (0, 0), (0, 3), (4, 0), (0, 0), (5, 0)]
    # The first weight rises twice by 0.05, since five queries are too few for a halving in between. A halving later the
    # second falls and the first rises, and after another halving the first rises once more.
    found = scripted([0, *(w for pair in rounds for w in pair)], MODELS[:2], 0.1)
    assert found.weights[0].tolist() == pytest.approx([0.5 + 2 * 0.05 + 0.025 + 0.0125, 0.5 - 0.025])


def test_weights_stay_positive_however_often_less_is_better() -> None:
    found = scripted(list(range(19)), MODELS, 0.9)
    assert found.weights[0].tolist() == pytest.approx([0.01 / 3] * 3)


@pytest.mark.parametrize("queries", [1, 2, 3, 6, 20])
def test_the_budget_is_kept_and_told(queries: int) -> None:
    victim = Victim()
    found = replace(SEARCH, queries=queries)(ENSEMBLE, victim, X, Y)
    assert (found.success < 1).all()
    assert found.queries.tolist() == [queries] * 4
    assert sum(map(len, victim.seen)) == int(found.queries.sum())


def test_the_victim_is_never_better_off_than_with_equal_weights() -> None:
    found = [replace(SEARCH, queries=queries)(ENSEMBLE, Victim(), X, Y) for queries in (1, 3, 9, 25)]
    for less, more in pairwise(found):
        assert (more.success >= less.success).all()
    assert (found[-1].success > found[0].success).any()
    assert (found[0].weights == 1 / 3).all()
    assert not (found[-1].weights == 1 / 3).all()


@pytest.mark.parametrize("attack", [SEARCH.attack, compose(L2(1.0), SEARCH.attack)], ids=["L-inf", "L2"])
def test_the_victim_sees_whole_grey_levels_within_budget_and_box(attack: Attack) -> None:
    victim = Victim()
    found = replace(SEARCH, attack=attack)(ENSEMBLE, victim, X, Y)
    for shown in victim.seen:
        assert torch.equal((shown * 255).round() / 255, shown)
        assert shown.min() >= 0
        assert shown.max() <= 1
    assert (attack.threat.distance(found.adversarial, X) <= attack.threat.radius * (1 + 1e-9)).all()
    shown = torch.cat(victim.seen)
    assert all((shown == image).flatten(1).all(1).any() for image in found.adversarial), "what was scored is returned"


def test_the_batch_does_not_matter() -> None:
    attack = read("di + bim(iterations=3, random_start=True)")
    search = replace(SEARCH, attack=attack, queries=8)
    together = search(ENSEMBLE, Victim(), X, Y, seed=3)
    assert same(together, search(ENSEMBLE, Victim(), X, Y, seed=3))
    assert not torch.equal(together.adversarial, search(ENSEMBLE, Victim(), X, Y, seed=4).adversarial)
    singly = [search(ENSEMBLE, Victim(), x[None], y[None], seed=3) for x, y in zip(X, Y, strict=True)]
    for name in vars(together):
        assert torch.equal(getattr(together, name), torch.cat([getattr(one, name) for one in singly]))


def test_masks_and_logits_tell_the_same() -> None:
    assert same(SEARCH(ENSEMBLE, Victim(), X, Y), SEARCH(ENSEMBLE, Context(7), X, Y))


def test_the_victim_keeps_its_gradient_to_itself() -> None:
    class Blind(Context):
        """Whoever asks for the gradient of these logits gets none."""

        def forward(self, x: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            return super().forward(x)

    assert same(SEARCH(ENSEMBLE, Blind(7), X, Y), SEARCH(ENSEMBLE, Context(7), X, Y))


def test_a_search_ends_where_nothing_is_left_to_gain() -> None:
    wrong = torch.where(Y == 0, 1, 0)
    lost = SEARCH(ENSEMBLE, lambda x: wrong, X, Y)
    assert lost.queries.tolist() == [1] * 4
    assert (lost.success == 1).all()

    def half_lost(x: Tensor) -> Tensor:
        """Fooled by versions of images 1 and 2, by no others."""
        number = (x[:, None] - X).abs().amax((2, 3, 4)).argmin(1)
        return torch.where(((number == 1) | (number == 2)).view(-1, 1, 1), wrong[number], Y[number])

    mixed = SEARCH(ENSEMBLE, half_lost, X, Y)
    assert mixed.queries.tolist() == [20, 1, 1, 20]
    assert mixed.success.tolist() == [0, 1, 1, 0]
    alone = SEARCH(MODELS[0], Victim(), X, Y)
    assert alone.queries.tolist() == [1] * 4
    assert torch.equal(alone.weights, torch.ones(4, 1, dtype=X.dtype))
    y = Y.clone()
    y[1] = 255
    with pytest.warns(ZeroGradientWarning, match=r"zero gradient for image\(s\) 1 "):
        void = SEARCH(ENSEMBLE, Victim(), X, y)
    assert void.queries.tolist() == [20, 1, 20, 20]
    assert void.success[1] == 0


def test_images_are_named_by_their_places_in_the_batch() -> None:
    """When only the second is asked about, it is still the second."""

    class Last(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = (x - X[1]).abs().flatten(1).amax(1) < 0.1
            return Context()(torch.where(flat.view(-1, 1, 1, 1), 0.5 + 0 * x, x))

    def fooled_by_the_first(x: Tensor) -> Tensor:
        first = (x - X[0]).abs().flatten(1).amax(1) < 0.1
        return torch.where(first.view(-1, 1, 1), 255, Y[:1])

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        replace(SEARCH, queries=4)(
            Ensemble([member(Last()), member(Last())], "loss"), fooled_by_the_first, X[:2], Y[:2]
        )
    assert {str(warning.message).split(" of the")[0] for warning in said} == {"zero gradient for image(s) 1"}


def test_targeted_attacks_count_pixels_of_the_wanted_class() -> None:
    search = replace(SEARCH, attack=compose(AllAs(index=1), SEARCH.attack), queries=9)
    found = search(ENSEMBLE, Victim(), X, Y)
    wanted = (Context(7)(found.adversarial).argmax(1) == 1) & (Y != 255)
    assert torch.allclose(found.success, wanted.sum((1, 2)) / (Y != 255).sum((1, 2)).double())
    assert (found.success > replace(search, queries=1)(ENSEMBLE, Victim(), X, Y).success - 1e-12).all()


def test_without_labels_the_ensembles_prediction_is_attacked() -> None:
    assert same(SEARCH(ENSEMBLE, Victim(), X), SEARCH(ENSEMBLE, Victim(), X, ENSEMBLE(X).argmax(1)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QueriedWeights(queries=0), "queries is 0; allowed are whole numbers from 1"),
        (lambda: QueriedWeights(step=-1), "step is -1; allowed are numbers from 0"),
        (lambda: QueriedWeights(attack=compose(Universal())), "the images share a perturbation"),
        (lambda: QueriedWeights(attack="mi"), "attack is a str; allowed are attacks of one gradient"),  # type: ignore[arg-type]
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        make()
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "answer",
    [X[:, 0, 0], X[..., 1:], X[:2], X[:, :1].long()],
    ids=["a row", "a column less", "two images", "masks with an axis more"],
)
def test_answers_of_another_size_are_refused(answer: Tensor) -> None:
    with pytest.raises(ModelError, match="expected masks"):
        SEARCH(ENSEMBLE, lambda x: answer, X, Y)


def test_a_victim_that_fails_is_not_fooled() -> None:
    def victim(x: Tensor) -> Tensor:
        logits = Context(7)(x)
        return torch.cat([torch.full_like(logits[:1], torch.nan), logits[1:]])

    found = QueriedWeights(queries=1)(ENSEMBLE, victim, X, Y)
    assert found.success[0] == 0
    assert (found.success[1:] > 0).all()


def test_a_victim_may_work_in_place() -> None:
    victim = Context(7)
    found = SEARCH(ENSEMBLE, lambda z: victim(z.sub_(0.1).div_(0.9)).argmax(1), X, Y)
    expected = SEARCH(ENSEMBLE, lambda z: victim((z - 0.1) / 0.9).argmax(1), X, Y)
    assert same(found, expected)
