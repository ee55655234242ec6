"""The least perturbation: proximal steps, and objectives with a multiplier per pixel."""

import re
from collections.abc import Callable

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from segtrans.attack import Attack
from segtrans.catalogue import attack as read
from segtrans.catalogue import compose
from segtrans.data.base import VOID
from segtrans.errors import UsageError
from segtrans.goals import Towards
from segtrans.objectives import AugmentedLagrangian, FeatureSimilarity, PrimalDual
from segtrans.objectives.constraints import _penalty, _slope, _softplus
from segtrans.run import Run
from segtrans.steps import Proximal, shrunk
from segtrans.threat import LInf
from segtrans.transforms import Resize
from toys import Context, PixelLinear, images, labels, loss_of, run_of

X, Y = 0.4 + 0.2 * images(2), labels(2)
MODEL = Context()
each_name = pytest.mark.parametrize("name", ["alma-prox", "pdpgd"])


def norms(adversarial: Tensor, x: Tensor = X) -> Tensor:
    return (adversarial - x).abs().amax((1, 2, 3))


def left(model: Callable[[Tensor], Tensor], z: Tensor, y: Tensor) -> Tensor:
    """The share of valid pixels that are right, image by image."""
    return ((model(z).argmax(1) == y) & (y != VOID)).sum((1, 2)) / (y != VOID).sum((1, 2))


@each_name
def test_the_least_perturbation_of_a_linear_model_is_found(name: str) -> None:
    """A pixel is wrong once it has moved by its margin over the L1 norm of the weights' difference. The images' norm is
    what the last pixel needs that has to be.
    """
    model = PixelLinear()
    y = model(X).argmax(1).where(Y != VOID, VOID)
    weight, logits = model.weight[:, :, 0, 0], model(X)
    found = read(f"{name}(step_size=0.005)")(model, X, y)
    for image, x, z, truth in zip(found, X, logits, y, strict=True):
        needed = []
        for row in range(X.shape[2]):
            for col in range(X.shape[3]):
                label = int(truth[row, col])
                if label != VOID:
                    ways = [
                        float((z[label, row, col] - z[other, row, col]) / (weight[label] - weight[other]).abs().sum())
                        for other in range(3)
                        if other != label
                    ]
                    needed.append(min(ways))
        least = sorted(needed)[len(needed) - int(0.01 * len(needed)) - 1]
        assert least < 0.3, "the box must not come into it"
        assert least <= (image - x).abs().max() < 1.03 * least
    assert (left(model, found, y) <= 0.01).all()


@each_name
def test_a_budget_cuts_the_least_perturbation_off(name: str) -> None:
    whole = read(f"{name}(iterations=60)")(MODEL, X, Y)
    cut = read(f"{name}(iterations=60) + linf(eps=8/255)")(MODEL, X, Y)
    assert norms(whole).min() > 8 / 255
    assert torch.allclose(cut, X + (whole - X).clamp(-8 / 255, 8 / 255), rtol=0, atol=1e-12)


@each_name
@pytest.mark.parametrize("share", [1.0, 0.2], ids=["success", "no success"])
def test_the_best_point_that_was_looked_at_is_returned(name: str, share: float) -> None:
    linear = PixelLinear()
    y = linear(X).argmax(1).where(Y != VOID, VOID)
    region = torch.rand(y.shape, generator=torch.Generator().manual_seed(0)) < share
    seen: list[Tensor] = []

    def model(z: Tensor) -> Tensor:
        seen.append(z.detach())
        return linear(z)

    attack = read(f"{name}(iterations=250, step_size=0.01)")
    found = attack(model, X, y, region=region)
    assert len(seen) == 250
    assert torch.equal(seen[0], X)
    for i in range(len(X)):
        shares = [float(left(linear, z, y)[i]) for z in seen]
        sizes = [float(norms(z)[i]) for z in seen]
        done = [k for k in range(250) if shares[k] <= 0.01]
        assert bool(done) == (share == 1)
        best = min(done, key=lambda k: (sizes[k], -k)) if done else min(range(250), key=lambda k: (shares[k], -k))
        assert torch.allclose(found[i], seen[best][i], rtol=0, atol=1e-12)
        assert 0 < best < 249 or not done, "the last point is hardly ever the best"


@each_name
def test_pixels_that_are_wrong_already_need_nothing(name: str) -> None:
    y = (MODEL(X).argmax(1) + 1) % 3
    assert torch.equal(read(f"{name}(iterations=5)")(MODEL, X, y), X)


@each_name
def test_chunks_and_batches_change_nothing(name: str) -> None:
    attack = read(f"{name}(iterations=30)")
    whole = attack(MODEL, X, Y)
    assert torch.equal(attack(MODEL, X, Y, chunk=1), whole)
    assert torch.equal(attack(MODEL, X[1:], Y[1:]), whole[1:])


