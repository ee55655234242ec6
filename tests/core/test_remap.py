"""Remapping: against a second, plain way of doing it with the same random numbers, and against its description."""

from collections.abc import Callable
from itertools import pairwise, product

import pytest
import torch
from pixel_by_pixel import coordinates, picture
from torch import Tensor

from segtrans.random import Draw
from segtrans.transforms import Remap
from toys import dense, draw, images, labels

SIZE = (24, 30)


def axis_by_hand(size: int, weights: list[float]) -> list[tuple[int, int]]:
    """Where each region begins and ends, for sides in proportion to ``weights``."""
    total, ends = sum(weights), [0]
    for k in range(1, len(weights)):
        ends.append(round(sum(weights[:k]) / total * size))
    return list(pairwise([*ends, size]))


def remapped(part: Remap, x: Tensor, y: Tensor, numbers: Draw) -> list[tuple[Tensor, Tensor]]:
    """Cut, permute, choose windows and stretch them, one region and one pixel after the other."""
    grids = part.grid if isinstance(part.grid, tuple) else (part.grid,)
    n = max(grids)
    choice = numbers.integers(torch.full((len(x),), len(grids)))
    weights = [numbers.uniform(n, low=1, high=2) for _ in "rc"]
    kept = numbers.chance(part.keep, n, n) if part.keep else torch.zeros(len(x), n, n)
    order, scale = numbers.uniform(n * n), numbers.uniform(n, n, low=part.window[0], high=part.window[1])
    centres, mirrored = [], []
    for mirrors in (part.flip == "both", part.flip != "none"):
        centres.append(numbers.uniform(n, n))
        mirrored.append(numbers.chance(0.5 if mirrors else 0.0, n, n))

    def one(i: int) -> Callable[[int, int], tuple[float, float]]:
        grid = grids[int(choice[i])]
        cuts = [
            axis_by_hand(side, [1.0] * grid if part.cuts == "even" else of_axis[i, :grid].tolist())
            for side, of_axis in zip(y.shape[1:], weights, strict=True)
        ]
        # Regions that move, named by row and column, in the order of their random numbers.
        used = [region for region in product(range(grid), repeat=2) if not kept[i, *region]]
        permuted = sorted(used, key=lambda region: float(order[i, region[0] * n + region[1]]))
        origin = dict(zip(used, permuted, strict=True))

        def source(*pixel: int) -> tuple[float, ...]:
            region = tuple(next(k for k in range(grid) if p < cuts[d][k][1]) for d, p in enumerate(pixel))
            if region not in origin:
                return pixel
            factor = float(scale[i, *region]) * grid
            places = []
            for d, size in enumerate(y.shape[1:]):
                (begin, end), (first, last) = cuts[d][region[d]], cuts[d][origin[region][d]]
                window = min(max(round((end - begin) * factor), 1), size)
                # Numbers are laid out along their own axis first.
                address = (i, *(region if d == 0 else region[::-1]))
                centre = first + float(centres[d][address]) * (last - first)
                start = min(max(round(centre - window / 2), 0), size - window)
                inside = pixel[d] - begin + 0.5
                inside = end - begin - inside if mirrored[d][address] else inside
                places.append(start + min(max(inside * window / (end - begin) - 0.5, 0), window - 1))
            return tuple(places)

        return source

    return [picture(x[i], y[i], one(i)) for i in range(len(x))]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "part",
    [
        Remap(),
        Remap(grid=1, window=(0.4, 1.0)),
        Remap(grid=2, cuts="even", window=(0.3, 0.5), flip="both"),
        Remap(grid=(2, 3), window=(0.2, 1.5), flip="none"),
        Remap(grid=(1, 2, 3), keep=0.4, flip="both"),
    ],
    ids=repr,
)
def test_remap_cuts_permutes_and_stretches(part: Remap, seed: int) -> None:
    x, y = images(6, (9, 14)), labels(6, (9, 14), block=3)
    image, label = part(x, y, draw(6, seed=seed))
    for i, (theirs, their) in enumerate(remapped(part, x, y, draw(6, seed=seed))):
        assert (image[i] - theirs).abs().max() <= 1e-12
        assert torch.equal(label[i], their)


@pytest.mark.parametrize("grid", [1, 2, 3, 7])
@pytest.mark.parametrize("cuts", ["random", "even"])
def test_remap_shows_windows_of_the_image(grid: int, cuts: str) -> None:
    """Within a region rows and columns advance evenly, by window / region, up or down where mirrored."""
    part = Remap(grid=grid, cuts=cuts, window=(0.5 / grid, 1.5 / grid))
    image, _ = part(coordinates(SIZE, 40), dense(40, SIZE), draw(40))
    assert torch.allclose(image[:, 2], torch.ones_like(image[:, 2])), "every pixel is filled"
    for source, axis in ((image[:, 0], 1), (image[:, 1], 2)):
        steps = source.diff(dim=axis)
        # Every region border may jump; the rest of the rows are even steps of at most the largest scale.
        even = (steps.abs() <= 1.6).all(3 - axis)
        assert (~even).sum(1).max() <= grid - 1
    assert image[:, 0].max() <= SIZE[0] - 1
    assert image[:, 1].max() <= SIZE[1] - 1


