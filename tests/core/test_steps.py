"""Update rules, each against a second implementation that goes value by value or image by image."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from segtrans.attack import Attack
from segtrans.catalogue import attack as read
from segtrans.errors import UsageError
from segtrans.objectives import CrossEntropy, MaskedCrossEntropy, Objective, Spherical
from segtrans.run import Run
from segtrans.steps import Adam, Adaptive, Damped, Patchwise, Proportional, Steepest, Step
from segtrans.threat import L2, LInf, Threat
from toys import Constant, Context, images, labels, run_of

SIZE = (7, 9)
X, Y = images(3, SIZE), labels(3, SIZE, block=3)
# Far from the box, where the numbers of a formula can be followed.
INSIDE = 0.4 + 0.2 * X
EPS = 8 / 256
MODEL = Context()
CROSS_ENTROPY = CrossEntropy()


def noise(seed: int) -> Tensor:
    return torch.randn(X.shape, generator=torch.Generator().manual_seed(seed), dtype=X.dtype)


def walk(part: Step, gradients: list[Tensor], threat: Threat | None = None, x: Tensor = INSIDE) -> Iterator[Tensor]:
    """Where the rule goes with these gradients."""
    run = run_of(Attack(threat=threat or LInf(EPS), iterations=len(gradients), step=part), x, Y)
    step, at = part.bind(run), x
    for run.iteration, gradient in enumerate(gradients):
        at = step(at, gradient)
        yield at


def clipped(z: Tensor, x: Tensor = INSIDE) -> Tensor:
    return torch.minimum(torch.maximum(z, x - EPS), x + EPS).clamp(0, 1)


def test_proportional_steps_keep_the_gradients_proportions() -> None:
    gradient = noise(0) * torch.tensor([1e-9, 1.0, 1e6]).view(3, 1, 1, 1)
    (found,) = walk(Proportional(), [gradient])
    for image, g, x in zip(found, gradient, INSIDE, strict=True):
        assert torch.allclose(image - x, EPS / 4 * g / g.abs().max(), atol=1e-15)
    assert torch.allclose((found - INSIDE).abs().amax((1, 2, 3)), torch.full((3,), EPS / 4, dtype=X.dtype))


def test_damped_steps_shrink_with_every_change_of_sign() -> None:
    decay = 0.5
    gradients = [noise(seed) for seed in range(5)]
    gradients[2][0] = 0
    scale, last, at = 1 / decay, torch.zeros_like(X), INSIDE
    scale = torch.full_like(X, scale)
    for found, g in zip(walk(Damped(decay=decay), gradients), gradients, strict=True):
        for index in range(X.numel()):
            if g.flatten()[index].sign() != last.flatten()[index]:
                scale.view(-1)[index] *= decay
        last = g.sign()
        at = clipped(at + EPS / 4 * scale * last)
        assert torch.allclose(found, at, atol=1e-15)
    assert scale.min() == 1 / 16
    assert scale.max() == 1


@pytest.mark.parametrize("amsgrad", [True, False])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.7), (0.0, 0.0)])
def test_adam_is_torchs(amsgrad: bool, betas: tuple[float, float]) -> None:
    gradients = [noise(seed) * 10.0 ** -(seed % 4) for seed in range(8)]
    delta = torch.zeros_like(X).requires_grad_()
    optimiser = torch.optim.Adam([delta], lr=EPS / 4, betas=betas, amsgrad=amsgrad, maximize=True)
    for found, g in zip(walk(Adam(betas=betas, amsgrad=amsgrad), gradients), gradients, strict=True):
        delta.grad = g.clone()
        optimiser.step()
        with torch.no_grad():
            delta.clamp_(-EPS, EPS)
        assert torch.allclose(found, INSIDE + delta.detach(), rtol=0, atol=1e-12)


EVERYWHERE = torch.ones(SIZE, dtype=torch.bool)


def patchwise(
    gradients: list[Tensor], amplification: float, size: int, region: Tensor = EVERYWHERE
) -> Iterator[Tensor]:
    """Pixel by pixel, with the paper's names."""
    ahead = amplification * EPS / 4
    a, at = torch.zeros_like(X), INSIDE.clone()
    for g in gradients:
        a += ahead * g.sign()
        cut = (a.abs() - EPS).clamp_min(0) * a.sign()
        projection = torch.zeros_like(X)
        for n in range(3):
            for c in range(3):
                for i in range(SIZE[0]):
                    for j in range(SIZE[1]):
                        half = size // 2
                        total = sum(
                            float(cut[n, c, k, m])
                            for k in range(max(0, i - half), min(SIZE[0], i + half + 1))
                            for m in range(max(0, j - half), min(SIZE[1], j + half + 1))
                            if (k, m) != (i, j)
                        )
                        projection[n, c, i, j] = ahead * ((total > 1e-12) - (total < -1e-12))
        projection[..., ~region] = 0
        a += projection
        at = clipped(at + ahead * g.sign() + projection)
        yield at


