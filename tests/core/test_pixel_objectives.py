"""Objectives on logits against a second version of each, pixel by pixel in Python floats from the papers' formulas."""

import math
from collections.abc import Callable

import pytest
import torch
from pixel_losses_by_hand import (
    CLASSES,
    CLEAN,
    LOGITS,
    SIZE,
    Pixel,
    T,
    X,
    Y,
    each_goal,
    gradient_of,
    naive,
    run_at,
    value,
)
from torch import Tensor

from segtrans.catalogue import ENTRIES
from segtrans.catalogue import attack as read
from segtrans.data.base import VOID
from segtrans.errors import UsageError
from segtrans.goals import Goal, Towards
from segtrans.objectives import (
    AdaptiveCrossEntropy,
    BalancedCrossEntropy,
    Cosine,
    CosPGD,
    CrossEntropy,
    JensenShannon,
    Margin,
    MaskedCrossEntropy,
    Objective,
    RegionWeighted,
    SegPGD,
    Spherical,
    TwoStage,
    UnsureCrossEntropy,
    WrongClass,
    pixel_losses,
)
from segtrans.objectives.divergences import margins
from segtrans.run import View
from toys import Context, PixelLinear, dense


def cospgd_sigmoid(pixel: Pixel) -> float:
    q = [1 / (1 + math.exp(-v)) for v in pixel.f]
    weight = q[pixel.y] / math.sqrt(sum(v * v for v in q))
    return pixel.ce * (1 - weight if pixel.targeted else weight)


def balanced(pixel: Pixel) -> float:
    """Without the mean over pixels, which ``naive`` takes: every class has the weight of one over their number."""
    same = sum(other.y == pixel.y for other in pixel.image)
    return pixel.ce / same / len({other.y for other in pixel.image}) * len(pixel.image)


def jensen_shannon(pixel: Pixel) -> float:
    p, e = pixel.p(), [float(k == pixel.y) for k in range(CLASSES)]
    middle = [(a + b) / 2 for a, b in zip(p, e, strict=True)]

    def kl(q: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(q, middle, strict=True) if a > 0)

    return (kl(p) + kl(e)) / 2


def margin(pixel: Pixel) -> float:
    return max(v for k, v in enumerate(pixel.f) if k != pixel.y) - pixel.f[pixel.y]


def two_stage(pixel: Pixel) -> float:
    late = pixel.t - 1 >= T / 2
    if late or not any(other.todo() for other in pixel.image):
        far = pixel.kl > sum(other.kl for other in pixel.image) / len(pixel.image)
        return pixel.ce * (0.8 if far else 0.2)
    return pixel.ce * (0.7 if pixel.todo() else 0.3)


def regions(pixel: Pixel) -> float:
    now, before, t = pixel.todo(), pixel.todo(pixel.g), pixel.t
    weight = (t - 1) / (2 * T) if now != before else 1 - t / (2 * T) if now else 1 / (2 * T)
    # The mean is over the pixels of the region; ``naive`` takes it over the image's.
    size = sum((other.todo(), other.todo(other.g)) == (now, before) for other in pixel.image)
    size += (now != before) * sum((other.todo(), other.todo(other.g)) == (before, now) for other in pixel.image)
    return pixel.ce * weight * len(pixel.image) / size


def adaptive(pixel: Pixel) -> float:
    left = sum(other.todo() for other in pixel.image) / len(pixel.image)
    return pixel.ce * (left if pixel.todo() else 1 - left)


def unsure(pixel: Pixel) -> float:
    p = pixel.p()[pixel.y]
    return pixel.ce * (p <= 0.4 if pixel.targeted else p >= 0.6)


def segpgd(pixel: Pixel, temperature: float = 1, balance: float = 0) -> float:
    """Without the mean over pixels; classes weigh by a power of their size, so that all weights add up to one."""
    w = (pixel.t - 1) / (2 * T)
    parts = [math.exp(v / temperature) for v in pixel.f]
    loss = -math.log(parts[pixel.y] / sum(parts)) * (1 - w if pixel.todo() else w)
    size = {k: sum(other.y == k for other in pixel.image) for k in range(CLASSES)}
    total = sum(size[other.y] ** -balance for other in pixel.image)
    return loss * size[pixel.y] ** -balance / total * len(pixel.image)


