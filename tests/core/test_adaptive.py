"""Steps whose length follows progress, against a second implementation that goes image by image."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from segtrans.attack import Attack
from segtrans.catalogue import attack as read
from segtrans.errors import UsageError
from segtrans.objectives import CrossEntropy, MaskedCrossEntropy, Objective, Spherical
from segtrans.run import Run
from segtrans.steps import Adaptive
from segtrans.threat import L2, LInf, Threat
from toys import Constant, Context, images, labels, run_of

SIZE = (7, 9)
X, Y = images(3, SIZE), labels(3, SIZE, block=3)
MODEL = Context()
CROSS_ENTROPY = CrossEntropy()


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