@pytest.mark.parametrize(("amplification", "size"), [(4.0, 3), (10.0, 3), (2.5, 5), (1.5, 1)])
def test_patchwise_spreads_what_is_cut_off(amplification: float, size: int) -> None:
    gradients = [noise(0), noise(1), noise(0) + 0.5 * noise(2)]
    expected = list(patchwise(gradients, amplification, size))
    found = list(walk(Patchwise(amplification=amplification, size=size), gradients))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)
    assert not torch.equal(found[0], found[1])


def test_patchwise_spreads_nothing_outside_the_region() -> None:
    region = torch.zeros(SIZE, dtype=torch.bool)
    region[2:5, 2:6] = True
    gradients = [noise(seed) * region for seed in range(4)]
    run = Run(Attack(threat=LInf(EPS), iterations=4), MODEL, INSIDE, Y, region=region)
    step, at = Patchwise(amplification=4).bind(run), INSIDE
    for g, expected in zip(gradients, patchwise(gradients, 4.0, 3, region), strict=True):
        at = step(at, g)
        assert torch.allclose(at, expected, rtol=0, atol=1e-12)
    assert torch.equal(at[..., ~region], INSIDE[..., ~region])


@pytest.mark.parametrize(
    ("part", "same_as"),
    [("patchwise(amplification=1, size=1)", "steepest"), ("damped(decay=1)", "steepest")],
)
@pytest.mark.parametrize("base", ["bim", "pgd", "mi", "l2 + bim"])
def test_neutral_settings_change_nothing(part: str, same_as: str, base: str) -> None:
    one, other = (read(f"{base} + {text}")(MODEL, X, Y) for text in (part, same_as))
    if base.startswith("l2"):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)
    else:
        assert torch.equal(one, other)


PARTS = (Steepest(), Proportional(), Damped(), Adam(), Adam(amsgrad=False), Adaptive(), Patchwise(), Patchwise(size=7))
each_step = pytest.mark.parametrize("part", PARTS, ids=repr)


@each_step
@pytest.mark.parametrize("threat", [LInf(EPS), L2(1.0)], ids=repr)
def test_zero_gradients_move_nothing_and_nan_stays_where_it_is(part: Step, threat: Threat) -> None:
    mask = torch.tensor([1.0, 0.0, torch.nan]).view(3, 1, 1, 1)
    gradients = [noise(seed) * mask for seed in range(4)]
    found = list(walk(part, gradients, threat))
    alone = list(walk(part, [noise(seed) for seed in range(4)], threat))
    for one, other in zip(found, alone, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], INSIDE[1])
        assert one[:2].isfinite().all()
    assert not torch.equal(found[0][0], INSIDE[0])