FORMULAS: dict[str, tuple[Objective, Callable[[Pixel], float]]] = {
    "cospgd": (CosPGD(), lambda q: q.ce * abs(q.targeted - q.p()[q.y] / math.hypot(*q.p()))),
    "cospgd, sigmoid": (CosPGD(probabilities="sigmoid"), cospgd_sigmoid),
    "segpgd": (SegPGD(), segpgd),
    "segpgd, softer": (SegPGD(temperature=2.5), lambda q: segpgd(q, temperature=2.5)),
    "segpgd, half balanced": (SegPGD(balance=0.5), lambda q: segpgd(q, balance=0.5)),
    "segpgd, softer and balanced": (SegPGD(temperature=0.5, balance=1), lambda q: segpgd(q, 0.5, 1)),
    "masked": (MaskedCrossEntropy(), lambda q: q.ce * q.todo()),
    "adaptive": (AdaptiveCrossEntropy(), adaptive),
    "unsure": (UnsureCrossEntropy(confidence=0.4), unsure),
    "balanced": (BalancedCrossEntropy(), balanced),
    "balanced, masked": (BalancedCrossEntropy(masked=True), lambda q: balanced(q) * q.todo()),
    "balanced, given": (BalancedCrossEntropy(pixels=(1, 2, 4, 8)), lambda q: q.ce * 3.75 / 2**q.y),
    "js": (JensenShannon(), jensen_shannon),
    "spherical": (Spherical(), lambda q: -q.f[q.y] / q.length * q.todo()),
    "cosine": (Cosine(), lambda q: 1 - q.f[q.y] / q.length),
    "margin": (Margin(), margin),
    "margin, ended": (
        Margin(confidence=0.5),
        lambda q: max(margin(q), -0.5) if q.targeted else min(margin(q), 0.5),
    ),
    "two stages": (TwoStage(gamma=0.3, beta=0.2), two_stage),
    "regions": (RegionWeighted(), regions),
}


def test_the_example_has_everything_in_it() -> None:
    right, before = (z.argmax(1) == Y for z in (LOGITS, CLEAN))
    valid = Y != VOID
    for state in (right & before, right & ~before, ~right & before, ~right & ~before):
        assert (state & valid).sum() >= 5
    assert (Y == VOID).flatten(1).any(1).all()


@each_goal
@pytest.mark.parametrize("iteration", [0, 3, 4, 7])
@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name: str, iteration: int, goal: Goal) -> None:
    objective, of_pixel = FORMULAS[name]
    run = run_at(objective, goal, iteration)
    found, expected = value(objective, run), naive(of_pixel, run)
    assert (found - expected).abs().max() <= 1e-12
    assert (expected != 0).all()


@pytest.mark.parametrize("objective", [SegPGD(temperature=2.5), SegPGD(temperature=0.4, balance=1)], ids=str)
def test_a_gradient_with_a_temperature_is_the_slope(objective: Objective) -> None:
    run = run_at(objective, iteration=3)
    way = 1e-5 * torch.randn(LOGITS.shape, generator=torch.Generator().manual_seed(1), dtype=LOGITS.dtype)
    rise = value(objective, run, LOGITS + way) - value(objective, run, LOGITS - way)
    expected = 2 * (gradient_of(objective, run) * way).flatten(1).sum(1)
    torch.testing.assert_close(rise, expected, rtol=1e-6, atol=0)
    assert (rise != 0).all()


# Where the gradient is and where it is not


@each_goal
@pytest.mark.parametrize(
    "objective",
    [MaskedCrossEntropy(), BalancedCrossEntropy(masked=True), Spherical(), WrongClass()],
    ids=lambda o: type(o).__name__,
)
def test_masks_let_go_of_pixels_that_are_done(objective: Objective, goal: Goal) -> None:
    run = run_at(objective, goal)
    todo = ((LOGITS.argmax(1) == Y) != run.targeted) & (Y != VOID)
    assert torch.equal((gradient_of(objective, run) != 0).any(1), todo)


@each_goal
def test_margins_past_their_end_have_no_gradient(goal: Goal) -> None:
    run = run_at(Margin(confidence=0.7), goal)
    own = LOGITS.gather(1, Y.where(Y != VOID, 0)[:, None])[:, 0]
    best = LOGITS.scatter(1, Y.where(Y != VOID, 0)[:, None], -math.inf).amax(1)
    under = (own - best if run.targeted else best - own) < 0.7
    assert torch.equal((gradient_of(Margin(confidence=0.7), run) != 0).any(1), under & (Y != VOID))


