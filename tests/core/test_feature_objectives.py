"""Objectives on features, against loops over positions written from the papers' formulas."""

import math
from typing import Any

import pytest
import torch
from feature_maps import MODEL, PREPARED, SIZE, X, Y, at
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from segtrans.attack import Attack
from segtrans.catalogue import ENTRIES, compose
from segtrans.catalogue import attack as read
from segtrans.data.base import VOID
from segtrans.errors import UsageError
from segtrans.features import find_layer, forward_with
from segtrans.goals import Goal, Untargeted
from segtrans.objectives import (
    Attribution,
    CopySimilarity,
    CrossEntropy,
    Dispersion,
    FeatureImportance,
    FeatureSimilarity,
    Objective,
    Projection,
    Prototype,
)
from segtrans.objectives.features import labels_at
from segtrans.run import Run, View
from segtrans.transforms import CellMask, Crop, Remap, Scale, Transform
from toys import CLASSES, Context, dense, draw, each_transform, parts_of, run_of

# Half the size, to be compared with labels at that size.
SMALL = (4, 5)

PARTS = {name: part for name, part in parts_of(Objective).items() if part().layer is not None}
FREE = [part for part in PARTS.values() if part not in PREPARED]
each_part = pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
each_free_part = pytest.mark.parametrize("part", FREE)


class Somewhere(Goal):
    """To the given labels."""

    def labels(self, run: Run, y: Tensor | None) -> Tensor:
        assert y is not None
        return y


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CLEAN, FOUND = noise(2, 4, *SMALL), noise(2, 4, *SMALL) + noise(2, 4, *SMALL, seed=1)


# Mostly right, before as now.
MARKED = 1.5 * torch.nn.functional.one_hot(Y.where(Y != VOID, 0), CLASSES).movedim(-1, 1)
BEFORE, LOGITS = (MARKED + noise(2, CLASSES, *SIZE, seed=seed) for seed in (5, 6))


def view_of(found: Tensor, clean: Tensor = CLEAN, y: Tensor = Y) -> View:
    places = torch.arange(len(found))
    clean_view = View(labels=y, features=clean, logits=BEFORE)
    return View(labels=y, features=found, logits=LOGITS, places=places, reference=clean_view)


def small_labels(image: int) -> dict[tuple[int, int], int]:
    """The label at each position that is not void, read from the pixel under its centre."""
    found = {}
    for i in range(SMALL[0]):
        for j in range(SMALL[1]):
            row, col = math.floor((i + 0.5) * SIZE[0] / SMALL[0]), math.floor((j + 0.5) * SIZE[1] / SMALL[1])
            if int(Y[image, row, col]) != VOID:
                found[i, j] = int(Y[image, row, col])
    return found


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def test_labels_of_positions_are_those_under_their_centres() -> None:
    found = labels_at(Y, SMALL)
    for image in range(2):
        known = small_labels(image)
        assert 5 < len(known) < 20
        for i in range(SMALL[0]):
            for j in range(SMALL[1]):
                assert int(found[image, i, j]) == known.get((i, j), VOID)
    assert torch.equal(labels_at(Y, SIZE), Y)
    assert labels_at(Y, (3, 30)).shape == (2, 3, 30)


@pytest.mark.parametrize("rows", [1, 7, 19, 20, 512])
@pytest.mark.parametrize("iteration", [0, 3, 10])
def test_feature_similarity_by_hand(iteration: int, rows: int) -> None:
    """A quarter of the way: weight 1/4 to the distance from oneself, 3/4 to that between those that were alike."""
    objective = FeatureSimilarity(similar=0.2, rows=rows)
    expected = []
    for image in range(2):
        places = list(small_labels(image))
        local = [cosine(CLEAN[image, :, i, j], FOUND[image, :, i, j]) for i, j in places]
        pairs = [
            cosine(FOUND[image, :, i, j], FOUND[image, :, k, m])
            for i, j in places
            for k, m in places
            if (i, j) != (k, m) and cosine(CLEAN[image, :, i, j], CLEAN[image, :, k, m]) > 0.2
        ]
        assert 10 < len(pairs) < len(places) * (len(places) - 1)
        share = iteration / 10
        expected.append(-share * sum(local) / len(local) - (1 - share) * sum(pairs) / len(pairs) / 2)
    found = objective(view_of(FOUND), at(objective, iteration))
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12)


