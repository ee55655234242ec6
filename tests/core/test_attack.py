"""The attack loop: what it takes, what it refuses, what it counts."""

import re
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segtrans.attack import Attack, Model, ZeroGradientWarning
from segtrans.catalogue import attack as read
from segtrans.catalogue import compose
from segtrans.data.base import VOID
from segtrans.errors import ModelError, UsageError
from segtrans.goals import AllAs
from segtrans.gradients import Momentum
from segtrans.metrics import miou, tally
from segtrans.models import wrap
from segtrans.run import Run
from segtrans.threat import L2, LInf
from segtrans.transforms import Remap, Scale
from segtrans.worst import WorstCase
from toys import (
    ATTACKS,
    BY_THEMSELVES,
    CLASSES,
    Context,
    changed,
    dense,
    each_attack,
    images,
    labels,
    loss_of,
    reaches_inside,
    run_of,
)

X, Y = images(2), labels(2)
MODEL = Context()


@pytest.mark.parametrize(
    ("settings", "step"),
    [
        ({}, 2 / 255),
        ({"iterations": 40}, 2 / 255),
        ({"step_size": "eps/T"}, 0.8 / 255),
        ({"step_size": "eps/T", "iterations": 4}, 2 / 255),
        ({"step_size": "eps/4"}, 2 / 255),
        ({"step_size": " eps / 4 "}, 2 / 255),
        ({"step_size": "eps/2.5"}, 3.2 / 255),
        ({"step_size": "2/255"}, 2 / 255),
        ({"step_size": 0.01}, 0.01),
        ({"step_size": "eps/T", "iterations": 0}, 8 / 255),
        ({"threat": L2(2), "step_size": "eps/8"}, 0.25),
    ],
)
def test_step_sizes(settings: dict[str, Any], step: float) -> None:
    assert Attack(**settings).alpha == pytest.approx(step, rel=1e-12)


@pytest.mark.parametrize("step_size", ["eps", "eps/0", "eps/0.0", "eps/x", "eps/1.2.3", "T/eps", "", -0.1, None, "2/0"])
def test_impossible_step_sizes_are_refused_at_once(step_size: Any) -> None:
    with pytest.raises(UsageError, match=r"^step_size is "):
        Attack(step_size=step_size)
    with pytest.raises(UsageError, match=r"^step_size is "):
        Attack(threat=L2(1), step_size=step_size)


@pytest.mark.parametrize("iterations", [-1, 2.5, 3.0, "3", True, None])
def test_impossible_iterations_are_refused_at_once(iterations: Any) -> None:
    with pytest.raises(UsageError, match=r"^iterations is .*; allowed are whole numbers from 0"):
        Attack(iterations=iterations)


@pytest.mark.parametrize("chunk", [0, -5, 1.5, True])
def test_impossible_chunks_are_refused(chunk: Any) -> None:
    for attack in (Attack(), WorstCase(attacks=(Attack(),))):
        with pytest.raises(UsageError, match=rf"^chunk is {chunk}; allowed are whole numbers from 1$"):
            attack(MODEL, X, Y, chunk=chunk)


@each_attack
def test_attacks_are_values(attack: Attack) -> None:
    assert replace(attack) == attack
    assert hash(replace(attack)) == hash(attack)
    assert changed(attack, iterations=attack.iterations + 1) != attack
    with pytest.raises(FrozenInstanceError):
        attack.iterations = 3  # type: ignore[misc]


# Attacks that reach inside look at the clean image too, and at the order of layers; their own tests count gradients.
OUTSIDE = {name: attack for name, attack in ATTACKS.items() if not reaches_inside(attack)}


@pytest.mark.parametrize("attack", OUTSIDE.values(), ids=OUTSIDE)
def test_cost_is_known_beforehand(attack: Attack) -> None:
    passes: list[int] = []

    def model(x: Tensor) -> Tensor:
        # Looking at the clean image takes no gradient.
        if torch.is_grad_enabled():
            passes.append(len(x))
        return MODEL(x)

    result = attack.perturb(model, X, Y, chunk=2)
    assert result.evaluations == attack.evaluations
    assert attack.evaluations == attack.iterations * attack.evaluations_per_iteration
    assert sum(passes) == len(X) * attack.evaluations


