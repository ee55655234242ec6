"""Gradients made of an ensemble's members, each against its formula written out, image by image."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from ensemble_of_toys import ENSEMBLE, MODELS, SIZE, X, Y, each_fuse, loss, member, slope
from torch import Tensor

from segtrans.attack import Attack
from segtrans.catalogue import ENTRIES, compose
from segtrans.catalogue import attack as read
from segtrans.errors import UsageError
from segtrans.goals import Towards
from segtrans.gradients import AdaptiveWeights, Momentum, Neighbourhood, Sequential, VarianceReduced
from segtrans.models import Ensemble
from segtrans.random import Draw
from segtrans.threat import L2
from segtrans.transforms import Remap, Scale, Warp
from toys import BreaksOnBright, Context, dense, images, run_of

EPS = 8 / 255
ALPHA = EPS / 4
NAMES = ("svre", "adaea", "cwa")
each_name = pytest.mark.parametrize("name", NAMES)


def inside(point: Tensor, x: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(point, x - EPS), x + EPS).clamp(0, 1)


def scaled(g: Tensor) -> Tensor:
    return g / g.abs().mean()


def ascended(x: Tensor, iterations: int, gradient: Callable[[Tensor], Tensor]) -> Tensor:
    """MI-FGSM on one image, with whatever takes the place of its gradient."""
    z, momentum = x, torch.zeros_like(x)
    for _ in range(iterations):
        momentum = momentum + scaled(gradient(z))
        z = inside(z + ALPHA * momentum.sign(), x)
    return z


@pytest.fixture
def picks(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The members that images draw, (N,) each."""
    drawn: list[Tensor] = []
    original = Draw.integers

    def recorded(self: Draw, bound: Tensor) -> Tensor:
        drawn.append(original(self, bound))
        return drawn[-1]

    monkeypatch.setattr(Draw, "integers", recorded)
    return drawn


@pytest.mark.parametrize("rounds", [1, 4])
def test_variance_reduction_is_the_published_loop(rounds: int, picks: list[Tensor]) -> None:
    """As published: every step asks its member at z again, and the first step asks one although it cancels out."""
    attack = compose(VarianceReduced(rounds=rounds), Momentum(), Attack(iterations=3))
    found = attack(ENSEMBLE, X, Y, seed=2)
    assert len(picks) == 3 * (3 * rounds - 1)
    for n, (x, y) in enumerate(zip(X, Y, strict=True)):
        drawn = iter(picks)

        def gradient(z: Tensor, x: Tensor = x, y: Tensor = y, n: int = n, drawn: Iterator[Tensor] = drawn) -> Tensor:
            whole = sum(slope(m, z, y) for m in MODELS) / 3
            point, inner = z, torch.zeros_like(z)
            for step in range(3 * rounds):
                model = MODELS[int(next(drawn)[n]) if step else 0]
                inner = inner + scaled(slope(model, point, y) - (slope(model, z, y) - whole))
                point = inside(point + EPS / 10 * inner.sign(), x)
            return inner

        assert torch.allclose(found[n], ascended(x, 3, gradient), rtol=0, atol=1e-9)