@each_step
@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize("threat", [LInf(EPS), LInf(0.0), LInf(1.0), L2(0.7)], ids=repr)
def test_steps_end_inside_the_budget(part: Step, threat: Threat, iterations: int) -> None:
    attack = Attack(threat=threat, step=part, iterations=iterations, step_size=0.9 * threat.radius)
    found = attack(MODEL, X, Y)
    assert (threat.distance(found, X) <= threat.radius + 1e-12).all()
    assert found.aminmax().min >= 0
    assert found.aminmax().max <= 1
    assert (found != X).any() == (threat.radius > 0)


def losses(z: Tensor) -> list[float]:
    """The objective image by image."""
    run = run_of(Attack(), X, Y, MODEL)
    run.gradient(z)
    return run.losses.tolist()


class Seen:
    """A model that remembers what it was asked."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.images.append(x.detach())
        return MODEL(x)


def ball(x: Tensor, eps: float, norm: str) -> Callable[[Tensor], Tensor]:
    def project(z: Tensor) -> Tensor:
        if norm == "L-inf":
            return torch.minimum(torch.maximum(z, x - eps), x + eps).clamp(0, 1)
        length = float((z - x).norm())
        return (x + (z - x) * min(1, eps / max(length, 1e-300))).clamp(0, 1)

    return project


def search(
    x: Tensor,
    y: Tensor,
    start: Tensor,
    eps: float,
    norm: str,
    count: int,
    rho: float,
    *,
    objective: Objective = CROSS_ENTROPY,
    track: Callable[[Tensor, Tensor], float] | None = None,
) -> tuple[Tensor, int]:
    """Auto-PGD on one image with ``count`` evaluations, in plain numbers, that goes by its objective, or by what it is
    tracked by and then returns the first point of the fewest right pixels; also how often the step was halved.
    """
    run = run_of(Attack(objective=objective), x[None], y[None], MODEL)
    project, steps = ball(x, eps, norm), count - 1
    visited: list[tuple[int, Tensor]] = []

    def evaluate(z: Tensor) -> tuple[float, Tensor]:
        g, logits = run.gradient(z[None])[0], MODEL(z[None])[0].detach()
        visited.append((int(((logits.argmax(0) == y) & (y != 255)).sum()), z))
        f = track(logits, y) if track else float(run.losses)
        return f, g.sign() if norm == "L-inf" else g / g.norm()

    f, d = evaluate(start)
    now = before = best = start
    best_f, best_d, size = f, d, 2 * eps
    period, check_f, halved, history, total = max(int(0.22 * steps), 1), f, True, [f], 0
    since = 0
    for i in range(steps):
        weight = 0.75 if i else 1.0
        z = project(now + size * d)
        following = project(now + weight * (z - now) + (1 - weight) * (now - before))
        before, now = now, following
        f, d = evaluate(now)
        history.append(f)
        if f > best_f:
            best, best_f, best_d = now, f, d
        since += 1
        if since == period:
            gains = sum(history[-k] > history[-k - 1] for k in range(1, period + 1))
            halved = gains <= rho * period or (not halved and best_f <= check_f)
            check_f, since = best_f, 0
            period = max(period - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
            if halved:
                size, now, d, total = size / 2, best, best_d, total + 1
    if steps == 0:
        best = project(now + size * d)
    return min(visited, key=lambda point: point[0])[1] if track else best, total


@pytest.mark.parametrize("threat", [LInf("20/255"), L2(1.5)], ids=repr)
@pytest.mark.parametrize(("iterations", "rho"), [(2, 0.75), (12, 0.75), (40, 0.75), (12, 0.4)])
def test_adaptive_steps_are_those_of_auto_pgd(threat: Threat, iterations: int, rho: float) -> None:
    found = Attack(threat=threat, step=Adaptive(progress=rho), iterations=iterations)(MODEL, X, Y)
    halvings = []
    for image, x, y in zip(found, X, Y, strict=True):
        expected, count = search(x, y, x, threat.radius, threat.norm, iterations, rho)
        assert torch.allclose(image, expected, rtol=0, atol=1e-9)
        halvings.append(count)
    assert iterations < 40 or (min(halvings) > 1 and len(set(halvings)) > 1), "images differ in their steps"


def entropy(logits: Tensor, y: Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits[None], y[None], ignore_index=255))


def angle(logits: Tensor, y: Tensor) -> float:
    valid = y != 255
    unit = logits / logits.norm(dim=0)
    return -float(unit.gather(0, y.where(valid, 0)[None])[0][valid].mean())


@pytest.mark.parametrize(
    ("objective", "track"), [(MaskedCrossEntropy(), entropy), (Spherical(), angle)], ids=["masked", "spherical"]
)
def test_what_accuracy_judges_is_tracked_by_all_pixels(
    objective: Objective, track: Callable[[Tensor, Tensor], float]
) -> None:
    threat, halvings = LInf("20/255"), 0
    attack = Attack(threat=threat, objective=objective, step=Adaptive(judge="accuracy"), iterations=40)
    found = attack(MODEL, X, Y)
    for image, x, y in zip(found, X, Y, strict=True):
        expected, count = search(x, y, x, threat.radius, threat.norm, 40, 0.75, objective=objective, track=track)
        assert torch.allclose(image, expected, rtol=0, atol=1e-9)
        halvings += count
    by_loss = replace(attack, step=Adaptive())(MODEL, X, Y)
    assert halvings > 1
    assert not torch.allclose(by_loss, found, rtol=0, atol=1e-3)


STAGES = ((0.3, 2.0), (0.3, 1.5), (0.4, 1.0))


@pytest.mark.parametrize("norm", ["L-inf", "L2"])
@pytest.mark.parametrize(("iterations", "lengths"), [(20, (6, 6, 8)), (10, (3, 3, 4)), (4, (1, 1, 2)), (2, (1, 0, 1))])
def test_stages_are_searches_in_shrinking_balls(norm: str, iterations: int, lengths: tuple[int, ...]) -> None:
    threat = LInf("20/255") if norm == "L-inf" else L2(1.5)
    attack = Attack(threat=threat, step=Adaptive(stages=STAGES), iterations=iterations)
    found, model = attack(MODEL, X, Y), Seen()
    radii = [2 * threat.radius, 1.5 * threat.radius, threat.radius]
    stages = [(radius, length) for radius, length in zip(radii, lengths, strict=True) if length]
    for image, x, y in zip(found, X, Y, strict=True):
        at = x
        for radius, length in stages:
            at, _ = search(x, y, ball(x, radius, norm)(at), radius, norm, length, 0.75)
        assert torch.allclose(image, at, rtol=0, atol=1e-9)
    attack(model, X, Y)
    assert len(model.images) == iterations
    limits = [radius for radius, length in stages for _ in range(length)]
    reached = [threat.distance(z, X).max() for z in model.images]
    assert all(distance <= limit + 1e-9 for distance, limit in zip(reached, limits, strict=True))
    assert iterations < 10 or reached[1] > 1.6 * threat.radius, "beyond the budget at first"
    assert (threat.distance(found, X) <= threat.radius + 1e-12).all()


@pytest.mark.parametrize("targeted", [False, True])
def test_the_best_point_is_returned(targeted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random input transformation makes the objective jump, so that the last point is hardly ever the best."""
    seen: list[tuple[Tensor, Tensor]] = []
    original = Run.gradient

    def gradient(self: Run, z: Tensor) -> Tensor:
        g = original(self, z)
        seen.append((z, self.losses))
        return g

    monkeypatch.setattr(Run, "gradient", gradient)
    attack = read("remap + adaptive + bim(iterations=15)")
    monkeypatch.setattr(type(attack.goal), "targeted", targeted)
    found = attack(MODEL, X, Y)
    assert len(seen) == 15
    for index in range(3):
        values = [float(loss[index]) for _, loss in seen]
        best = max(range(15), key=values.__getitem__)
        assert torch.equal(found[index], seen[best][0][index])
        assert (values[best] < 0) == targeted


