"""Transformations that move pixels, against a second, plain way of doing the same with the same random numbers."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from pixel_by_pixel import picture
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import functional as TF

from segtrans.attack import Attack
from segtrans.catalogue import ENTRIES, PARTS
from segtrans.catalogue import attack as read
from segtrans.data.base import VOID
from segtrans.errors import UsageError
from segtrans.goals import Goal, Towards, Untargeted
from segtrans.random import Draw
from segtrans.transforms import (
    CellMask,
    Chain,
    Crop,
    Operators,
    Rescale,
    Resize,
    Rotate,
    Scale,
    Shuffle,
    Structure,
    Transform,
    Warp,
)
from toys import Context, dense, draw, images, labels, parts_of, run_of

SIZE = (9, 14)
COUNT = 6
X, Y = images(COUNT, SIZE), labels(COUNT, SIZE, block=3)
SIDES = ("vertical_roll", "horizontal_roll", "vertical_flip", "horizontal_flip", "half_turn", "darken", "noise")


def tail(numbers: Tensor) -> list[int]:
    return [round(float(number)) for number in numbers]


def turned(x: Tensor, y: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """A piece turned about its centre; a position is on the piece up to half a pixel beyond its outer centres."""
    height, width = y.shape

    def source(row: int, col: int) -> tuple[float, float] | None:
        down, right = row - (height - 1) / 2, col - (width - 1) / 2
        r = (height - 1) / 2 + down * math.cos(angle) - right * math.sin(angle)
        c = (width - 1) / 2 + down * math.sin(angle) + right * math.cos(angle)
        return (r, c) if -0.5 <= r <= height - 0.5 and -0.5 <= c <= width - 0.5 else None

    return picture(x, y, source)


def lengths(size: int, weights: Tensor) -> list[int]:
    """Lengths of blocks whose borders are rounded from their exact places."""
    ends = [0, *tail((weights.cumsum(0) / weights.sum() * size).round())]
    return [end - start for start, end in pairwise(ends)]


def shuffled(part: Shuffle, x: Tensor, y: Tensor, numbers: Draw) -> list[tuple[Tensor, Tensor]]:
    """Split, turn, shuffle, split, shuffle and join, as the paper says it."""
    n = part.blocks
    columns_first = numbers.chance(0.5, 1, 1).flatten()
    first, second = numbers.uniform(1, n, low=1, high=2)[:, 0], numbers.uniform(n, n, low=1, high=2)
    order, inner = numbers.uniform(1, n)[:, 0], numbers.uniform(n, n)
    angles = math.radians(part.angle) * numbers.uniform(n, low=-1, high=1)
    found = []
    for i in range(len(x)):
        along = 2 if columns_first[i] else 1
        both = torch.cat([x[i], y[i, None].double()])
        strips = list(both.split(lengths(both.shape[along], first[i]), along))
        for k, strip in enumerate(strips):
            # Turning in the strip's own axes: for strips of columns that is the other way round.
            image, label = turned(strip[:3], strip[3].long(), float(angles[i, k]) * (-1 if along == 2 else 1))
            strip = torch.cat([image, label[None].double()])
            pieces = strip.split(lengths(strip.shape[3 - along], second[i, k]), 3 - along)
            strips[k] = torch.cat([pieces[j] for j in inner[i, k].argsort()], 3 - along)
        joined = torch.cat([strips[j] for j in order[i].argsort()], along)
        found.append((joined[:3], joined[3].long()))
    return found


@pytest.mark.parametrize("part", [Shuffle(), Shuffle(blocks=2, angle=0.0), Shuffle(blocks=4, angle=70.0)], ids=repr)
def test_shuffle_splits_turns_and_joins(part: Shuffle) -> None:
    image, label = part(X, Y, draw(COUNT, seed=1))
    expected = shuffled(part, X, Y, draw(COUNT, seed=1))
    for i, (theirs, their) in enumerate(expected):
        assert torch.equal(label[i], their)
        assert (image[i] - theirs).abs().max() <= (0 if part.angle == 0 else 1e-12)


def ids(size: tuple[int, int], count: int) -> Tensor:
    return torch.arange(size[0] * size[1]).view(1, *size).expand(count, -1, -1) + 1000


@pytest.mark.parametrize("size", [SIZE, (21, 8), (2, 30), (1, 1)])
def test_shuffling_without_turning_keeps_every_pixel(size: tuple[int, int]) -> None:
    x, y = images(4, size), ids(size, 4)
    for seed in range(3):
        _, label = Shuffle(angle=0.0)(x, y, draw(4, seed=seed))
        assert torch.equal(label.flatten(1).sort(1).values, y.flatten(1))


def test_shuffle_cuts_either_axis_first_with_lengths_within_bounds() -> None:
    """Weights in [1, 2) make no third shorter than a fifth or longer than a half of the whole."""
    size, count = (60, 60), 100
    y = ids(size, count) - 1000
    _, label = Shuffle(angle=0.0)(images(1, size).expand(count, -1, -1, -1), y, draw(count))
    rows, cols = label // 60, label % 60
    # Strips of rows keep whole rows together: what shares a row now shared one before.
    by_rows = (rows == rows[:, :, :1]).flatten(1).all(1)
    by_cols = (cols == cols[:, :1]).flatten(1).all(1)
    assert (by_rows | by_cols).all()
    # Both where the pieces of all strips stay in order, once in 216.
    assert (by_rows & by_cols).sum() < 5
    assert 0.4 < by_rows.double().mean() < 0.6
    for item in rows[by_rows, :, 0]:
        jumps = [0, *((item.diff() != 1).nonzero()[:, 0] + 1).tolist(), 60]
        assert all(end - start >= 11 for start, end in pairwise(jumps))
        assert len(jumps) <= 4


@pytest.mark.parametrize("angle", [20.0, 90.0, 180.0])
def test_rotate_turns_like_torchvision(angle: float) -> None:
    numbers = draw(COUNT, seed=3).uniform(1, 1, low=-1, high=1).flatten()
    image, label = Rotate(angle=angle)(X, Y, draw(COUNT, seed=3))
    for i in range(COUNT):
        theirs, their = turned(X[i], Y[i], math.radians(angle) * float(numbers[i]))
        assert (image[i] - theirs).abs().max() <= 1e-12
        assert torch.equal(label[i], their)
        both = torch.cat([X[i], torch.ones(1, *SIZE, dtype=torch.float64)])
        # Theirs turns the other way.
        opinion = TF.rotate(both, -angle * float(numbers[i]), TF.InterpolationMode.BILINEAR)
        # It fades to black over the border's pixel, we do not.
        full = opinion[3] > 1 - 1e-6
        assert full.sum() > 30
        assert (opinion[:3] - image[i])[:, full].abs().max() < 1e-5


def structured(part: Structure, x: Tensor, y: Tensor, numbers: Draw) -> list[tuple[Tensor, Tensor]]:
    """One block after the other."""
    n, (height, width) = part.blocks, y.shape[1:]
    row_numbers, col_numbers = numbers.uniform(height), numbers.uniform(width)
    operation = numbers.integers(torch.full((len(x), n, n), len(part.operations)))
    amount = numbers.uniform(n, n)
    noise = numbers.uniform(3, height, width, low=-part.noise, high=part.noise) if "noise" in part.operations else None
    found = []
    for i in range(len(x)):
        image, label = x[i].clone(), y[i].clone()
        edges = []
        for numbers_of_axis in (row_numbers[i], col_numbers[i]):
            cuts = sorted((numbers_of_axis[1:].argsort() + 1).tolist()[: n - 1])
            edges.append([0, *cuts, len(numbers_of_axis)])
        for r, (top, bottom) in enumerate(pairwise(edges[0])):
            for c, (left, right) in enumerate(pairwise(edges[1])):
                here = (slice(top, bottom), slice(left, right))
                block, its = x[i][:, *here], y[i][here]
                name, size = part.operations[operation[i, r, c]], float(amount[i, r, c])
                if name.endswith("roll"):
                    axis = 0 if name == "vertical_roll" else 1
                    by = int(size * its.shape[axis])
                    block, its = block.roll(by, axis + 1), its.roll(by, axis)
                elif name == "vertical_flip":
                    block, its = block.flip(1), its.flip(0)
                elif name == "horizontal_flip":
                    block, its = block.flip(2), its.flip(1)
                elif name == "half_turn":
                    block, its = block.rot90(2, (1, 2)), its.rot90(2, (0, 1))
                elif name == "darken":
                    block = block * size
                else:
                    block = (block + noise[i][:, *here]).clamp(0, 1)
                image[:, *here], label[here] = block, its
        found.append((image, label))
    return found


@pytest.mark.parametrize(
    "part",
    [
        Structure(),
        Structure(blocks=5, noise=0.5),
        Structure(blocks=1),
        *(Structure(blocks=2, operations=(name,)) for name in SIDES),
        Structure(operations=("half_turn", "vertical_roll", "darken")),
    ],
    ids=repr,
)
def test_structure_changes_block_by_block(part: Structure) -> None:
    image, label = part(X, Y, draw(COUNT, seed=2))
    for i, (theirs, their) in enumerate(structured(part, X, Y, draw(COUNT, seed=2))):
        assert torch.equal(image[i], theirs)
        assert torch.equal(label[i], their)
    assert not torch.equal(image, X)


def test_structure_draws_all_operations_alike_and_all_cuts() -> None:
    count, size = 400, (12, 7)
    part = Structure(blocks=2, operations=("darken", "noise"), noise=0.0)
    white = torch.ones(count, 3, *size, dtype=torch.float64)
    image, _ = part(white, dense(count, size), draw(count))
    left_alone = (image[:, 0] == 1).double()
    assert float(left_alone[:, 0, 0].mean()) == pytest.approx(0.5, abs=0.08)
    _, label = Structure(blocks=2, operations=("vertical_flip",))(white, ids(size, count), draw(count))
    # The first row comes from the last row of the first block.
    ends = set(((label[:, 0, 0] - 1000) // 7 + 1).tolist())
    assert ends == set(range(1, 12))


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
        numbers = run.draw(1, torch.full((2,), copy))
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
        other = run.draw(1, torch.full((2,), 1 - number // 2))
        assert torch.equal(image, Warp(copies=2)(run.x, run.y, other)[0])


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


@pytest.mark.parametrize("part", [Crop(), Crop(area=(0.02, 0.1), ratio=(0.3, 3.0)), Crop(whole_first=True)], ids=repr)
def test_crop_enlarges_a_window(part: Crop) -> None:
    height, width = SIZE
    for copy in (0, 1):
        image, label = part(X, Y, draw(COUNT, seed=5, copy=copy))
        if part.whole_first and copy == 0:
            assert torch.equal(image, X)
            assert torch.equal(label, Y)
            continue
        numbers = draw(COUNT, seed=5, copy=copy)
        area = numbers.uniform(low=part.area[0], high=part.area[1])
        ratio = part.ratio[0] * (part.ratio[1] / part.ratio[0]) ** numbers.uniform()
        tall = (height * (area / ratio).sqrt()).round().clamp(1, height)
        wide = (width * (area * ratio).sqrt()).round().clamp(1, width)
        top = (numbers.uniform() * (height + 1 - tall)).floor()
        left = (numbers.uniform() * (width + 1 - wide)).floor()
        for i, (t, l, h, w) in enumerate(zip(*map(tail, (top, left, tall, wide)), strict=True)):
            window, its = X[i, :, t : t + h, l : l + w], Y[i, t : t + h, l : l + w]
            theirs = torch.nn.functional.interpolate(window[None], SIZE, mode="bilinear", align_corners=False)[0]
            assert (image[i] - theirs).abs().max() <= 1e-12
            for row in range(height):
                for col in range(width):
                    # Half-way between two pixels is nearest to both.
                    r, c = (row + 0.5) * h / height - 0.5, (col + 0.5) * w / width - 0.5
                    near = its[max(0, math.ceil(r - 0.500001)) : int(r + 1.500001)]
                    near = near[:, max(0, math.ceil(c - 0.500001)) : int(c + 1.500001)]
                    assert label[i, row, col] in near


def test_what_is_beneath_a_perturbation_is_cropped_without_it() -> None:
    part = Crop(area=(0.2, 0.4), beneath=True)
    run = run_of(Attack(transforms=(Resize(probability=1.0), part)), X, Y)
    places, copy = torch.arange(COUNT), torch.zeros(COUNT, dtype=torch.int64)
    noise = 0.1 * images(COUNT, SIZE, seed=3)
    shown, its = run._transformed(X + noise, places, copy)
    clean, their = run._transformed(X, places, copy)
    small, small_labels = Resize(probability=1.0)(X, Y, run.draw(1, copy))
    content, cropped = part(small, small_labels, run.draw(2, copy))
    shrunk, _ = Resize(probability=1.0)(X + noise, Y, run.draw(1, copy))
    assert torch.equal(clean, content)
    assert (shown - (content + shrunk - small)).abs().max() <= 1e-12
    assert torch.equal(its, cropped)
    assert torch.equal(their, cropped)


OPERATORS: list[tuple[str, float]] = [
    *((name, 0) for name in ("nothing", "flip rows", "roll rows", "flip columns", "roll columns")),
    *(("turn", degrees) for degrees in (5, -5, 15, -15, 45, -45, 90, -90, 180)),
    *(("darken", divisor) for divisor in range(2, 9)),
    *(("shrink", 1 + k / 10) for k in range(1, 20, 2)),
]


@pytest.mark.parametrize(
    "part", [Operators(), Operators(shortest=1, length=1), Operators(shortest=0, length=2)], ids=repr
)
def test_operators_one_after_the_other(part: Operators) -> None:
    """From what is shown back to the image, position by position; what leaves the picture anywhere is black."""
    count, (height, width) = 40, SIZE
    x, y = images(count, SIZE), labels(count, SIZE, block=3)
    image, label = part(x, y, draw(count, seed=8))
    numbers = draw(count, seed=8)
    lengths = part.shortest + (numbers.uniform() * (part.length - part.shortest + 1)).floor()
    chains = [((31 * numbers.uniform()).long(), *(numbers.uniform() for _ in range(3))) for _ in range(part.length)]
    used = set()
    for i in range(count):
        links = [(OPERATORS[int(c[0][i])], *(float(n[i]) for n in c[1:])) for c in chains[: int(lengths[i])]]
        used |= {link[0][0] for link in links}

        def source(row: int, col: int, links: list = links) -> tuple[float, float] | None:
            place, sizes = [float(row), float(col)], (height, width)
            for (name, amount), size, *chance in links:
                if name == "turn":
                    angle, down, right = math.radians(amount), place[0] - (height - 1) / 2, place[1] - (width - 1) / 2
                    place[0] = (height - 1) / 2 + down * math.cos(angle) - right * math.sin(angle)
                    place[1] = (width - 1) / 2 + down * math.sin(angle) + right * math.cos(angle)
                for axis, (length, luck) in enumerate(zip(sizes, chance, strict=True)):
                    if name == ("flip rows", "flip columns")[axis]:
                        place[axis] = length - 1 - place[axis]
                    if name == ("roll rows", "roll columns")[axis]:
                        place[axis] = (place[axis] + 0.5 - math.floor(luck * length)) % length - 0.5
                    if name == "shrink":
                        small = max(1, round((1 / amount + (1 - 1 / amount) * size) * length))
                        start = math.floor(luck * (length + 1 - small))
                        place[axis] = (place[axis] - start + 0.5) * length / small - 0.5
                if not all(-0.5 - 1e-9 <= p <= n - 0.5 + 1e-9 for p, n in zip(place, sizes, strict=True)):
                    return None
            return place[0], place[1]

        theirs, their = picture(x[i], y[i], source)
        for (name, amount), *_ in links:
            theirs = theirs / amount if name == "darken" else theirs
        close = (image[i] - theirs).abs().amax(0) <= 1e-9
        # Places exactly on an edge, or half-way between two pixels, are a matter of rounding.
        assert close.double().mean() > 0.97
        assert (label[i] == their).double().mean() > 0.9
    assert part.length < 4 or {name for name, _ in OPERATORS} == used


def test_operators_are_what_libraries_call_by_their_names() -> None:
    """Of single operators those that need no interpolation, on square images."""
    count, side = 400, 8
    x, y = images(count, (side, side)), dense(count, (side, side))
    image, label = Operators(shortest=1, length=1)(x, y, draw(count))
    numbers = draw(count)
    numbers.uniform()
    drawn = (31 * numbers.uniform()).long()
    numbers.uniform()
    far = [(side * numbers.uniform()).floor().long() for _ in range(2)]
    seen = drawn.bincount(minlength=31)
    assert seen.min() > 2
    for i, kind in enumerate(drawn.tolist()):
        rolled = [int(n[i]) for n in far]
        known = {
            0: lambda t: t,
            1: lambda t: t.flip(-2),
            2: lambda t, n=rolled[0]: t.roll(n, -2),
            3: lambda t: t.flip(-1),
            4: lambda t, n=rolled[1]: t.roll(n, -1),
            11: lambda t: t.rot90(-1, (-2, -1)),
            12: lambda t: t.rot90(1, (-2, -1)),
            13: lambda t: t.rot90(2, (-2, -1)),
        }
        if kind in known:
            assert torch.equal(label[i], known[kind](y[i]))
            assert (image[i] - known[kind](x[i])).abs().max() <= 1e-12
        if 14 <= kind < 21:
            assert torch.equal(label[i], y[i])
            assert (image[i] - x[i] / (kind - 12)).abs().max() <= 1e-12
        if kind > 20:
            # What shrinks by the most has the least left of it.
            assert ((label[i] != VOID).double().mean() + 0.02) ** 0.5 >= 1 / (1.1 + 0.2 * (kind - 21)) - 1 / side


def test_crops_have_the_share_and_shape_they_should() -> None:
    size, count = (60, 120), 200
    y = ids(size, count) - 1000
    x = torch.zeros(1, 3, *size, dtype=torch.float64).expand(count, -1, -1, -1)
    _, label = Crop(area=(0.1, 0.4), ratio=(0.5, 2.0))(x, y, draw(count))
    tall = label.amax((1, 2)) // 120 - label.amin((1, 2)) // 120 + 1
    wide = (label % 120).amax((1, 2)) - (label % 120).amin((1, 2)) + 1
    share, ratio = tall * wide / 7200, (wide / 120) / (tall / 60)
    assert share.min() > 0.085
    assert share.max() < 0.43
    assert float(share.mean()) == pytest.approx(0.25, abs=0.02)
    assert ratio.min() > 0.45
    assert ratio.max() < 2.2
    assert float(ratio.log().mean()) == pytest.approx(0, abs=0.08)
    assert set((label.amin((1, 2)) % 120 == 0).tolist()) == {True, False}


@pytest.mark.parametrize(
    "part", [CellMask(), CellMask(grid=3, kept=1, fill=(0.0, 0.5, 1.0), whole_first=True)], ids=repr
)
def test_cellmask_shows_some_cells(part: CellMask) -> None:
    height, width = SIZE
    for copy in (0, 1):
        image, label = part(X, Y, draw(COUNT, seed=6, copy=copy))
        numbers = draw(COUNT, seed=6, copy=copy).uniform(part.grid**2)
        for i in range(COUNT):
            kept = numbers[i].argsort()[: part.kept].tolist()
            for row in range(height):
                for col in range(width):
                    cell = row * part.grid // height * part.grid + col * part.grid // width
                    shown = cell in kept or (part.whole_first and copy == 0)
                    colour = X[i, :, row, col] if shown else torch.tensor(part.fill, dtype=torch.float64)
                    assert torch.equal(image[i, :, row, col], colour)
                    assert label[i, row, col] == (Y[i, row, col] if shown else VOID)


class Always(Draw):
    """Says yes to every chance without drawing."""

    def chance(self, probability: float, *shape: int) -> Tensor:
        return torch.ones(len(self), *shape, dtype=torch.bool)


def link(name: str, x: Tensor, y: Tensor, numbers: Draw) -> tuple[Tensor, Tensor]:
    """One operation on the whole batch."""
    if name == "darken":
        numbers.copy = numbers.integers(torch.full((len(x),), 5))
        return Scale()(x, y, numbers)
    if name == "resize":
        # Resize also draws whether to change an image.
        numbers.__class__ = Always
        try:
            return Resize(scale=(0.65, 1.0), probability=1.0)(x, y, numbers)
        finally:
            numbers.__class__ = Draw
    parts = {
        "rotate": Rotate(angle=180.0),
        "shuffle": Shuffle(blocks=5, angle=0.0),
        "crop": Crop(),
        "mask": CellMask(kept=15, fill=(0.0, 0.0, 0.0)),
    }
    return (x, y) if name == "identity" else parts[name](x, y, numbers)


@pytest.mark.parametrize(
    "part",
    [
        Chain(length=4),
        *(
            Chain(length=1, operations=(name,))
            for name in ("rotate", "resize", "shuffle", "crop", "mask", "darken", "identity")
        ),
    ],
    ids=repr,
)
def test_chain_is_one_transformation_after_the_other(part: Chain) -> None:
    count, size = 12, (13, 10)
    x, y = images(count, size), labels(count, size, block=3)
    image, label = part(x, y, draw(count, seed=7))
    numbers, used = draw(count, seed=7), set()
    # Void from the start goes by another number, so that VOID is what the links leave empty.
    y = y.where(y != VOID, 77)
    for _ in range(part.length):
        drawn = numbers.integers(torch.full((count,), len(part.operations))).tolist()
        changed = [link(name, x, y, numbers) for name in part.operations]
        x, y = (torch.stack([changed[k][which][i] for i, k in enumerate(drawn)]) for which in (0, 1))
        x = x * (y != VOID)[:, None]
        used |= {*drawn}
    assert torch.equal(label, y.where(y != 77, VOID))
    assert (image - x).abs().max() <= 1e-12
    assert len(used) == len(part.operations)


MOVING: tuple[Transform, ...] = (
    Shuffle(),
    Structure(operations=SIDES[:5]),
    Warp(),
    Warp(mesh=5, reach=0.4),
    Crop(),
    Rotate(angle=180.0),
    CellMask(fill=(0.0, 0.0, 0.0)),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [(65, 97), (40, 23), (7, 5)], ids=str)
@pytest.mark.parametrize("part", MOVING, ids=repr)
def test_labels_come_from_where_pixels_do(part: Transform, size: tuple[int, int], dtype: torch.dtype) -> None:
    """Every pixel carries its row and column as colour and its number as label."""
    y = ids(size, 3)
    rows, cols = (torch.arange(side, dtype=dtype) / 100 for side in size)
    places = torch.stack(torch.broadcast_tensors(rows[:, None], cols, torch.ones((), dtype=dtype)))
    for seed in range(3):
        image, label = part(places.expand(3, -1, -1, -1), y, draw(3, seed=seed, dtype=dtype))
        inside = label != VOID
        assert (image.abs().amax(1)[inside] > 0.99).all()
        assert (image[:, 2] == 0)[~inside].all()
        assert inside.double().mean() > 0.3
        label -= 1000
        assert ((100 * image[:, 0] - label // size[1]).abs()[inside] <= 0.5 + 1e-4).all()
        assert ((100 * image[:, 1] - label % size[1]).abs()[inside] <= 0.5 + 1e-4).all()


@pytest.mark.parametrize("part", [part for part in parts_of(Transform).values() if part is not Rescale])
def test_labels_can_be_left_behind_as_classifiers_do(part: type[Transform]) -> None:
    """The surrogate is shown the same images with the labels of the image as it was."""
    places, last = torch.arange(COUNT), torch.full((COUNT,), part().copies - 1)
    runs = [run_of(Attack(transforms=(t,)), X, Y) for t in (part(), part(labels="keep"))]
    (image, label), (same, behind) = (run._transformed(X, places, last) for run in runs)
    assert torch.equal(image, same)
    assert torch.equal(behind, Y)
    assert not torch.equal(label, Y) or not part.moves


@pytest.mark.parametrize("base", ["shuffle + mi", "resize(probability=1) + segpgd", "cellmask + bim"])
def test_labels_left_behind_make_another_attack(base: str) -> None:
    keep = base.replace(")", ", labels='keep')", 1) if ")" in base else base.replace(" ", "(labels='keep') ", 1)
    assert not torch.equal(read(keep)(Context(), X[:2], Y[:2]), read(base)(Context(), X[:2], Y[:2]))


NEUTRAL = (
    "shuffle(blocks=1, angle=0)",
    "structure(blocks=1, operations=('noise',), noise=0)",
    "warp(reach=0)",
    "warp(mesh=5, reach=0)",
    "crop(area=(1, 1), ratio=(1, 1))",
    "crop(whole_first=True)",
    "cellmask(kept=16)",
    "cellmask(whole_first=True)",
    "rotate(angle=0)",
    "chain(operations=('identity',), length=3)",
    "operators(shortest=0, length=0)",
)


@pytest.mark.parametrize("neutral", NEUTRAL)
def test_neutral_settings_are_neutral(neutral: str) -> None:
    (part,) = read(neutral).transforms
    for dtype in (torch.float32, torch.float64):
        image, label = part(X.to(dtype), Y, draw(COUNT, dtype=dtype))
        assert torch.equal(image, X.to(dtype))
        assert torch.equal(label, Y)
    model = Context()
    # Where nothing moves, labels that stay are where labels that move would be.
    for spelling in (neutral, f"{neutral[:-1]}, labels='keep')"):
        for base in ("bim", "segpgd + mi"):
            assert torch.equal(read(f"{spelling} + {base}")(model, X[:2], Y[:2]), read(base)(model, X[:2], Y[:2]))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 3)])
@pytest.mark.parametrize(
    "part", [*MOVING, Structure(blocks=5), Shuffle(blocks=6), Warp(mesh=6), CellMask(kept=1)], ids=repr
)
def test_images_smaller_than_the_blocks(part: Transform, size: tuple[int, int]) -> None:
    x = images(3, size).requires_grad_()
    image, label = part(x, dense(3, size), draw(3))
    (gradient,) = torch.autograd.grad(image.sum(), x)
    assert image.isfinite().all()
    assert gradient.isfinite().all()
    assert label.shape == (3, *size)


@pytest.mark.parametrize(
    ("name", "evaluations"),
    [("bsr", 20), ("sia", 20), ("decowa", 40), ("su", 2), ("everywhere-attack", 10), ("l2t", 20), ("ops", 901)],
)
def test_entries_spend_what_they_say(name: str, evaluations: int) -> None:
    seen: list[int] = []

    class Counted(Context):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                seen.append(len(x))
            return super().forward(x)

    attack = read(f"{name}(iterations=2)")
    assert attack.evaluations_per_iteration == evaluations
    result = attack.perturb(Counted(), X[:1], Y[:1], chunk=16)
    assert sum(seen) == result.evaluations == attack.evaluations == 2 * evaluations
    assert max(seen) == min(16, attack.copies), "never more at once, however many there are"
    assert read(f"{name} + remap + mi").evaluations_per_iteration == evaluations
    assert ENTRIES[name].family == "input"


def test_parts_are_registered_and_their_base_is_not() -> None:
    assert {"shuffle", "structure", "warp", "crop", "cellmask", "rotate", "chain", "operators"} <= set(PARTS)
    assert "displacement" not in PARTS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shuffle(blocks=0)", "Shuffle blocks is 0; allowed are whole numbers from 1"),
        ("shuffle(angle=-1)", "Shuffle angle is -1; allowed are degrees from 0 to 180"),
        ("rotate(angle=181)", "Rotate angle is 181; allowed are degrees"),
        ("shuffle(labels='stay')", "Shuffle labels is 'stay'; allowed are 'move' and 'keep'"),
        ("rescale(labels='keep')", "Rescale labels is 'keep'; allowed is 'move', since the size changes"),
        ("warp(labels=1)", "Warp labels is 1; allowed are 'move' and 'keep'"),
        ("structure(blocks=1.5)", "Structure blocks is 1.5; allowed are whole numbers from 1"),
        ("structure(operations=())", "Structure operations is \\(\\); allowed are vertical_roll, "),
        ("structure(operations=('flip',))", "Structure operations is \\('flip',\\); allowed are"),
        ("structure(noise=8)", "Structure noise is 8; allowed are numbers from 0 to 1"),
        ("warp(mesh=2)", "Warp mesh is 2; allowed are whole numbers from 3"),
        ("warp(reach=-0.1)", "Warp reach is -0.1; allowed are numbers from 0 to 2"),
        ("crop(area=(0, 1))", "Crop area is \\(0, 1\\); allowed are two positive numbers"),
        ("crop(area=(0.5, 1.5))", "Crop area is \\(0.5, 1.5\\); allowed are shares up to 1"),
        ("crop(ratio=(2, 1))", "Crop ratio is \\(2, 1\\); allowed are two positive numbers"),
        ("warp(descent=-1)", "Warp descent is -1; allowed are numbers from 0"),
        ("operators(length=1)", "Operators length is 1; allowed are whole numbers from 2"),
        ("operators(shortest=-1)", "Operators shortest is -1; allowed are whole numbers from 0"),
        ("chain(length=0)", "Chain length is 0; allowed are whole numbers from 1"),
        ("chain(operations=('flip',))", "Chain operations is \\('flip',\\); allowed are identity, rotate, "),
        ("chain(operations=())", "Chain operations is \\(\\); allowed are"),
        ("cellmask(grid=0)", "CellMask grid is 0; allowed are whole numbers from 1"),
        ("cellmask(kept=17)", "CellMask kept is 17; allowed are at most grid² = 16 cells"),
        ("cellmask(fill=(0, 1))", "CellMask fill is \\(0, 1\\); allowed are three numbers from 0 to 1"),
        ("cellmask(fill=(0, 1, 2))", "CellMask fill is \\(0, 1, 2\\); allowed are three numbers from 0 to 1"),
    ],
)
def test_impossible_settings_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        read(text)