def test_every_image_draws_members_of_its_own(picks: list[Tensor]) -> None:
    read("svre(iterations=4)").perturb(ENSEMBLE, X, Y)
    drawn = torch.stack(picks)
    assert torch.bincount(drawn.flatten(), minlength=3).min() > 0.2 * drawn.numel()
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert 0.1 < (drawn[:, one] == drawn[:, other]).double().mean() < 0.6


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("contrast", "threshold"), [(10.0, -0.3), (3.0, 0.2), (0.0, -1.0)])
def test_adaptive_weights_are_those_of_the_paper(contrast: float, threshold: float, targeted: bool) -> None:
    parts = (Towards(),) if targeted else ()
    attack = compose(*parts, AdaptiveWeights(contrast=contrast, threshold=threshold), Momentum(), Attack(iterations=2))
    found, sign = attack(ENSEMBLE, X, Y), -1 if targeted else 1
    dropped = []
    for n, (x, y) in enumerate(zip(X, Y, strict=True)):

        def gradient(z: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
            own = [sign * slope(m, z, y) for m in MODELS]
            reached = [inside(z + ALPHA * g.sign(), x) for g in own]
            scores = []
            for j in range(3):
                score = 0.0
                for i in range(3):
                    if i != j:
                        ratio = float(loss(MODELS[i], reached[j], y) / loss(MODELS[i], reached[i], y))
                        score += 1 / ratio if targeted else ratio
                scores.append(math.exp(contrast * score))
            total = sum(w / sum(scores) * g for w, g in zip(scores, own, strict=True))
            assert isinstance(total, Tensor)
            for row in range(SIZE[0]):
                for col in range(SIZE[1]):
                    at = [g[:, row, col] for g in own]
                    pairs = [float(a @ b / (a.norm() * b.norm())) for k, a in enumerate(at) for b in at[k + 1 :]]
                    if sum(pairs) / 3 < threshold:
                        total[:, row, col] = 0
                        dropped.append((row, col))
            return total

        assert torch.allclose(found[n], ascended(x, 2, gradient), rtol=0, atol=1e-9)
    assert bool(dropped) == (threshold > -1)


def test_adaptive_weights_of_an_image_without_valid_pixels_are_equal() -> None:
    y = Y.clone()
    y[1] = 255
    result = read("adaea(iterations=2)").perturb(ENSEMBLE, X, y)
    assert not result.failed.any()
    assert result.stalled.tolist() == [False, True, False]
    run = run_of(Attack(), X, y, ENSEMBLE)
    assert (AdaptiveWeights().wrap(run.gradient, run)(X)[1] == 0).all()


@pytest.mark.parametrize(("reverse", "stride"), [(1 / 15, 10.0), (0.5, 0.3), (0.0, 1.0)])
def test_sequential_is_the_published_loop(reverse: float, stride: float) -> None:
    attack = compose(Sequential(reverse=reverse, stride=stride), Momentum(), Attack(iterations=3))
    found = attack(ENSEMBLE, X, Y)
    # The paper's β, of which the gradient's L2 norm is measured.
    beta = stride * EPS * math.sqrt(X[0].numel())
    for n, (x, y) in enumerate(zip(X, Y, strict=True)):
        inner = torch.zeros_like(x)

        def gradient(z: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
            nonlocal inner
            whole = sum(slope(m, z, y) for m in MODELS) / 3
            assert isinstance(whole, Tensor)
            point = inside(z - reverse * EPS * whole.sign(), x)
            for model in MODELS:
                g = slope(model, point, y)
                inner = inner + g / g.norm()
                point = inside(point + beta * inner, x)
            return point - z

        assert torch.allclose(found[n], ascended(x, 3, gradient), rtol=0, atol=1e-9)


def test_the_reverse_step_follows_what_the_ensemble_averages() -> None:
    alike = compose(Sequential(), Momentum(), Attack(iterations=2))
    assert not torch.equal(alike(ENSEMBLE, X, Y), alike(Ensemble(MODELS), X, Y))
    for name in ("svre", "adaea"):
        attack = read(f"{name}(iterations=2)")
        assert torch.equal(attack(ENSEMBLE, X, Y), attack(Ensemble(MODELS), X, Y)), "these never ask for the whole"


def test_one_surrogate_is_an_ensemble_of_one() -> None:
    mi = read("mi(iterations=4)")(MODELS[0], X, Y)
    for text in ("adaea(iterations=4)", "variancereduced(rounds=1) + mi(iterations=4)"):
        assert torch.equal(read(text)(MODELS[0], X, Y), mi), text
    assert [ENTRIES[name].attack.evaluations_per_iteration for name in NAMES] == [4, 1, 2]
    for entry in map(ENTRIES.get, NAMES):
        assert entry is not None
        assert entry.family == "ensemble"


def test_twins_are_as_good_as_one() -> None:
    twins = Ensemble([MODELS[0], MODELS[0]], "loss")
    for text in ("adaea(iterations=3)", "variancereduced(rounds=2) + mi(iterations=3)"):
        alone = text.replace("rounds=2", "rounds=4")
        assert (read(text)(twins, X, Y) - read(alone)(MODELS[0], X, Y)).abs().max() < 1e-9, text


COSTS = {"mi": 3, "svre": 14, "adaea": 3, "cwa": 6, "sequential(reverse=0) + mi": 3, "rap": 27}


@each_fuse
@pytest.mark.parametrize("name", COSTS)
def test_every_member_is_an_evaluation(name: str, fuse: str) -> None:
    """What is declared for an ensemble of three is what its members are asked for, image by image."""
    passes: list[int] = []

    class Counted(Context):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                passes.append(len(x))
            return super().forward(x)

    ensemble = Ensemble([member(Counted(seed)) for seed in range(3)], fuse)  # type: ignore[arg-type]
    for text, times in ((name, 1), (f"{name} + remap(copies=2)", 2), (f"smooth(size=3) + {name}", 1)):
        passes.clear()
        attack = read(text).configured(iterations=2)
        result = attack.perturb(ensemble, X, Y, chunk=2)
        assert result.evaluations == attack.evaluations_on(3).total == 2 * times * COSTS[name]
        assert sum(passes) == len(X) * result.evaluations
        assert attack.evaluations_on(1).total == attack.evaluations


def test_parts_around_and_inside_multiply() -> None:
    around = compose(VarianceReduced(), *read("variance(samples=2)").gradients)
    within = compose(*read("variance(samples=2)").gradients, VarianceReduced())
    for attack in (around, within):
        attack = compose(attack, Attack(iterations=2))
        assert attack.perturb(ENSEMBLE, X, Y).evaluations == attack.evaluations_on(3).total == 2 * 3 * 14
    # Two passes for each of two copies, and one of the image as it is, 14 times.
    attack = compose(Warp(copies=2, descent=0.1), Neighbourhood(samples=3), VarianceReduced(), Attack(iterations=2))
    assert attack.perturb(ENSEMBLE, X, Y).evaluations == attack.evaluations_on(3).total == 2 * 14 * (2 * 2 * 3 + 1)


ATTACKS = {
    **{name: read(f"{name}(iterations=3)") for name in NAMES},
    "remapped": compose(Remap(copies=2), VarianceReduced(), Momentum(), Attack(iterations=2)),
    "warped": compose(Warp(copies=2, descent=0.1), VarianceReduced(), Momentum(), Attack(iterations=2)),
    "l2": compose(L2(1.0), Sequential(), Momentum(), Attack(iterations=2)),
    "l2 weights": compose(L2(1.0), AdaptiveWeights(), Momentum(), Attack(iterations=2)),
}
each_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


@each_attack
def test_the_batch_does_not_matter(attack: Attack) -> None:
    batch_does_not_matter(attack)


def test_the_batch_does_not_matter_to_neighbours_of_members() -> None:
    parts = Scale(copies=2), Neighbourhood(samples=2), VarianceReduced()
    batch_does_not_matter(compose(*parts, Attack(iterations=2)))


def batch_does_not_matter(attack: Attack) -> None:
    together = attack(ENSEMBLE, X, Y, seed=5)
    singly = [attack(ENSEMBLE, x[None], y[None], seed=5) for x, y in zip(X, Y, strict=True)]
    assert torch.equal(together, torch.cat(singly))
    order = [2, 0, 1]
    assert torch.equal(together[order], attack(ENSEMBLE, X[order], Y[order], seed=5))
    assert torch.equal(together, attack(ENSEMBLE, X, Y, seed=5, chunk=1))
    assert torch.equal(together, attack(ENSEMBLE, X, Y, seed=5, chunk=2))


@each_attack
def test_ball_box_and_region_hold(attack: Attack) -> None:
    region = torch.zeros(SIZE, dtype=torch.bool)
    region[2:6, 3:9] = True
    before = {name: value.clone() for name, value in ENSEMBLE.state_dict().items()}
    seen: list[Tensor] = []
    hooks = [m.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach())) for m in MODELS]
    found = attack(ENSEMBLE, X, Y, region=region)
    for hook in hooks:
        hook.remove()
    assert (attack.threat.distance(found, X) <= attack.threat.radius * (1 + 1e-9)).all()
    assert found.min() >= 0
    assert found.max() <= 1
    changed = (found != X).any(1)
    assert changed.any()
    assert not (changed & ~region).any()
    assert all((x.min() >= 0) & (x.max() <= 1) for x in seen)
    if not attack.transforms:
        for x in torch.cat(seen):
            assert any(torch.equal(x.where(~region, 0), clean.where(~region, 0)) for clean in X)
    assert all(torch.equal(value, before[name]) for name, value in ENSEMBLE.state_dict().items())