def test_jensen_shannon_is_bounded_and_fades() -> None:
    y = dense(1, SIZE)
    run = run_at(JensenShannon())
    own = torch.zeros(1, 3, *SIZE, dtype=torch.float64).scatter(1, y[:, None], 1)
    for logit, expected in ((1e4, 0.0), (-1e4, math.log(2))):
        assert float(value(JensenShannon(), run, logit * own, y)) == pytest.approx(expected, abs=1e-15)
    assert float(value(JensenShannon(), run, 1e4 * own, y)) == 0
    sizes = [float(gradient_of(JensenShannon(), run, logit * own, y).abs().sum()) for logit in (0.0, -5.0, -10.0, -1e4)]
    assert sizes[0] > 10 * sizes[1] > 100 * sizes[2] > 0
    assert sizes[3] == 0


def test_zero_logits_have_an_angle_and_a_gradient() -> None:
    zero = torch.zeros_like(LOGITS)
    assert (value(Cosine(), run_at(Cosine()), zero) == 1).all()
    gradient = gradient_of(Cosine(), run_at(Cosine()), zero)
    assert torch.equal((gradient != 0).any(1), Y != VOID)
    # So small that the sigmoid of every class is zero.
    far = torch.full_like(LOGITS, -1e4)
    assert (value(CosPGD(probabilities="sigmoid"), run_at(CosPGD()), far) == 0).all()


# Settings that make one objective another


@pytest.mark.parametrize("iteration", [0, 6])
@each_goal
def test_neutral_settings(goal: Goal, iteration: int) -> None:
    def at(objective: Objective) -> Tensor:
        return value(objective, run_at(objective, goal, iteration))

    plain, masked = at(CrossEntropy()), at(MaskedCrossEntropy())
    assert not torch.equal(plain, masked)
    assert torch.equal(at(BalancedCrossEntropy(pixels=(7, 7, 7, 7))), plain)
    assert torch.equal(at(BalancedCrossEntropy(pixels=(7, 7, 7, 7), masked=True)), masked)
    assert torch.equal(2 * at(TwoStage(gamma=0.5, beta=0.5)), plain)
    assert torch.equal(at(TwoStage(gamma=0, switch=1)), masked)
    assert torch.equal(at(Margin(confidence=1e9)), at(Margin()))


def test_segpgd_is_what_it_was() -> None:
    for iteration in (0, 3, 7):
        w = iteration / (2 * T)
        weight = torch.where(LOGITS.argmax(1) == Y, 1 - w, w)
        valid = Y != VOID
        expected = (pixel_losses(LOGITS, Y) * weight).sum((1, 2)) / valid.sum((1, 2))
        assert torch.allclose(value(SegPGD(), run_at(SegPGD(), iteration=iteration)), expected, rtol=1e-13)


def test_balanced_classes_need_no_balance() -> None:
    y = torch.arange(99).view(1, *SIZE) // 24
    y[y == CLASSES] = VOID
    run = run_at(CrossEntropy())
    found, plain = (value(o, run, LOGITS[:1], y, CLEAN[:1]) for o in (BalancedCrossEntropy(), CrossEntropy()))
    assert torch.allclose(found, plain, rtol=1e-13)


def test_a_class_weighs_the_same_however_small() -> None:
    y = torch.zeros(1, *SIZE, dtype=torch.int64)
    y[0, 4, 5] = 2
    gradient = gradient_of(BalancedCrossEntropy(), run_at(CrossEntropy()), torch.zeros_like(LOGITS[:1]), y, CLEAN[:1])
    small, large = gradient[0, :, 4, 5].abs().sum(), gradient[0, :, y[0] == 0].abs().sum()
    assert float(small) == pytest.approx(float(large), rel=1e-12)


def test_class_counts_must_fit_the_surrogate() -> None:
    with pytest.raises(UsageError, match=r"^BalancedCrossEntropy pixels has 2 numbers; the surrogate has 3 classes$"):
        read("balancedcrossentropy(pixels=(1, 2))")(PixelLinear(), X, dense(3, SIZE))


# Two stages


def test_images_change_stages_on_their_own() -> None:
    """The first has no pixel left, the second has: they are in different stages until the time comes."""
    wrong = (Y + 1) % CLASSES
    done = torch.zeros_like(LOGITS).scatter(1, wrong.where(Y != VOID, 0)[:, None], 3.0)
    logits = torch.cat([(done + 0.01 * LOGITS)[:1], LOGITS[1:]])
    assert not ((logits.argmax(1) == Y) & (Y != VOID))[0].any()
    objective = TwoStage(gamma=0.3, beta=0.5)

    def weights(iteration: int) -> Tensor:
        losses = pixel_losses(logits.requires_grad_(), Y)
        (plain,) = torch.autograd.grad(losses.sum(), logits)
        weighted = gradient_of(objective, run_at(objective, iteration=iteration), logits.detach())
        valid = (Y != VOID).sum((1, 2)).view(-1, 1, 1)
        return weighted.abs().sum(1) * valid / plain.abs().sum(1).where(Y != VOID, 1)

    for iteration in (0, 3):
        shares = weights(iteration)
        assert torch.allclose(shares[0][Y[0] != VOID], torch.tensor(0.5).double()), "stage two"
        assert set(shares[1:][Y[1:] != VOID].mul(10).round().tolist()) == {3, 7}, "stage one"
    shares = weights(4)
    assert torch.allclose(shares[Y != VOID], torch.tensor(0.5).double())