@pytest.mark.parametrize("rows", [7, 512])
def test_gradient_of_feature_similarity(rows: int) -> None:
    objective = FeatureSimilarity(similar=0.2, rows=rows)
    run = at(objective)
    assert torch.autograd.gradcheck(lambda f: objective(view_of(f), run), FOUND.clone().requires_grad_())


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("rows", [16, 50])
def test_feature_similarity_never_holds_all_pairs(rows: int) -> None:
    """Neither forward nor backward: 20 × 25 positions are 250 000 pairs."""
    size = (20, 25)
    count = size[0] * size[1]
    clean, found = noise(1, 3, *size), noise(1, 3, *size, seed=1).requires_grad_()
    objective = FeatureSimilarity(rows=rows)
    run = at(objective)
    with Largest() as largest:
        objective(view_of(found, clean, dense(1, size)), run).sum().backward()
    assert largest.elements <= rows * count
    with Largest() as whole:
        FeatureSimilarity(rows=count)(view_of(found, clean, dense(1, size)), run)
    assert whole.elements == count * count, "the count sees them where they are"


def test_prototype_by_hand() -> None:
    """Prototypes of what is right on both images; a mean cross-entropy per region, weighted for the fourth of ten."""
    expected = []
    for image in range(2):
        sums, losses = dict[int, Tensor](), dict[str, list[float]]()
        for row, col in (Y[image] != VOID).nonzero().tolist():
            was, now = (int(z[image, :, row, col].argmax()) == int(Y[image, row, col]) for z in (BEFORE, LOGITS))
            loss = LOGITS[image, :, row, col].logsumexp(0) - LOGITS[image, int(Y[image, row, col]), row, col]
            losses.setdefault("changed" if was != now else str(now), []).append(float(loss))
        for (i, j), label in small_labels(image).items():
            row, col = math.floor((i + 0.5) * SIZE[0] / SMALL[0]), math.floor((j + 0.5) * SIZE[1] / SMALL[1])
            if all(int(z[image, :, row, col].argmax()) == label for z in (BEFORE, LOGITS)):
                sums[label] = sums.get(label, torch.zeros(4, dtype=torch.float64)) + FOUND[image, :, i, j]
        pairs = [cosine(sums[a], sums[b]) for a in sums for b in sums if a < b]
        assert pairs
        weights = {"True": 1 - 4 / 20, "changed": 3 / 20, "False": 1 / 20}
        assert losses.keys() == weights.keys()
        region = sum(weights[name] * sum(values) / len(values) for name, values in losses.items())
        expected.append(0.3 * region + 0.7 * sum(pairs) / len(pairs))
    objective = Prototype(region=0.3, between=0.7)
    assert torch.allclose(objective(view_of(FOUND), at(objective)), torch.tensor(expected, dtype=torch.float64))


def test_a_single_class_has_nothing_to_be_near_to() -> None:
    objective, y = Prototype(region=0), torch.zeros_like(Y)
    assert (objective(view_of(FOUND, y=y), at(objective)) == 0).all()
    assert (objective(view_of(FOUND), at(objective)) != 0).all()


@pytest.mark.parametrize("goal", [Untargeted(), Somewhere()], ids=["away", "towards"])
def test_copy_similarity_by_hand(goal: Goal) -> None:
    """The gradient is that of self-universality: the mean loss of both views, and the cosine of all their features."""
    crop = Crop(area=(0.3, 0.3), whole_first=True, beneath=True, copies=2)
    attack = Attack(goal=goal, objective=CopySimilarity(weight=10.0), transforms=(crop,))
    z = (X + 0.03 * noise(*X.shape)).clamp(0, 1)
    found = run_of(attack, X, Y, MODEL).gradient(z)
    run = run_of(attack, X, Y, MODEL)
    run._gradients_this_iteration = (0, 1)
    local, its = crop(X, Y, run.draw(1, run.items(2, 4)))
    assert not torch.equal(local, X)
    leaf = z.clone().requires_grad_()
    views = [(leaf, Y), (local + leaf - X, its)]
    seen = [forward_with(find_layer(MODEL, 0.6, X[:1]), MODEL, view, stop=False) for view, _ in views]
    total = torch.zeros((), dtype=torch.float64)
    for image in range(2):
        both = (Y[image] != VOID) & (its[image] != VOID)
        assert 4 < both.sum() < (Y[image] != VOID).sum()
        one, other = (features[image][:, both].flatten() for _, features in seen)
        alike = (one @ other) / (one.square().sum() * other.square().sum()).sqrt()
        for (_, y), (logits, _) in zip(views, seen, strict=True):
            loss = torch.nn.functional.cross_entropy(logits[image : image + 1], y[image : image + 1], ignore_index=VOID)
            total = total + (-loss if goal.targeted else loss) / 2
        total = total + 10 * alike
    (expected,) = torch.autograd.grad(total, leaf)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-15)


