"""Random chains, against one transformation after the other and against positions followed back link by link."""

import math

import pytest
import torch
from pixel_by_pixel import SIZE, picture
from torch import Tensor

from segtrans.data.base import VOID
from segtrans.random import Draw
from segtrans.transforms import CellMask, Chain, Crop, Operators, Resize, Rotate, Scale, Shuffle
from toys import dense, draw, images, labels


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