def test_void_is_not_hard() -> None:
    """An image whose valid pixels are all done is in stage two, whatever is predicted under void."""
    done = torch.zeros_like(LOGITS).scatter(1, Y.where(Y != VOID, 0)[:, None], 3.0)
    objective = TwoStage(gamma=0, beta=0.25)
    run = run_at(objective, Towards())
    found = value(objective, run, done, clean=done)
    assert torch.allclose(found, value(CrossEntropy(), run, done) / 4, rtol=1e-13)


def test_an_image_that_has_not_moved_has_no_far_pixels() -> None:
    objective = TwoStage(beta=0.25, switch=0)
    run = run_at(objective)
    assert torch.equal(value(objective, run, clean=LOGITS), value(CrossEntropy(), run) / 4)


@pytest.mark.parametrize("objective", ["twostage", "regionweighted"])
def test_the_clean_view_is_looked_at_without_a_gradient_and_for_nothing(objective: str) -> None:
    model, seen = Context(), list[tuple[bool, Tensor]]()

    def watched(x: Tensor) -> Tensor:
        seen.append((torch.is_grad_enabled(), x.detach()))
        return model(x)

    x, y = X[:2], dense(2, SIZE)
    attack = read(f"{objective} + bim(iterations=3)")
    result = attack.perturb(watched, x, y)
    assert result.evaluations == attack.evaluations == 3
    assert [enabled for enabled, _ in seen].count(True) == 3
    assert all(torch.equal(image, x) for enabled, image in seen if not enabled)


# What the loop makes of them


# What can be reached from a hidden area, or through views of an image of 9 × 11 pixels, is not known.
OPEN = [
    name
    for name, e in ENTRIES.items()
    if e.family == "segmentation"
    and name not in ("rp-pgd", "sea")
    and not any(one.area.hidden or one.transforms for one in e.attack.attacks)
]


# The prototypes of RP-PGD know no targets, its regions do; a worst case is one of attacks away from labels.
@pytest.mark.parametrize("name", [*OPEN, "regionweighted"])
def test_towards_a_target_they_come_nearer_to_it(name: str) -> None:
    model, wanted = Context(), dense(3, SIZE, seed=5)
    attack = read(f"{name} + linf(eps=0.2) + towards")
    assert attack.goal.targeted
    before, after = ((model(z).argmax(1) == wanted).double().mean() for z in (X, attack(model, X, wanted)))
    # A perturbation for several images is a compromise.
    assert after > before + (0.05 if attack.shared else 0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("balancedcrossentropy(pixels=(1, 0))", "BalancedCrossEntropy pixels is (1, 0); allowed are numbers above 0"),
        ("twostage(gamma=1.5)", "TwoStage gamma is 1.5; allowed are numbers from 0 to 1"),
        ("twostage(beta=-1)", "TwoStage beta is -1; allowed"),
        ("twostage(switch=2)", "TwoStage switch is 2; allowed"),
        ("wrongclass(rest=1.1)", "WrongClass rest is 1.1; allowed are numbers from 0 to 1"),
    ],
)
def test_bad_settings_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        read(text)
    assert message in str(error.value)


def test_the_256th_class_can_be_the_rival() -> None:
    """Its number is that of void, which no prediction is."""
    y, logits = torch.full((1, 1, 2), 3), torch.zeros(1, 300, 1, 2)
    logits[0, VOID], logits[0, 3] = 5, 2
    assert torch.equal(margins(View(labels=y, logits=logits)), torch.full((1, 1, 2), 3.0))


def test_settings_hidden_by_entries_of_the_same_name_are_refused_too() -> None:
    with pytest.raises(UsageError, match=r"^CosPGD probabilities is 'tanh'; allowed are 'softmax' and 'sigmoid'$"):
        CosPGD(probabilities="tanh")  # type: ignore[arg-type]
    for confidence in (-1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match=r"^Margin confidence is "):
            Margin(confidence=confidence)


def test_the_sigmoid_is_another_weight() -> None:
    run = run_at(CosPGD())
    assert not torch.allclose(value(CosPGD(), run), value(CosPGD(probabilities="sigmoid"), run), rtol=0.1)