@pytest.mark.parametrize("objective", ["maskedcrossentropy", "crossentropy"])
def test_accuracy_may_judge(objective: str) -> None:
    """Each stage leaves the first of the points with the fewest pixels right that it looked at."""
    text = f"{objective} + adaptive(stages=((0.5, 2), (0.5, 1)), judge='accuracy') + bim(iterations=20)"
    attack, model = read(text), Seen()
    found = attack(model, X, Y)
    right = torch.stack([((MODEL(z).argmax(1) == Y) & (Y != 255)).sum((1, 2)) for z in model.images])
    differs = 0
    for index in range(3):
        first, second = (min(range(a, a + 10), key=right[:, index].tolist().__getitem__) for a in (0, 10))
        assert torch.equal(model.images[10][index], attack.threat.project(model.images[first], X)[index])
        assert torch.equal(found[index], model.images[second][index])
        differs += second != 19
    assert differs, "the last point is not always the best"
    assert not torch.equal(found, read(f"{text} + {text.replace('accuracy', 'objective')}")(MODEL, X, Y))


def test_adaptive_steps_need_no_step_size_and_beat_fixed_ones() -> None:
    apgd, bim = read("adaptive + bim(iterations=30)"), read("bim(iterations=30)")
    assert torch.equal(apgd(MODEL, X, Y), replace(apgd, step_size=0.001)(MODEL, X, Y))
    ours, theirs = losses(apgd(MODEL, X, Y)), losses(bim(MODEL, X, Y))
    assert sum(ours) >= sum(theirs)