@pytest.mark.parametrize(("spelled", "chunk", "times"), [("", 2, 1), ("", 1, 8), (" + di", 2, 4)])
@pytest.mark.parametrize("name", ["transegpgd", "pgd + RegionWeighted()"])
def test_clean_images_are_looked_at_once_where_nothing_changes_them(
    name: str, spelled: str, chunk: int, times: int
) -> None:
    looked: list[int] = []

    def model(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            looked.append(len(x))
        return MODEL(x)

    read(f"{name}{spelled}").configured(iterations=4).perturb(model, X, Y, chunk=chunk)
    assert len(looked) == times


def test_copies_multiply() -> None:
    attack = Attack(transforms=(Remap(copies=3), Scale(copies=2)), iterations=4)
    assert (attack.copies, attack.evaluations_per_iteration, attack.evaluations) == (6, 6, 24)


def test_several_transformations_share_out_the_copies() -> None:
    """With two times two copies every combination of darkness occurs once: 1, 1/2, 1/2 and 1/4."""
    seen: list[float] = []

    def model(x: Tensor) -> Tensor:
        seen.append(float(x.detach().mean() / X[:1].mean()))
        return MODEL(x)

    Attack(transforms=(Scale(copies=2), Scale(copies=2)), iterations=1)(model, X[:1], Y[:1])
    assert sorted(seen) == pytest.approx([0.25, 0.5, 0.5, 1.0])


@pytest.mark.parametrize("attack", BY_THEMSELVES.values(), ids=BY_THEMSELVES)
def test_attacks_harm(attack: Attack) -> None:
    """What an attack is for: on the model it was made with, predictions change, and more than by chance."""
    y = MODEL(X).argmax(1)
    eps = attack.threat.radius * 2 if isinstance(attack.threat, L2) else min(1.0, attack.threat.radius * 2)
    strong = changed(attack, threat=replace(attack.threat, eps=eps))
    if attack.alpha < attack.threat.radius / 100:  # an attack of hundreds of steps, of which four are taken here
        strong = changed(strong, step_size="eps/10")

    def score(x: Tensor) -> float:
        return float(miou(tally(y, MODEL(x).argmax(1), CLASSES).sum(0)))

    clean, attacked = score(X), score(strong(MODEL, X, y))
    assert clean == 1
    # From a small area little is reached within a budget that was made for the whole image.
    assert attacked < (1 if attack.attacks[0].area.hidden else 0.97) or attack.iterations == 0


@pytest.mark.parametrize("name", ["bim", "pgd", "mi", "segpgd", "cospgd", "segtrans", "di"])
def test_iterating_increases_the_loss(name: str) -> None:
    attack = read(name)
    run = run_of(attack, X, Y, MODEL)

    def loss(x: Tensor) -> Tensor:
        return loss_of(Attack().objective, MODEL(x), Y, run)

    before, short, long = loss(X), loss(replace(attack, iterations=1)(MODEL, X, Y)), loss(attack(MODEL, X, Y))
    assert (long > before).all()
    assert (long >= short).all() or attack.transforms


def test_iterations_are_reported() -> None:
    seen: list[int] = []
    Attack(iterations=3).perturb(MODEL, X, Y, on_iteration=seen.append)
    assert seen == [0, 1, 2]


def test_without_labels_the_models_own_prediction_is_attacked() -> None:
    attack = read("mi(iterations=3)")
    assert torch.equal(attack(MODEL, X), attack(MODEL, X, MODEL(X).argmax(1)))


def test_segmodels_work() -> None:
    adversarial = read("segtrans(iterations=2)")(wrap(Context().float(), CLASSES), X.float(), Y)
    assert adversarial.dtype == torch.float32
    assert 0 < (adversarial - X.float()).abs().max() <= 8 / 255 + 1e-6


def refused(message: str) -> "pytest.RaisesExc[UsageError]":
    return pytest.raises(UsageError, match=message)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ((255 * X).to(torch.uint8), r"images are torch.uint8 .*expected floating point"),
        (X[0], r"images are .*\(3, 17, 22\); expected"),
        (X[:, :1], r"\(2, 1, 17, 22\)"),
        (X[:0], r"\(0, 3, 17, 22\)"),
        (255 * X, r"images range from 0 to 255; expected values in \[0, 1\]"),
        (X - 0.5, r"images range from -0.5"),
        (X + torch.nan, "images range from nan"),
        (X.half(), "images are torch.float16; expected float32 or float64"),
        (X.bfloat16(), "images are torch.bfloat16; expected float32 or float64 .*precision='bfloat16'"),
    ],
)
def test_images_are_checked(x: Tensor, message: str) -> None:
    with refused(message):
        Attack()(MODEL, x, Y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (Y.int(), r"labels are torch.int32 .*; expected torch.int64 \(2, 17, 22\)"),
        (Y.double(), "labels are torch.float64"),
        (Y[:1], r"\(1, 17, 22\); expected"),
        (Y[:, None], r"\(2, 1, 17, 22\); expected"),
        (Y[..., 1:], r"\(2, 17, 21\); expected"),
        (torch.where(Y == 0, 7, Y), r"labels contain 7; .*3 classes, so allowed are 0 to 2 and 255 \(void\)"),
        (torch.where(Y == 0, -1, Y), "labels contain -1"),
        (torch.where(Y == 0, 3, Y), "labels contain 3"),
        (Y.to("meta"), "labels are on meta; expected on cpu"),
    ],
)
def test_labels_are_checked(y: Tensor, message: str) -> None:
    with refused(message):
        Attack()(MODEL, X, y)