@each_name
def test_with_two_classes_towards_one_is_away_from_the_other(name: str) -> None:
    model = PixelLinear(classes=2)
    y = labels(2, values=(0, 1, VOID))
    away, towards = read(f"{name}(iterations=30)"), compose(read(f"{name}(iterations=30)"), Towards())
    assert torch.equal(away(model, X, y), towards(model, X, (1 - y).where(y != VOID, VOID)))
    assert (away(model, X, y) != X).any()


def least(delta: Tensor, metric: Tensor, amount: float, low: Tensor, high: Tensor) -> Tensor:
    """The proximal point of one image, found by trying levels, within which it is as close to delta as it may be."""

    def at(level: float) -> Tensor:
        return delta.clamp(low.clamp_min(-level), high.clamp_max(level))

    def cost(level: float) -> float:
        return amount * float(at(level).abs().max()) + float((metric * (at(level) - delta) ** 2).sum()) / 2

    most = float(delta.clamp(low, high).abs().max())
    return at(minimize_scalar(cost, bounds=(0, most), method="bounded", options={"xatol": 1e-12}).x)


@pytest.mark.parametrize("amounts", [(0.01, 1.0), (10.0, 100.0), (1e4, 0.0)])
@pytest.mark.parametrize("reach", [0.3, 5.0], ids=["the box cuts", "the box is far"])
def test_shrunk_is_the_proximal_point(amounts: tuple[float, float], reach: float) -> None:
    generator = torch.Generator().manual_seed(1)
    delta, metric, low, high = (torch.randn(2, 3, 4, 5, generator=generator, dtype=X.dtype) for _ in range(4))
    metric, low, high = metric.abs(), -reach * low.abs(), reach * high.abs()
    found = shrunk(delta, metric, torch.tensor(amounts).to(X), low, high)
    for i in range(2):
        expected = least(delta[i], metric[i], amounts[i], low[i], high[i])
        assert torch.allclose(found[i], expected, rtol=0, atol=1e-6)
    assert (found[0] == 0).all() == (amounts[0] == 1e4)


def test_slopes_are_those_of_the_functions() -> None:
    y = torch.linspace(-2, 2, 101, dtype=X.dtype).requires_grad_()
    m, r = torch.tensor(0.7).to(y), torch.tensor([[0.3], [5.0]]).to(y)
    for row in range(2):
        (slope,) = torch.autograd.grad(_penalty(y, m, r[row]).sum(), y)
        assert torch.allclose(_slope(y.detach(), m, r[row]), slope, rtol=1e-12)
    assert torch.equal(_softplus(y), F.softplus(y))
    slopes = [torch.autograd.grad(f(y).sum(), y)[0] for f in (_softplus, F.softplus)]
    assert torch.allclose(*slopes, rtol=1e-7, atol=0)


def test_dual_variables_weigh_pixels_against_the_norm() -> None:
    """At first all pixels together weigh as much as the norm; then right ones gain and wrong ones lose by e^rate."""
    attack = Attack(objective=PrimalDual(memory=0.0, final=1.0), iterations=10)
    run = run_of(attack, X, Y)
    logits = PixelLinear()(X)
    loss = loss_of(attack.objective, logits, Y, run)
    assert torch.allclose(run.norm_weight, torch.ones(2, dtype=X.dtype))
    for i in range(2):
        valid = Y[i] != VOID
        total = 0.0
        for z, label in zip(logits[i].flatten(1).T, Y[i].flatten(), strict=True):
            if label != VOID:
                other = max(float(z[k]) for k in range(3) if k != label)
                total += float(F.softplus(z[label] - other)) / (2 * int(valid.sum()))
        assert float(loss[i]) == pytest.approx(-total, rel=1e-9)
    run = Run(attack, PixelLinear(), X, Y)
    for _ in range(2):
        run.gradient(X)
    right = (PixelLinear()(X).argmax(1) == Y).sum((1, 2)).double()
    count = (Y != VOID).sum((1, 2))
    factor = torch.tensor(0.1).double().exp()
    odds = (right * factor + (count - right) / factor) / count
    assert torch.allclose(run.norm_weight, 1 / odds, rtol=1e-9)