def test_a_constant_objective_leaves_adaptive_steps_in_place() -> None:
    result = read("adaptive + bim(iterations=9)").perturb(Constant(), X, Y)
    assert torch.equal(result.adversarial, X)
    assert result.stalled.all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Damped(decay=0), "Damped decay is 0; allowed are numbers from 0.01 to 1"),
        (lambda: Damped(decay=1.5), "Damped decay is 1.5; allowed are numbers from 0.01 to 1"),
        (lambda: Adam(betas=(0.9, 1.0)), r"Adam betas is \(0.9, 1.0\); allowed are two numbers from 0 to below 1"),
        (lambda: Adam(betas=(0.9,)), r"Adam betas is \(0.9,\); allowed are two numbers"),
        (lambda: Adam(floor=0), "Adam floor is 0; allowed are numbers above 0"),
        (lambda: Patchwise(size=2), "Patchwise size is 2; allowed are odd numbers from 1"),
        (lambda: Patchwise(size=0), "Patchwise size is 0; allowed are whole numbers from 1"),
        (lambda: Patchwise(amplification=-1), "Patchwise amplification is -1; allowed are numbers from 0"),
        (lambda: Adaptive(momentum=1.1), "Adaptive momentum is 1.1; allowed are numbers from 0 to 1"),
        (lambda: Adaptive(progress=math.nan), "Adaptive progress is nan; allowed are numbers from 0 to 1"),
        (lambda: Adaptive(stages=()), r"Adaptive stages is \(\); allowed are pairs"),
        (lambda: Adaptive(judge="x"), "Adaptive judge is 'x'; allowed are 'objective' and 'accuracy'"),
        (lambda: Adaptive(stages=((1, 2),)), "Adaptive stages is .*; allowed are pairs"),
        (lambda: Adaptive(stages=((0.5, 2), (0.4, 1))), "Adaptive stages is .*; allowed are pairs"),
        (lambda: Adaptive(stages=((1.5, 2), (-0.5, 1))), "Adaptive stages is .*; allowed are pairs"),
        (lambda: Adaptive(stages=((0.5, 2, 1), (0.5, 1))), "Adaptive stages is .*; allowed are pairs"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        make()


def test_stages_can_be_spelled() -> None:
    found = read("adaptive(stages=((0.3, 2), (0.3, 1.5), (0.4, 1)))")
    assert found.step == Adaptive(stages=STAGES)
