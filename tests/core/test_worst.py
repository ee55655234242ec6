"""The worst of several attacks."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segtrans.areas import Classes
from segtrans.attack import Attack, ZeroGradientWarning
from segtrans.bench import run
from segtrans.catalogue import ENTRIES, compose
from segtrans.catalogue import attack as read
from segtrans.data.base import VOID
from segtrans.errors import NonFiniteError, UsageError
from segtrans.goals import AllAs
from segtrans.gradients import Momentum
from segtrans.listing import attacks as listed
from segtrans.objectives import SegPGD
from segtrans.steps import Universal
from segtrans.threat import L2, LInf
from segtrans.transforms import Remap, Scale
from segtrans.worst import WorstCase
from toys import Constant, Context, images, labels

X, Y = images(6), labels(6)
MODEL = Context()
MEMBERS = tuple(map(read, ("noise", "mi(iterations=2)", "bim(step_size=0.0017) + scale(copies=2)")))
WORST = WorstCase(attacks=MEMBERS)


def right(z: Tensor, y: Tensor = Y, model: Callable[[Tensor], Tensor] = MODEL) -> Tensor:
    """Valid pixels that the model gets right, image by image."""
    return ((model(z).argmax(1) == y) & (y != VOID)).sum((1, 2))


def test_no_attack_is_worse_for_any_image() -> None:
    found = WORST(MODEL, X, Y, seed=3)
    alone = [attack(MODEL, X, Y, seed=3) for attack in MEMBERS]
    scores = torch.stack([right(z) for z in alone])
    assert torch.equal(right(found), scores.min(0).values)
    chosen = [next(k for k in range(3) if torch.equal(found[i], alone[k][i])) for i in range(len(X))]
    assert chosen == [scores[:, i].tolist().index(int(scores[:, i].min())) for i in range(len(X))], (
        "the first of equals"
    )
    assert len(set(chosen)) > 1, "images differ in what is worst"


def test_without_labels_the_models_own_prediction_is_the_reference() -> None:
    assert torch.equal(WORST(MODEL, X), WORST(MODEL, X, MODEL(X).argmax(1)))


def test_batches_and_chunks_change_nothing() -> None:
    whole = WORST(MODEL, X, Y)
    assert torch.equal(WORST(MODEL, X, Y, chunk=2), whole)
    assert torch.equal(torch.cat([WORST(MODEL, X[i : i + 1], Y[i : i + 1]) for i in range(len(X))]), whole)


def test_it_costs_what_its_attacks_cost() -> None:
    assert WORST.evaluations == sum(attack.evaluations for attack in MEMBERS) == 2 + 10 * 2
    assert WORST.perturb(MODEL, X, Y).evaluations == WORST.evaluations
    assert (WORST.iterations, WORST.evaluations_per_iteration, WORST.copies) == (10, 1 + 1 + 2, 2)
    assert WORST.alpha == MEMBERS[0].alpha
    assert not WORST.shared
    assert WorstCase(attacks=(Attack(), compose(Universal()))).shared


def test_the_common_protocol_is_for_every_attack() -> None:
    settings = {"eps": "4/255", "iterations": 5, "step_size": "1/255"}
    found = WORST.configured(**settings)
    assert found.attacks == tuple(attack.configured(**settings) for attack in MEMBERS)
    assert found.threat == LInf("4/255")


def test_iterations_are_reported_attack_by_attack() -> None:
    seen: list[int] = []
    WORST.perturb(MODEL, X[:1], Y[:1], on_iteration=seen.append)
    assert seen == [0, 1, *range(10)]


def test_void_is_never_right_even_where_a_class_has_its_number() -> None:
    def model(z: Tensor) -> Tensor:
        return torch.cat([MODEL(z), z.new_zeros(len(z), 252, *z.shape[2:]), 40 * z[:, :1] - 20], 1)

    y = MODEL(X).argmax(1)
    y[:, :, 2:] = VOID
    attacks = (read("noise"), read("pgd(iterations=1)"), read("bim(iterations=1)"))
    alone = [attack(model, X, y) for attack in attacks]
    found = WorstCase(attacks=attacks)(model, X, y)
    scores = torch.stack([right(z, y, model) for z in alone])
    assert torch.equal(right(found, y, model), scores.min(0).values)
    whole = torch.stack([(model(z).argmax(1) == y).sum((1, 2)) for z in alone])
    assert (scores.gather(0, whole.argmin(0)[None])[0] > scores.min(0).values).any(), "it would make a difference"


class Fails(Context):
    """NaN wherever the image is not the clean one or a copy of it made darker: all but attacks that stay."""

    def forward(self, x: Tensor) -> Tensor:
        known = (x[:, None] == X[None]).flatten(2).all(2).any(1)
        return super().forward(x) * torch.where(known, 1.0, torch.nan).view(-1, 1, 1, 1)


def test_what_fails_for_one_attack_is_left_to_the_others() -> None:
    stays = Attack(iterations=0)
    result = WorstCase(attacks=(Attack(iterations=2), stays)).perturb(Fails(), X, Y)
    assert torch.equal(result.adversarial, X)
    assert not result.failed.any()
    worst = WorstCase(attacks=(Attack(iterations=2), Attack(iterations=3)))
    assert worst.perturb(Fails(), X, Y).failed.all()
    with pytest.raises(NonFiniteError):
        worst(Fails(), X, Y)
    # Its last point nobody has looked at.
    once = WorstCase(attacks=(Attack(iterations=1), Attack(iterations=1, step_size=0.0)))
    assert torch.equal(once.perturb(Fails(), X, Y).adversarial, X)


def test_an_image_of_which_no_version_has_predictions_has_failed() -> None:
    def sure_of_clean_images_alone(z: Tensor) -> Tensor:
        return Context()(z) + (0 if torch.equal(z.detach(), X) else torch.nan)

    one_step = tuple(read(f"{name}(iterations=1)") for name in ("bim", "mi"))
    found = WorstCase(attacks=one_step).perturb(sure_of_clean_images_alone, X, Y)
    assert found.failed.all()
    assert not found.stalled.any()
    assert torch.equal(found.adversarial, X)


def test_an_image_stalls_where_every_attack_does() -> None:
    worst = WorstCase(attacks=(Attack(iterations=2), Attack(iterations=3)))
    with pytest.warns(ZeroGradientWarning, match="0, 1, 2, 3, 4, 5 of the batch") as warned:
        worst(Constant(), X, Y)
    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    ("attacks", "message"),
    [
        ((), "WorstCase attacks have the budgets none; allowed are attacks of one and the same"),
        (
            (Attack(), Attack(threat=L2(1.0))),
            "WorstCase attacks have the budgets L2('1') and LInf('8/255'); allowed are attacks of one and the same",
        ),
        (
            (Attack(), compose(Classes(classes=(0,)))),
            "WorstCase attacks have the areas Classes(classes=(0,), inside=True) and Everywhere(); allowed are attacks "
            "of one and the same",
        ),
        ((compose(AllAs()),), "WorstCase attacks have the goal AllAs; allowed are attacks away from the labels"),
    ],
)
def test_what_cannot_be_compared_is_refused(attacks: tuple[Attack, ...], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        WorstCase(attacks=attacks)


SEA = ENTRIES["sea"].attack


def test_sea_is_four_losses_with_auto_pgd() -> None:
    assert [type(attack.objective).__name__ for attack in SEA.attacks] == [
        "MaskedCrossEntropy",
        "SegPGD",
        "JensenShannon",
        "Spherical",
    ]
    assert SEA.evaluations == 1200
    (row,) = (row for row in listed() if row["name"] == "sea")
    assert (row["gradients per iteration"], row["iterations"], row["step"]) == (4, 300, "found")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("sea", SEA),
        ("sea + sea", SEA),
        ("sea(iterations=7)", SEA.configured(iterations=7)),
        ("sea + linf(eps=4/255)", SEA.configured(eps=4 / 255)),
        ("sea + remap + mi", WorstCase(attacks=tuple(compose(a, Remap(), Momentum()) for a in SEA.attacks))),
        ("scale(copies=2) + sea", WorstCase(attacks=tuple(compose(Scale(copies=2), a) for a in SEA.attacks))),
        ("sea + segpgd", SEA.attacks[1]),
        ("sea + segpgd(iterations=3)", compose(SEA.attacks[1], Attack(iterations=3))),
    ],
)
def test_compositions_are_compositions_of_every_attack(text: str, value: object) -> None:
    assert read(text) == value
    assert hash(read(text)) == hash(value)


def test_a_target_is_refused_in_a_composition_too() -> None:
    with pytest.raises(UsageError, match="have the goal AllAs"):
        read("sea + AllAs")


def test_runs_take_it(tmp_path: Path) -> None:
    document = run(
        surrogates="zoo:voc/pspnet-mobilenetv3s", attacks={"pair": WorstCase(attacks=(Attack(), compose(SegPGD())))},
        data="photos", limit=1, size=32, iterations=2, out=tmp_path, quiet=True, device="cpu",
    )  # fmt: skip
    (attack,) = document["attacks"].values()
    assert attack["value"].startswith("WorstCase(attacks=(Attack(")
    assert attack["gradient_evaluations_per_iteration"] == 2
    (cost,) = document["costs"]
    assert cost["gradient_evaluations"] == 4


def test_pixels_that_the_attacks_leave_out_do_not_count() -> None:
    members = tuple(compose(attack, Classes(classes=(0,))) for attack in MEMBERS)
    found = WorstCase(attacks=members)(MODEL, X, Y, seed=3)
    judged = Y.where(Y != 0, VOID)
    scores = torch.stack([right(attack(MODEL, X, Y, seed=3), judged) for attack in members])
    assert torch.equal(right(found, judged), scores.min(0).values)
    assert (scores.min(0).values < scores.max(0).values).any()
