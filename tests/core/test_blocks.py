"""Blocks, crops and turns, against a second, plain way of doing the same with the same random numbers."""

import math
from itertools import pairwise

import pytest
import torch
from pixel_by_pixel import COUNT, SIDES, SIZE, X, Y, ids, picture
from torch import Tensor
from torchvision.transforms import functional as TF

from segtrans.attack import Attack
from segtrans.data.base import VOID
from segtrans.random import Draw
from segtrans.transforms import CellMask, Crop, Resize, Rotate, Shuffle, Structure
from toys import dense, draw, images, run_of


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
    bound = part.noise * numbers.reach
    noise = numbers.uniform(3, height, width, low=-bound, high=bound) if "noise" in part.operations else None
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
        Structure(blocks=5, noise=15.0),
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


def test_what_is_beneath_a_perturbation_is_cropped_without_it() -> None:
    part = Crop(area=(0.2, 0.4), beneath=True)
    run = run_of(Attack(transforms=(Resize(probability=1.0), part)), X, Y)
    items = run.items(0, COUNT)
    noise = 0.1 * images(COUNT, SIZE, seed=3)
    shown, its = run._transformed(X + noise, items)
    clean, their = run._transformed(X, items)
    small, small_labels = Resize(probability=1.0)(X, Y, run.draw(1, items))
    content, cropped = part(small, small_labels, run.draw(2, items))
    shrunk, _ = Resize(probability=1.0)(X + noise, Y, run.draw(1, items))
    assert torch.equal(clean, content)
    assert (shown - (content + shrunk - small)).abs().max() <= 1e-12
    assert torch.equal(its, cropped)
    assert torch.equal(their, cropped)


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