@pytest.mark.parametrize("seed", [1.5, None, "0"])
def test_seeds_are_whole_numbers(seed: Any) -> None:
    with refused(f"^seed is {seed!r}; allowed are whole numbers$"):
        Attack(iterations=1)(MODEL, X, Y, seed=seed)
    attack = Attack(iterations=1, random_start=True)
    assert torch.equal(attack(MODEL, X, Y, seed=np.int64(3)), attack(MODEL, X, Y, seed=3))


def test_what_cannot_be_attacked_is_said() -> None:
    with torch.inference_mode(), refused("^inference mode is on"):
        Attack()(MODEL, X, Y)
    with torch.inference_mode():
        assert Attack(iterations=0, random_start=True)(MODEL, X, Y).isfinite().all(), "it takes no gradient"
    with refused("^start has values that are NaN or infinite"):
        Attack()(MODEL, X, Y, start=X + torch.nan)
    with refused(r"^AllAs index is 255; the surrogate has 3 classes, so allowed are 0 to 2$"):
        Attack(goal=AllAs(index=255))(MODEL, X, Y)
    with pytest.raises(ModelError, match=r"^the model returned \(1, 3, 17, 22\) for images \(2, 3, 17, 22\)"):
        Attack()(lambda x: MODEL(x)[:1], X, Y)


def test_parts_come_in_tuples() -> None:
    assert Attack(gradients=[Momentum()]) == Attack(gradients=(Momentum(),))  # type: ignore[arg-type]
    with refused(r"^gradients is Momentum\(.*\); allowed are tuples"):
        Attack(gradients=Momentum())  # type: ignore[arg-type]
    for term in (read("sea"), Momentum, "mi"):
        with refused("^compose got .*; allowed are parts and attacks that are one"):
            compose(term)  # type: ignore[arg-type]


def test_where_no_pixel_may_change_an_image_stalls() -> None:
    region = torch.ones(2, 17, 22, dtype=torch.bool)
    region[1] = False
    found = Attack(iterations=2).perturb(MODEL, X, Y, region=region)
    assert found.stalled.tolist() == [False, True]
    assert torch.equal(found.adversarial[1], X[1])
    with pytest.warns(ZeroGradientWarning, match=r"image\(s\) 1 of the batch, or no pixel of theirs"):
        Attack(iterations=2)(MODEL, X, Y, region=region)


@pytest.mark.parametrize(
    "region",
    [
        torch.ones(17, 22),
        torch.ones(22, 17, dtype=torch.bool),
        torch.ones(3, 17, 22, dtype=torch.bool),
        torch.ones(2, 1, 17, 22, dtype=torch.bool),
        torch.ones(22, dtype=torch.bool),
    ],
    ids=lambda region: f"{region.dtype} {tuple(region.shape)}",
)
def test_regions_are_checked(region: Tensor) -> None:
    with refused(r"region is torch\.\w+ \(.*expected torch.bool \(H, W\) or \(N, H, W\)"):
        Attack()(MODEL, X, Y, region=region)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda x: MODEL(x)[..., ::2, ::2], "(2, 3, 9, 11)"),
        (lambda x: MODEL(x).argmax(1), "(2, 17, 22)"),
        (lambda x: {"out": MODEL(x)}, "dict"),
    ],
)
def test_outputs_are_checked(model: Model, shape: str) -> None:
    message = rf"returned {re.escape(shape)} for images \(2, 3, 17, 22\); .*SegModel"
    with pytest.raises(ModelError, match=message):
        Attack()(model, X, Y)
    with pytest.raises(ModelError, match=message):
        Attack()(model, X)


def test_void_is_no_class_even_of_models_with_many() -> None:
    def many(x: Tensor) -> Tensor:
        return MODEL(x).repeat(1, 100, 1, 1)

    y = torch.where(Y == 0, 299, Y)
    moved = Attack(iterations=2)(many, X, y)
    assert (moved != X).any()
    assert VOID in y


def test_a_run_tells_parts_where_they_are() -> None:
    run = Run(Attack(iterations=7, random_start=True), MODEL, X, dense(2))
    assert (run.iteration, run.iterations, run.alpha) == (0, 7, Attack(iterations=7).alpha)
    assert torch.equal(run.x, X)
    # Numbers belong to the part, the iteration and the gradient evaluation within it.
    first = run.draw(1).uniform(4)
    assert torch.equal(first, run.draw(1).uniform(4))
    assert not (first == run.draw(2).uniform(4)).any()
    run.iteration = 1
    assert not (first == run.draw(1).uniform(4)).any()
    run.iteration = 0
    run.gradient(X)
    second = run.draw(1).uniform(4)
    run.gradient(X)
    assert not (second == run.draw(1).uniform(4)).any()


def test_defaults() -> None:
    attack = Attack()
    assert (attack.threat, attack.iterations, attack.step_size) == (LInf("8/255"), 10, "eps/4")
    assert not attack.random_start
    assert ATTACKS["bim"] == replace(attack, iterations=4)