def test_dispersion_by_hand() -> None:
    expected = []
    for image in range(2):
        below = above = 0.0
        for i, j in small_labels(image):
            vector, clean = FOUND[image, :, i, j].tolist(), CLEAN[image, :, i, j].tolist()
            mean = sum(clean) / len(clean)
            below += sum(v * v for v, c in zip(vector, clean, strict=True) if c < mean)
            above += sum(v * v for v, c in zip(vector, clean, strict=True) if c >= mean)
        expected.append(math.log(math.sqrt(below)) - math.log(math.sqrt(above)))
    objective = Dispersion()
    assert torch.allclose(objective(view_of(FOUND), at(objective)), torch.tensor(expected, dtype=torch.float64))


@each_free_part
def test_gradient_is_that_of_the_loss(part: type[Objective]) -> None:
    objective = part()
    run = at(objective)
    assert torch.autograd.gradcheck(lambda f: objective(view_of(f), run), FOUND.clone().requires_grad_())


@each_free_part
@pytest.mark.parametrize("nonsense", [0.0, 1e6, -1e6])
def test_features_under_void_do_not_matter(part: type[Objective], nonsense: float) -> None:
    objective = part()
    run = at(objective)
    void = (labels_at(Y, SMALL) == VOID)[:, None]
    results = []
    for clean, found in ((CLEAN, FOUND), (CLEAN.where(~void, nonsense), FOUND.where(~void, nonsense))):
        leaf = found.clone().requires_grad_()
        loss = objective(view_of(leaf, clean), run)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        assert (gradient.movedim(1, -1)[void[:, 0]] == 0).all()
        results.append((loss, gradient))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    nothing = objective(view_of(FOUND, y=torch.full_like(Y, VOID)), run)
    assert (nothing == 0).all()


@each_free_part
def test_features_of_zero_are_finite(part: type[Objective]) -> None:
    """ReLU makes such features."""
    objective = part()
    leaf = FOUND.clone().where(torch.arange(5) > 1, 0).requires_grad_()
    loss = objective(view_of(leaf, CLEAN.where(torch.arange(5) > 2, 0)), at(objective))
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert (gradient != 0).any()