def test_remap_leaves_images_as_they_are_with_a_probability() -> None:
    x, y = images(200, (9, 14)), labels(200, (9, 14), block=3)
    always, moved = Remap()(x, y, draw(200))
    image, label = Remap(probability=0.3)(x, y, draw(200))
    kept = (image == x).flatten(1).all(1)
    assert 0.6 < kept.double().mean() < 0.8
    assert torch.equal(image[~kept], always[~kept])
    assert torch.equal(label, torch.where(kept[:, None, None], y, moved))
    assert torch.equal(Remap(probability=0)(x, y, draw(200))[0], x)


@pytest.mark.parametrize("grid", [1, 3])
def test_remap_keeps_regions_in_their_place(grid: int) -> None:
    x, y = images(100, (9, 15)), labels(100, (9, 15), block=3)
    image, label = Remap(grid=grid, cuts="even", keep=0.4)(x, y, draw(100))
    same = (image == x).all(1).unflatten(1, (grid, -1)).unflatten(3, (grid, -1)).all(4).all(2)
    assert same.double().mean() == pytest.approx(0.4, abs=0.1)
    whole = same.repeat_interleave(9 // grid, 1).repeat_interleave(15 // grid, 2)
    assert torch.equal(label[whole], y[whole])
    image, label = Remap(grid=grid, keep=1)(x, y, draw(100))
    assert torch.equal(image, x)
    assert torch.equal(label, y)


def test_remap_reaches_every_corner() -> None:
    image, _ = Remap()(coordinates(SIZE, 200), dense(200, SIZE), draw(200))
    for channel, side in ((0, SIZE[0]), (1, SIZE[1])):
        assert image[:, channel].min() < 0.5
        assert image[:, channel].max() > side - 1.5
        assert image[:, channel].mean() == pytest.approx((side - 1) / 2, rel=0.05)


@pytest.mark.parametrize(
    ("flip", "rows", "cols"), [("none", False, False), ("horizontal", False, True), ("both", True, True)]
)
def test_remap_mirrors_as_told(flip: str, rows: bool, cols: bool) -> None:
    image, _ = Remap(grid=1, window=(1, 1), flip=flip)(coordinates(SIZE, 60), dense(60, SIZE), draw(60))
    for mirrored, channel, axis in ((rows, 0, 1), (cols, 1, 2)):
        down = (image[:, channel].diff(dim=axis) < 0).flatten(1).all(1).double().mean()
        assert (0.25 < down < 0.75) if mirrored else down == 0


def test_remap_draws_its_cuts_within_bounds() -> None:
    """Sides in proportion to U(1, 2): of two, none is smaller than a third."""
    part = Remap(grid=2, window=(0.001, 0.001), flip="none")
    image, _ = part(coordinates((60, 60), 300), dense(300, (60, 60)), draw(300))
    # A window of one pixel shows constant regions, whose borders are where rows change.
    border = (image[:, 0, :, 0].diff(dim=1) != 0).double().argmax(1) + 1
    border = border[(image[:, 0, :, 0].diff(dim=1) != 0).any(1)]
    assert 20 <= border.min() < 23
    assert 37 < border.max() <= 40
    even, _ = Remap(grid=2, cuts="even", window=(0.001, 0.001), flip="none")(
        coordinates((60, 60), 30), dense(30, (60, 60)), draw(30)
    )
    assert set((even[:, 0, :, 0].diff(dim=1) != 0).nonzero()[:, 1].tolist()) == {29}


@pytest.mark.parametrize("grid", [2, 3, (2, 3)])
def test_remap_reads_around_every_region_once(grid: int | tuple[int, ...]) -> None:
    """Windows of one pixel come from distinct regions, all of them."""
    part = Remap(grid=grid, cuts="even", window=(0.001, 0.001), flip="none")
    image, _ = part(coordinates((36, 36), 50), dense(50, (36, 36)), draw(50))
    found = set()
    for one in image[:, :2]:
        seen = one.flatten(1).T.unique(dim=0)
        n = round(len(seen) ** 0.5)
        cells = {tuple((point // (36 / n)).int().tolist()) for point in seen}
        assert cells == {(i, j) for i in range(n) for j in range(n)}
        found.add(n)
    assert found == set(grid if isinstance(grid, tuple) else (grid,))


def test_remap_draws_windows_of_the_size_it_is_told() -> None:
    """As a share of the image, whatever the grid, where regions are of one size."""
    for grid in (1, 2, 4):
        part = Remap(grid=grid, cuts="even", window=(0.25, 0.5), flip="none")
        image, _ = part(coordinates((96, 96), 80), dense(80, (96, 96)), draw(80))
        side = 96 // grid
        first = image[:, 0, :side, 0]
        windows = first[:, -1] - first[:, 0] + 1
        assert windows.min() >= 0.25 * 96 - 1
        assert windows.max() <= 0.5 * 96 + 1
        assert windows.mean() == pytest.approx(36, abs=2.5)
