"""Gradients that look around, each against its formula written out, with the same random numbers."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from segtrans.attack import Attack
from segtrans.catalogue import ENTRIES
from segtrans.catalogue import attack as read
from segtrans.errors import UsageError
from segtrans.gradients import (
    Flatness,
    GradientFunction,
    GradientTransform,
    LineAverage,
    Momentum,
    Neighbourhood,
    Relevance,
    Sharpness,
    Variance,
)
from segtrans.run import Run
from segtrans.threat import L2, LInf
from segtrans.transforms import Scale
from toys import Context, images, labels, run_of

SIZE = (9, 11)
X, Y = images(2, SIZE), labels(2, SIZE, block=3)
EPS = 8 / 255
ALPHA = EPS / 4
MODEL = Context()


def fresh(threat: LInf | L2 | None = None) -> Run:
    return run_of(Attack(threat=threat or LInf("8/255")), X, Y, MODEL)


def slope(z: Tensor) -> Tensor:
    """A gradient that turns within a fraction of the budget, and mixes pixels."""
    return (60 * z + torch.arange(11)).sin() + 0.3 * z.roll(1, 3).roll(1, 1)


def mean_size(g: Tensor) -> Tensor:
    return g.abs().mean((1, 2, 3), keepdim=True)


def noise(run: Run, count: int, radius: float) -> list[Tensor]:
    """The neighbours' offsets that the run's first part draws at this iteration."""
    draw = run.draw(1001)
    return [radius * EPS * draw.uniform(3, *SIZE, low=-1, high=1) for _ in range(count)]


def compared(part: GradientTransform, expected: Callable[[Run], Iterator[tuple[Tensor, Tensor]]]) -> None:
    """The part's gradient at the points of ``expected``, iteration by iteration, is the one given there."""
    run = fresh()
    wrapped = part.wrap(slope, run)
    steps = list(enumerate(expected(fresh())))
    assert len(steps) >= 3
    for iteration, (z, value) in steps:
        run.iteration = iteration
        assert torch.allclose(wrapped(z), value, rtol=0, atol=1e-12)


def points(run: Run) -> Iterator[Tensor]:
    for run.iteration in range(3):
        yield X + 0.01 * run.iteration


@pytest.mark.parametrize(("samples", "radius"), [(20, 1.5), (1, 0.5), (3, 4.0)])
def test_variance_of_the_last_iteration_is_added(samples: int, radius: float) -> None:
    def expected(run: Run) -> Iterator[tuple[Tensor, Tensor]]:
        v = torch.zeros_like(X)
        for z in points(run):
            yield z, slope(z) + v
            v = sum(slope(z + n) for n in noise(run, samples, radius)) / samples - slope(z)
            assert v.abs().max() > 0.1

    compared(Variance(samples=samples, radius=radius), expected)


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_variance_with_look_ahead_moves_the_gradient_and_not_its_neighbours(decay: float) -> None:
    def expected(run: Run) -> Iterator[tuple[Tensor, Tensor]]:
        v, momentum = torch.zeros_like(X), torch.zeros_like(X)
        for z in points(run):
            own = slope(z + decay * ALPHA * momentum)
            momentum = decay * momentum + (own + v) / mean_size(own + v)
            yield z, own + v
            v = sum(slope(z + n) for n in noise(run, 5, 1.5)) / 5 - own

    compared(Variance(samples=5, ahead=decay), expected)


def test_relevance_mixes_by_cosine() -> None:
    def expected(run: Run) -> Iterator[tuple[Tensor, Tensor]]:
        for z in points(run):
            own, mean = slope(z), sum(slope(z + n) for n in noise(run, 4, 0.5)) / 4
            s = torch.nn.functional.cosine_similarity(own.flatten(1), mean.flatten(1)).view(2, 1, 1, 1)
            assert ((s > 0.1) & (s < 0.98)).all()
            yield z, s * own + (1 - s) * mean

    compared(Relevance(samples=4, radius=0.5), expected)


def test_relevance_of_nothing_is_nothing() -> None:
    """A zero gradient has no direction, in the first image; its neighbours may have one, in the second."""
    other = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    wrapped = Relevance(samples=2).wrap(lambda z: torch.where((z == X).all(), 0, other).expand_as(z), fresh())
    assert torch.equal(wrapped(X), other.expand_as(X))
    tiny = 1e-200 * slope(X)
    assert torch.allclose(Relevance(samples=1).wrap(lambda z: tiny, fresh())(X) / tiny, torch.ones_like(X))


