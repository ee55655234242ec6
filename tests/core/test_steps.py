"""Update rules, each against a second implementation that goes value by value or image by image."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from segtrans.attack import Attack
from segtrans.catalogue import attack as read
from segtrans.errors import UsageError
from segtrans.run import Run
from segtrans.steps import Adam, Adaptive, Damped, Patchwise, Proportional, Steepest, Step
from segtrans.threat import L2, LInf, Threat
from toys import Context, images, labels, run_of

SIZE = (7, 9)
X, Y = images(3, SIZE), labels(3, SIZE, block=3)
# Far from the box, where the numbers of a formula can be followed.
INSIDE = 0.4 + 0.2 * X
EPS = 8 / 256
MODEL = Context()


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Damped(decay=0), "Damped decay is 0; allowed are numbers from 0.01 to 1"),
        (lambda: Damped(decay=1.5), "Damped decay is 1.5; allowed are numbers from 0.01 to 1"),
        (lambda: Adam(betas=(0.9, 1.0)), r"Adam betas is \(0.9, 1.0\); allowed are two numbers from 0 to below 1"),
        (lambda: Adam(betas=(0.9,)), r"Adam betas is \(0.9,\); allowed are two numbers"),
        (lambda: Adam(floor=0), "Adam floor is 0; allowed are numbers above 0"),
        (lambda: Patchwise(size=2), "Patchwise size is 2; allowed are odd numbers from 1"),
        (lambda: Patchwise(size=0), "Patchwise size is 0; allowed are odd numbers from 1"),
        (lambda: Patchwise(amplification=-1), "Patchwise amplification is -1; allowed are numbers from 0"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        make()
