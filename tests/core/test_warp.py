"""Warps, against a spline solved from scratch and, where they first go downhill, against finite differences."""

import math
from dataclasses import replace

import pytest
import torch
from pixel_by_pixel import X, Y, picture
from torch import Tensor
from torch.nn import functional as F

from segtrans.attack import Attack
from segtrans.catalogue import attack as read
from segtrans.data.base import VOID
from segtrans.goals import Goal, Towards, Untargeted
from segtrans.transforms import Warp
from toys import Context, dense, draw, images, labels, run_of


def spline(part: Warp, x: Tensor, y: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
    """The interpolating thin-plate spline from mesh points to where they read, solved and evaluated from scratch."""
    height, width = y.shape
    line = [-1 + 2 * k / (part.mesh - 1) for k in range(part.mesh)]
    points = [(r, c) for r in line for c in line]
    targets, inner = [], 0
    for r, c in points:
        if abs(r) < 1 - 1e-9 and abs(c) < 1 - 1e-9:
            targets.append((r + float(moves[inner, 0]), c + float(moves[inner, 1])))
            inner += 1
        else:
            targets.append((r, c))

    def bend(p: tuple[float, float], q: tuple[float, float]) -> float:
        squared = (p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2
        return squared * math.log(squared) if squared else 0.0

    rows = [[bend(p, q) for q in points] + [1, *p] for p in points]
    rows += [[p[k - 1] if k else 1 for p in points] + [0, 0, 0] for k in range(3)]
    system = torch.tensor(rows, dtype=torch.float64)
    factors = torch.linalg.inv(system) @ torch.tensor([*targets, (0, 0), (0, 0), (0, 0)], dtype=torch.float64)

    def source(row: int, col: int) -> tuple[float, float] | None:
        p = (-1 + 2 * row / (height - 1), -1 + 2 * col / (width - 1))
        basis = torch.tensor([bend(p, q) for q in points] + [1, *p], dtype=torch.float64)
        r, c = (basis @ factors).tolist()
        r, c = (r + 1) / 2 * (height - 1), (c + 1) / 2 * (width - 1)
        return (r, c) if -0.5 <= r <= height - 0.5 and -0.5 <= c <= width - 0.5 else None

    return picture(x, y, source)


@pytest.mark.parametrize("part", [Warp(), Warp(mesh=4, reach=0.5), Warp(mesh=5, reach=0.2)], ids=repr)
def test_warp_is_a_thin_plate_spline(part: Warp) -> None:
    x, y = X[:3], Y[:3]
    image, label = part(x, y, draw(3, seed=4))
    numbers, inner = draw(3, seed=4), (part.mesh - 2) ** 2
    moves = torch.cat([numbers.uniform(inner, 1, 1, low=-part.reach, high=part.reach) for _ in range(2)], -1)[:, :, 0]
    for i in range(3):
        theirs, their = spline(part, x[i], y[i], moves[i])
        assert (image[i] - theirs).abs().max() <= 1e-9
        assert torch.equal(label[i], their)
    assert VOID in label[y != VOID], "some of it leaves the image"


def test_warp_holds_the_border_points_and_moves_the_centre() -> None:
    size, count = (9, 13), 30
    places = torch.stack(torch.meshgrid(*(torch.arange(s).double() for s in size), indexing="ij")) / 20
    x = torch.cat([places, torch.ones_like(places[:1])]).expand(count, -1, -1, -1)
    image, _ = Warp(reach=0.5)(x, dense(count, size), draw(count))
    for r in (0, 4, 8):
        for c in (0, 6, 12):
            if (r, c) != (4, 6):
                assert torch.allclose(image[:, :, r, c], x[:, :, r, c])
    numbers = draw(count)
    for channel, side in ((0, 8), (1, 12)):
        moved = numbers.uniform(1, 1, 1, low=-0.5, high=0.5).flatten() * side / 2
        assert torch.allclose(20 * image[:, channel, 4, 6], side / 2 + moved)


@pytest.mark.parametrize("goal", [Untargeted(), Towards()], ids=["away", "towards"])
def test_warps_first_go_downhill(goal: Goal) -> None:
    """Each copy's points move against the slope of its own loss, found by differences; then the gradient is taken."""
    part, model, size = Warp(copies=2, descent=0.4), Context().requires_grad_(False), (7, 8)
    x, y = images(2, size), labels(2, size, block=3)
    attack = Attack(goal=goal, transforms=(part,))
    run, expected, moved = run_of(attack, x, y, model), torch.zeros_like(x), []
    run._gradients_this_iteration = (0, 1)
    sign = -1 if goal.targeted else 1
    for copy in range(2):
        numbers = run.draw(1, run.items(2 * copy, 2 * copy + 2))
        moves = torch.cat([numbers.uniform(1, 1, 1, low=-1, high=1) for _ in range(2)], -1)[:, :, 0]
        for i in range(2):

            def loss(image: Tensor, point: Tensor, i: int = i) -> Tensor:
                shown, its = spline(part, image, y[i], point)
                return sign * F.cross_entropy(model(shown[None]), its[None], ignore_index=VOID)

            steps = 1e-6 * torch.eye(2, dtype=torch.float64)
            slope = [float(loss(x[i], moves[i] + h) - loss(x[i], moves[i] - h)) / 2e-6 for h in steps]
            moved.append(0.4 * torch.tensor(slope, dtype=torch.float64))
            leaf = x[i].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(leaf, moves[i] - moved[-1]), leaf)
            expected[i] += gradient / 2
    assert torch.stack(moved).abs().max() > 0.05
    found = run_of(attack, x, y, model).gradient(x)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-8)
    assert not torch.allclose(run_of(replace(attack, transforms=(Warp(copies=2),)), x, y, model).gradient(x), expected)


def test_a_descent_of_nothing_is_none() -> None:
    one, other = (read(f"warp(descent={d}) + bim").perturb(Context(), X[:2], Y[:2]) for d in (0, 1e-300))
    assert torch.equal(one.adversarial, other.adversarial)
    assert (one.evaluations, other.evaluations) == (10, 20)


def test_clean_views_are_warped_as_the_attacked_ones_are() -> None:
    """At the clean image both views are the same, wherever the points have gone."""
    attack = read("fspgd(iterations=2) + warp(descent=0.5)")
    run = run_of(attack, X[:2], Y[:2], Context())
    run.iteration = 2
    run.gradient(run.x)
    assert torch.allclose(run.losses, -torch.ones(2, dtype=torch.float64))


def test_other_copies_are_compared_with_as_they_were_drawn() -> None:
    """What was found for a copy's own points is not for those of the copy it is compared with."""
    seen: list[Tensor] = []

    class Watched(Context):
        def forward(self, x: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                seen.append(x)
            return super().forward(x)

    run = run_of(read("copysimilarity + warp(copies=2, descent=0.5)"), X[:2], Y[:2], Watched())
    run.gradient(run.x)
    # The first no-gradient pass finds the layer; then come, copy by copy, one before the descent and one after it.
    assert len(seen) == 5
    for number, image in enumerate(seen[1:]):
        copy = 1 - number // 2
        other = run.draw(1, run.items(2 * copy, 2 * copy + 2))
        assert torch.equal(image, Warp(copies=2)(run.x, run.y, other)[0])