def test_a_neighbourhood_is_sampled_in_shells_and_its_centre_once_untransformed() -> None:
    """Two copies of each neighbour and the image itself, as the mean over five gradients one by one."""
    attack = Attack(transforms=(Scale(copies=2),), gradients=(Neighbourhood(samples=2, radius=2.0, shells=4),))
    run = run_of(attack, X, Y, MODEL)
    found = attack.gradients[0].wrap(run.gradient, run)(X)
    assert run.evaluations == attack.evaluations_per_iteration == 5
    plain = run_of(Attack(), X, Y, MODEL)
    total = plain.gradient(X)
    other = run_of(attack, X, Y, MODEL)
    other._gradients_this_iteration = (0, 1)
    draw, shells = other.draw(1001), set()
    for _ in range(2):
        shell = (4 * draw.uniform(1, 1, 1)).floor() + 1
        near = X + draw.uniform(3, *SIZE, low=-1, high=1) * shell / 4 * 2 * EPS
        total = total + plain.gradient(near) + plain.gradient(near / 2) / 2
        shells |= {*shell.flatten().tolist()}
    assert len(shells) > 1
    assert torch.allclose(found, total / 5, rtol=1e-10, atol=1e-15)


def test_plain_gradients_are_counted_once_at_every_level() -> None:
    for text, cost in (
        ("neighbourhood(samples=2) + variance(samples=4)", (3 * 2 + 1) * 5),
        ("variance(samples=4) + neighbourhood(samples=2)", 3 * 5 * 2 + 5),
        ("neighbourhood(samples=2) + neighbourhood(samples=4)", (3 * 2 + 1) * 4 + 3),
    ):
        attack = read(f"scale(copies=3) + {text} + bim(iterations=2)")
        assert attack.evaluations_per_iteration == cost
        assert attack.perturb(MODEL, X, Y).evaluations == attack.evaluations


@pytest.mark.parametrize("balance", [0.5, 0.2, 1.0])
def test_flatness_steps_back_from_each_neighbour(balance: float) -> None:
    def expected(run: Run) -> Iterator[tuple[Tensor, Tensor]]:
        for z in points(run):
            total = torch.zeros_like(X)
            for n in noise(run, 3, 3.0):
                first = slope(z + n)
                second = slope(z + n - EPS / 10 * first / mean_size(first))
                total += (1 - balance) * first + balance * second
            yield z, total / 3

    compared(Flatness(samples=3, balance=balance), expected)


def test_flatness_without_balance_is_the_mean_of_neighbours() -> None:
    def expected(run: Run) -> Iterator[tuple[Tensor, Tensor]]:
        for z in points(run):
            yield z, sum(slope(z + n) for n in noise(run, 3, 3.0)) / 3

    compared(Flatness(samples=3, balance=0), expected)
    assert Flatness(samples=3, balance=0).evaluations == 3
    assert Flatness(samples=3).evaluations == 6


def test_the_line_average_follows_the_last_one() -> None:
    def expected(run: Run) -> Iterator[tuple[Tensor, Tensor]]:
        line = torch.zeros_like(X)
        for z in points(run):
            # Eleven points, seven steps of a tenth of the budget to either side.
            mean = sum(slope(z + c * EPS / 10 * line) for c in torch.linspace(-7, 7, 11, dtype=X.dtype)) / 11
            line = mean / mean_size(mean)
            yield z, mean

    compared(LineAverage(), expected)


@pytest.mark.parametrize("samples", [2, 5])
def test_the_line_is_sampled_evenly(samples: int) -> None:
    at: list[Tensor] = []

    def gradient(z: Tensor) -> Tensor:
        at.append(z - X)
        return torch.ones_like(z)

    wrapped = LineAverage(samples=samples, radius=2.0).wrap(gradient, fresh())
    wrapped(X)
    assert all((offset == 0).all() for offset in at)
    at.clear()
    wrapped(X)
    for offset, share in zip(at, torch.linspace(-2, 2, samples), strict=True):
        assert torch.allclose(offset, torch.full_like(X, float(share) * EPS))


def test_sharpness_is_an_attack_with_its_sign_turned() -> None:
    part = Sharpness(steps=3, radius=0.9)

    def expected(run: Run) -> Iterator[tuple[Tensor, Tensor]]:
        for z in points(run):
            low = (z + noise(run, 1, 0.9)[0]).clamp(0, 1)
            for _ in range(3):
                low = low - 0.3 * EPS * slope(low).sign()
                low = (z + (low - z).clamp(-0.9 * EPS, 0.9 * EPS)).clamp(0, 1)
            yield z, slope(low)

    compared(part, expected)