@pytest.mark.parametrize("wait", [True, False])
def test_steps_shorten(wait: bool) -> None:
    """Under a constant gradient, and with a norm that weighs nothing, every step is as long as the step size."""
    count, final, alpha = 10, 0.2, 0.002
    run = run_of(Attack(step=Proximal(final=final, wait=wait), iterations=count, step_size=alpha), X, Y)
    run.norm_weight = torch.zeros(2, dtype=X.dtype)
    step, at = run.attack.step.bind(run), X
    for run.iteration in range(count - 1):
        # The first image is done from the fourth look on, the second at the last alone.
        run._pixels = torch.tensor([[run.iteration < 3, 1], [run.iteration < 8, 1]]).long()
        moved = step(at, torch.ones_like(X))
        for image, begun in enumerate((3, 5)):
            ahead = max(run.iteration - begun, 0)
            shrink = final / (1 - final) * (count - begun)
            share = shrink / (ahead + shrink) if wait else final ** (run.iteration / count)
            length = (moved - at)[image]
            assert torch.allclose(length, torch.full_like(length, alpha * share), rtol=1e-9)
        at = moved


def test_the_norm_weighs_one_pixel_unless_the_objective_says_otherwise() -> None:
    run = run_of(Attack(), X, Y)
    assert torch.allclose(run.norm_weight, 1 / (Y != VOID).sum((1, 2)).double())


@pytest.mark.parametrize("part", ["variance", "nesterov", "sharpness", "adaptiveweights", "sequential"])
def test_steps_that_go_by_predictions_want_those_of_the_image_itself(part: str) -> None:
    with pytest.raises(
        UsageError, match=r"^step Proximal goes by predictions at the image itself, and .* asks elsewhere$"
    ):
        read(f"proximal + {part}")
    assert read("proximal + smooth + variance(samples=0) + momentum").step == Proximal()


def test_what_remains_is_counted_over_copies() -> None:
    attack = compose(Proximal(), Resize(probability=0.0, copies=3))
    run = run_of(attack, X, Y)
    run.gradient(X)
    assert torch.equal(run.remaining, left(PixelLinear(), X, Y))
    run.value(X)
    assert torch.equal(run.remaining, left(PixelLinear(), X, Y)), "a value is no gradient"
    towards = run_of(compose(attack, Towards()), X, Y)
    towards.gradient(X)
    assert torch.allclose(run.remaining + towards.remaining, torch.ones(2))
    run = run_of(Attack(), X, Y)
    run.gradient(X)
    assert (run.remaining == 0).all(), "only for steps that ask for it"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Proximal(rest=1.5), "Proximal rest is 1.5; allowed are numbers from 0 to 1"),
        (lambda: Proximal(betas=(0.9, 1.0)), "Proximal betas is (0.9, 1.0); allowed are two numbers from 0 to below 1"),
        (lambda: Proximal(final=0), "Proximal final is 0; allowed are numbers from 1e-06 to 1"),
        (lambda: Proximal(floor=0), "Proximal floor is 0; allowed are numbers from 1e-30"),
        (lambda: AugmentedLagrangian(every=0), "AugmentedLagrangian every is 0; allowed are whole numbers from 1"),
        (lambda: AugmentedLagrangian(rest=-1), "AugmentedLagrangian rest is -1; allowed"),
        (lambda: AugmentedLagrangian(multiplier=2), "AugmentedLagrangian multiplier is 2; allowed"),
        (lambda: AugmentedLagrangian(penalty=-1), "AugmentedLagrangian penalty is -1; allowed"),
        (lambda: AugmentedLagrangian(growth=0.5), "AugmentedLagrangian growth is 0.5; allowed are numbers from 1"),
        (lambda: AugmentedLagrangian(rate=1.0), "AugmentedLagrangian rate is 1.0; allowed"),
        (lambda: AugmentedLagrangian(tolerance=-1), "AugmentedLagrangian tolerance is -1; allowed"),
        (lambda: AugmentedLagrangian(scale=(1.0, 0.1)), "AugmentedLagrangian scale is (1.0, 0.1); allowed are two"),
        (lambda: PrimalDual(ratio=0), "PrimalDual ratio is 0; allowed"),
        (lambda: PrimalDual(rate=-1), "PrimalDual rate is -1; allowed"),
        (lambda: PrimalDual(final=2), "PrimalDual final is 2; allowed are numbers from 0 to 1"),
        (lambda: PrimalDual(memory=2), "PrimalDual memory is 2; allowed are numbers from 0 to 1"),
        (lambda: PrimalDual(least=0), "PrimalDual least is 0; allowed"),
        (
            lambda: compose(FeatureSimilarity(), Proximal()),
            "step Proximal goes by predictions, but objective FeatureSimilarity ends before there are any",
        ),
        (
            lambda: read("alma-prox + di")(MODEL, X, Y),
            "objective AugmentedLagrangian has a multiplier per pixel and goes with no input transformation; "
            "leave out Resize",
        ),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        make()


def test_entries_have_no_budget_unless_one_is_given() -> None:
    for name in ("alma-prox", "pdpgd"):
        attack = read(name)
        assert attack.threat == LInf(1)
        assert attack.configured(eps="8/255", step_size="2/255") == attack