@each_name
def test_a_member_that_fails_on_an_image_fails_that_image_alone(name: str) -> None:
    x = torch.cat([images(2, SIZE, high=0.4), 0.97 + 0.03 * images(1, SIZE, seed=7)])
    attack = read(f"{name}(iterations=2)")
    broken = Ensemble([MODELS[0], member(BreaksOnBright(Context(1)).double()), MODELS[2]], "loss")
    result = attack.perturb(broken, x, Y)
    assert result.failed.tolist() == [False, False, True]
    assert torch.equal(result.adversarial[2], x[2])
    assert torch.equal(result.adversarial[:2], attack.perturb(broken, x[:2], Y[:2]).adversarial)


@each_name
def test_weights_of_two_kinds_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="weighs the members of an ensemble itself"):
        read(name)(ENSEMBLE, X, Y, weights=torch.ones(3, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VarianceReduced(rounds=0), "VarianceReduced rounds is 0; allowed are whole numbers from 1"),
        (lambda: VarianceReduced(stride=-1), "VarianceReduced stride is -1; allowed are numbers from 0"),
        (lambda: VarianceReduced(decay=-1), "VarianceReduced decay is -1; allowed are numbers from 0"),
        (lambda: AdaptiveWeights(contrast=-1), "AdaptiveWeights contrast is -1; allowed are numbers from 0"),
        (lambda: AdaptiveWeights(threshold=2), "AdaptiveWeights threshold is 2; allowed are numbers from -1 to 1"),
        (lambda: Sequential(reverse=-1), "Sequential reverse is -1; allowed are numbers from 0"),
        (lambda: Sequential(stride=-1), "Sequential stride is -1; allowed are numbers from 0"),
        (lambda: Sequential(decay=-1), "Sequential decay is -1; allowed are numbers from 0"),
        (
            lambda: compose(VarianceReduced(), Sequential()),
            "VarianceReduced and Sequential ask an ensemble's members one by one; allowed is one such part",
        ),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        make()
    assert str(error.value) == message


def test_ensembles_are_attacked_towards_labels_too() -> None:
    aim = dense(3, SIZE, seed=4)
    for name in NAMES:
        found = compose(Towards(), ENTRIES[name].attack)(ENSEMBLE, X, aim)

        def distance(z: Tensor) -> float:
            return sum(float(loss(m, x, y)) for m in MODELS for x, y in zip(z, aim, strict=True))

        assert distance(found) < distance(X) - 0.1, name