def test_one_reverse_step_is_sharpness_aware() -> None:
    wrapped = Sharpness(steps=1, radius=0.2, random_start=False).wrap(slope, fresh())
    assert torch.allclose(wrapped(X), slope((X - 0.2 * EPS * slope(X).sign()).clamp(0, 1)))


def test_sharpness_lowers_the_objective_first() -> None:
    run = fresh()
    run.gradient(X)
    at_z = run.losses
    Sharpness(random_start=False).wrap(run.gradient, run)(X)
    assert (run.losses < at_z - 0.01).all()


def test_sharpness_may_start_late() -> None:
    attack = read("sharpness(steps=2, late=2) + bim(iterations=4)")
    result = attack.perturb(MODEL, X, Y)
    assert result.evaluations == 2 + 2 * 3
    assert attack.evaluations == 12, "at most"
    early = read("bim(iterations=2, step_size='2/255')")(MODEL, X, Y)
    late = read("sharpness(late=9) + bim(iterations=2)")(MODEL, X, Y)
    assert torch.equal(early, late)


def test_sharpness_stays_within_the_region() -> None:
    region = torch.zeros(SIZE, dtype=torch.bool)
    region[2:5, 3:8] = True
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return MODEL(x)

    for text in ("rap(iterations=2)", "variance(samples=2) + bim(iterations=2)"):
        read(text)(model, X, Y, region=region)
    assert len(seen) > 10
    assert all(torch.equal(x.where(~region, 0), X.where(~region, 0)) for x in seen)


@pytest.mark.parametrize("threat", [LInf("8/255"), L2(2.0)], ids=repr)
def test_neighbours_are_spread_over_their_ball(threat: LInf | L2) -> None:
    offsets: list[Tensor] = []

    def gradient(z: Tensor) -> Tensor:
        offsets.append(z - X)
        return torch.ones_like(z)

    run = fresh(threat)
    wrapped = Flatness(samples=30, radius=1.5, balance=0).wrap(gradient, run)
    for run.iteration in range(2):
        wrapped(X)
    values = torch.stack(offsets)
    assert len(values) == 60
    limit = 1.5 * threat.radius * (1 if isinstance(threat, LInf) else (3 * 9 * 11) ** -0.5)
    assert 0.99 * limit < values.abs().max() <= limit
    assert (threat.distance(values.flatten(0, 1), torch.zeros(1, 1, 1, 1)) <= 1.5 * threat.radius).all()
    assert abs(values.mean()) < 0.02 * limit
    assert values.square().mean() == pytest.approx(limit**2 / 3, rel=0.02)
    flat = values.flatten(0, 1).flatten(1)
    assert torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 0.3, "another one every time, in every image"


NEUTRAL = (
    ("variance(samples=0)", ""),
    ("variance(radius=0)", ""),
    ("relevance(samples=0)", ""),
    ("relevance(radius=0)", ""),
    ("flatness(samples=0)", ""),
    ("neighbourhood(samples=0)", ""),
    ("neighbourhood(radius=0)", ""),
    ("flatness(samples=1, radius=0, balance=0)", ""),
    ("lineaverage(samples=1)", ""),
    ("lineaverage(radius=0)", ""),
    ("sharpness(steps=0)", ""),
    ("sharpness(radius=0)", ""),
    ("sharpness(late=99)", ""),
)


BASES = ("bim(iterations=3)", "mi(iterations=3)", "di(iterations=3)", "segpgd(iterations=3) + remap")


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("neutral", "same_as"), NEUTRAL)
def test_neutral_settings_change_nothing(neutral: str, same_as: str, base: str) -> None:
    one, other = read(f"{neutral} + {base}"), read(f"{same_as} + {base}" if same_as else base)
    found, expected = one.perturb(MODEL, X, Y), other.perturb(MODEL, X, Y)
    assert torch.equal(found.adversarial, expected.adversarial)
    assert found.evaluations == expected.evaluations
    assert one.evaluations == other.evaluations or "late" in neutral


@pytest.mark.parametrize("base", BASES)
def test_variance_ahead_without_neighbours_is_nesterov(base: str) -> None:
    one, other = read(f"{base} + variance(samples=0, ahead=1.0) + momentum"), read(f"{base} + nesterov")
    found, expected = one.perturb(MODEL, X, Y), other.perturb(MODEL, X, Y)
    assert torch.equal(found.adversarial, expected.adversarial)
    assert found.evaluations == expected.evaluations
    assert one.evaluations == other.evaluations