class Counted(Context):
    """Counts the images that pass with a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.images.append(len(x))
        return super().forward(x)


@each_part
@pytest.mark.parametrize("chunk", [None, 1])
def test_evaluations_are_what_is_spent(part: type[Objective], chunk: int | None) -> None:
    model = Counted()
    attack = compose(part(), Attack(iterations=3))
    result = attack.perturb(model, X, Y, chunk=chunk)
    assert result.evaluations == attack.evaluations == sum(model.images) / len(X)
    assert attack.evaluations == 3 + attack.objective.preparation
    assert max(model.images) == (chunk or len(X))
    assert (attack.objective.preparation > 0) == (part in PREPARED)


@each_part
def test_chunks_and_batch_do_not_matter(part: type[Objective]) -> None:
    attack = compose(part(), Attack(iterations=3, random_start=True))
    together = attack(MODEL, X, Y)
    assert torch.equal(attack(MODEL, X, Y, chunk=1), together)
    assert torch.equal(attack(MODEL, X[1:], Y[1:]), together[1:])


@each_part
def test_the_objective_grows(part: type[Objective]) -> None:
    attack = compose(part(), Attack(iterations=10))
    adversarial = attack(MODEL, X, Y)
    run = run_of(attack, X, Y, MODEL)
    # The weights of feature similarity change on the way, so they are compared at the same moment.
    run.iteration = 5
    run.gradient(X)
    before = run.losses
    run.gradient(adversarial)
    assert (run.losses > before).all()


@each_part
def test_the_layer_is_where_it_is_said_to_be_and_the_pass_ends_there(part: type[Objective]) -> None:
    model = Context()
    ran: list[str] = []
    for number in (2, 4, 5):
        model.body[number].register_forward_hook(lambda *_, number=number: ran.append(str(number)))
    run = run_of(Attack(objective=part(layer="body.2")), X, Y, model)
    ran.clear()
    run.gradient(X)
    assert set(ran) == ({"2", "4", "5"} if part.uses_logits else {"2"})
    attacks = [Attack(objective=part(layer=layer), transforms=(CellMask(copies=2),)) for layer in (0.1, 0.9)]
    one, other = (run_of(attack, X, Y, MODEL).gradient((X + 0.01).clamp(0, 1)) for attack in attacks)
    assert not torch.allclose(one, other)


@each_free_part
@pytest.mark.parametrize("transform", [Remap(copies=2), Scale(copies=3)])
def test_views_are_compared_with_the_same_view(part: type[Objective], transform: Any) -> None:
    """At the clean image the features of any view are those of the clean view."""
    attack = Attack(objective=part(), transforms=(transform,), iterations=2)
    assert attack.perturb(MODEL, X, Y).adversarial.isfinite().all()
    if part is FeatureSimilarity:
        run = run_of(attack, X, Y, MODEL)
        run.iteration = 2
        run.gradient(X)
        assert torch.allclose(run.losses, -torch.ones(2, dtype=torch.float64))


@each_transform
def test_transformations_say_whether_they_move_pixels(transform: Transform) -> None:
    """A label for each pixel tells where it has gone, or that it is hidden."""
    y = 1000 + torch.arange(SIZE[0] * SIZE[1]).view(1, *SIZE)
    moved = [transform(X[:1], y, draw(1, seed=seed))[1] for seed in range(10)]
    assert transform.moves == any(m.shape != y.shape or ((m != y) & (m != VOID)).any() for m in moved)


@each_part
def test_targets(part: type[Objective]) -> None:
    """Importance and attribution know of labels; the others only of what was."""
    attack = Attack(goal=Somewhere(), objective=part(), iterations=10)
    y = torch.full_like(Y, 2)
    if part in (FeatureImportance, Attribution, CopySimilarity):
        before, after = (run_of(Attack(), x, y, MODEL) for x in (X, attack(MODEL, X, y)))
        before.gradient(before.x)
        after.gradient(after.x)
        assert (after.losses < before.losses).all()
    else:
        with pytest.raises(UsageError, match=rf"^{part.__name__} leads away from the clean features"):
            attack(MODEL, X, y)


@each_part
@pytest.mark.parametrize("layer", [-0.1, 1.1, "", True])
def test_impossible_layers_are_refused(part: type[Objective], layer: Any) -> None:
    with pytest.raises(UsageError, match=rf"^{part.__name__} layer is {layer!r}; allowed are names of modules"):
        part(layer=layer)


@pytest.mark.parametrize(
    ("part", "setting", "value"),
    [
        (FeatureSimilarity, "rows", 0),
        (FeatureSimilarity, "similar", 1.5),
        (FeatureImportance, "samples", 0),
        (FeatureImportance, "drop", 1.0),
        (FeatureImportance, "of", "loss"),
        (Attribution, "samples", 1.5),
        (Attribution, "oppose", -1),
        (Projection, "iterations", 0),
    ],
)
def test_impossible_settings_are_refused(part: type[Objective], setting: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^{part.__name__} {setting} is {value!r}; allowed are"):
        part(**{setting: value})


def test_entries() -> None:
    assert ENTRIES["fspgd"].attack.evaluations == 20
    assert ENTRIES["fspgd"].attack.random_start
    assert not ENTRIES["fspgd"].attack.gradients
    assert [ENTRIES[name].attack.evaluations for name in ("fspgd-mi", "fia", "naa", "fda", "ila")] == [
        10,
        40,
        40,
        10,
        20,
    ]
    assert all(e.attack.objective != CrossEntropy() for e in ENTRIES.values() if e.family == "features")


def test_feature_attacks_compose() -> None:
    for text in (
        "fspgd + remap(copies=2) + mi(iterations=2)",
        "fda + di + sgm(iterations=2)",
        "prototype + ghost + ti",
    ):
        assert (read(text)(MODEL, X, Y) != X).any()
    assert read("featuresimilarity(layer='body.4', rows=8) + mi").objective == FeatureSimilarity(layer="body.4", rows=8)