@pytest.mark.parametrize(
    "text",
    [
        "variance(samples=2) + relevance(samples=1)",
        "flatness(samples=2) + lineaverage(samples=3)",
        "sharpness(steps=2) + variance(samples=3)",
        "remap(copies=2) + flatness(samples=2, balance=0) + sharpness(steps=1)",
    ],
)
def test_nested_evaluations_are_what_is_spent(text: str) -> None:
    attack = read(f"{text} + bim(iterations=2)")
    assert attack.perturb(MODEL, X, Y).evaluations == attack.evaluations >= 12


def test_entries_cost_what_their_papers_say() -> None:
    cost = {"vmi": 21, "vni": 21, "gra": 21, "emi": 11, "pgn": 40, "rap": 9, "sam": 2, "ops": 901}
    assert {name: ENTRIES[name].attack.evaluations_per_iteration for name in cost} == cost


@pytest.mark.parametrize(
    "part", [Variance(samples=2, ahead=1), Flatness(samples=2), LineAverage(samples=3), Sharpness(), Relevance()]
)
def test_gradients_of_zero_and_of_other_images_do_not_matter(part: GradientTransform) -> None:
    def of(first: float, second: float) -> GradientFunction:
        return lambda z: slope(z) * torch.tensor([first, second]).view(2, 1, 1, 1)

    for threat in (LInf("8/255"), L2(1.0)):
        results = []
        for pair in ((1, 1), (1, 0), (1, torch.nan)):
            wrapped = part.wrap(of(*pair), fresh(threat))
            results.append([wrapped(X + k / 100) for k in range(3)])
        for both, zero, nan in zip(*results, strict=True):
            assert torch.equal(both[0], zero[0])
            assert torch.equal(both[0], nan[0])
            assert (zero[1] == 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Variance(samples=-1), "Variance samples is -1; allowed are whole numbers from 0"),
        (lambda: Variance(samples=2.0), "Variance samples is 2.0; allowed are whole numbers from 0"),
        (lambda: Variance(radius=-1), "Variance radius is -1; allowed are numbers from 0"),
        (lambda: Variance(radius=float("nan")), "Variance radius is nan; allowed are numbers from 0"),
        (lambda: Variance(radius=float("inf")), "Variance radius is inf; allowed are numbers from 0"),
        (lambda: Variance(ahead=-0.1), "Variance ahead is -0.1; allowed are numbers from 0"),
        (lambda: Relevance(radius="2"), "Relevance radius is '2'; allowed are numbers from 0"),
        (lambda: Relevance(samples=True), "Relevance samples is True; allowed are whole numbers from 0"),
        (lambda: Neighbourhood(shells=0), "Neighbourhood shells is 0; allowed are whole numbers from 1"),
        (lambda: Flatness(balance=1.1), "Flatness balance is 1.1; allowed are numbers from 0 to 1"),
        (lambda: Flatness(back=-1), "Flatness back is -1; allowed are numbers from 0"),
        (lambda: LineAverage(samples=0), "LineAverage samples is 0; allowed are whole numbers from 1"),
        (lambda: LineAverage(radius=True), "LineAverage radius is True; allowed are numbers from 0"),
        (lambda: Sharpness(steps=-1), "Sharpness steps is -1; allowed are whole numbers from 0"),
        (lambda: Sharpness(late=-1), "Sharpness late is -1; allowed are whole numbers from 0"),
        (lambda: Sharpness(radius=-1), "Sharpness radius is -1; allowed are numbers from 0"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        make()
    assert str(error.value) == message


def test_vni_is_vmi_that_looks_ahead() -> None:
    assert ENTRIES["vmi"].attack.gradients == (Variance(), Momentum())
    assert ENTRIES["vni"].attack.gradients == (Variance(ahead=1.0), Momentum())
    one, other = (read(f"{name}(iterations=3)")(MODEL, X, Y) for name in ("vmi", "vni"))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("text", [*(name for name in ("ni", "vni", "emi", "pgn")), "variance(samples=2, ahead=1) + mi"])
def test_what_lies_ahead_stays_within_the_region(text: str) -> None:
    region = torch.zeros(SIZE, dtype=torch.bool)
    region[2:6, 3:9] = True
    shown: list[Tensor] = []
    hook = MODEL.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0].detach()))
    read(text)(MODEL, X, Y, region=region)
    hook.remove()
    assert len(shown) > 1
    inside = torch.cat(shown).where(region, 0)
    assert (inside != inside[:1]).any()
    for x in shown:
        assert torch.equal(x.where(~region, 0), X.where(~region, 0))
