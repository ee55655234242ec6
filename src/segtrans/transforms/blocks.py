"""Blocks and crops of the image: shuffled, turned, changed in place or enlarged."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from segtrans.errors import UsageError, check_number, check_whole
from segtrans.random import Draw
from segtrans.transforms.base import Transform, check_range, first_copy, positions, resample, within


@dataclass(frozen=True, kw_only=True)
class Displacement(Transform):
    """Base of transformations that read every pixel from another place of the same image."""

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        return resample(x, y, *self.source(x, draw))

    @abstractmethod
    def source(self, x: Tensor, draw: Draw) -> tuple[Tensor, ...]:
        """For every pixel the row and column it comes from and, where something is left empty, whether it comes from
        anywhere, (B, H, W) each.
        """


@dataclass(frozen=True, kw_only=True)
class Rotate(Displacement):
    """Turns the image about its centre by a random angle; what is left empty is black and void.

    Attributes:
        angle: the largest angle in degrees, either way.
    """

    angle: float = 24.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_angle(self)

    def source(self, x: Tensor, draw: Draw) -> tuple[Tensor, ...]:
        angle = math.radians(self.angle) * draw.uniform(1, 1, low=-1, high=1)
        height, width = (torch.full_like(angle, side) for side in x.shape[-2:])
        return _turned(*grid(x), height, width, angle.cos(), angle.sin())


@dataclass(frozen=True, kw_only=True)
class Shuffle(Displacement):
    """Cuts the image into strips along one axis, turns and shuffles them, then cuts each along the other axis and
    shuffles its pieces (block shuffle and rotation, BSR, Wang et al., CVPR 2024, arXiv 2308.10299).

    Which axis is cut first is drawn too. What a turned strip leaves empty is black and void.

    Attributes:
        blocks: strips, and pieces per strip; their lengths are in proportion to U(1, 2).
        angle: the largest angle in degrees, either way, by which a strip is turned about its centre.
    """

    blocks: int = 3
    angle: float = 24.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("Shuffle blocks", self.blocks, 1)
        _check_angle(self)

    def source(self, x: Tensor, draw: Draw) -> tuple[Tensor, ...]:
        n, (height, width) = self.blocks, x.shape[-2:]
        columns_first = draw.chance(0.5, 1, 1)
        length, breadth = _swapped(columns_first, x.new_full((1, 1, 1), height), x.new_full((1, 1, 1), width))
        strips = _edges(length, draw.uniform(1, n, low=1, high=2))
        pieces = _edges(breadth, draw.uniform(n, n, low=1, high=2))
        # Tables over the positions along an axis, as long as the longer one; what is beyond the shorter is never read.
        at = positions(max(height, width), x)
        along, strip = (table[:, 0] for table in _shuffled(at, strips, draw.uniform(1, n)))
        across, _ = _shuffled(at, pieces, draw.uniform(n, n))
        across = across.gather(1, strip[:, :, None].expand(-1, -1, len(at)))
        across = torch.where(columns_first, across[:, :width, :height].mT, across[:, :height, :width])
        angle = math.radians(self.angle) * draw.uniform(n, low=-1, high=1)
        start, size = strips[:, 0].gather(1, strip), strips.diff(dim=-1)[:, 0].gather(1, strip)

        def spread(table: Tensor) -> Tensor:
            return torch.where(columns_first, table[:, None, :width], table[:, :height, None])

        cos, sin = (spread(of_strip.gather(1, strip)) for of_strip in (angle.cos(), angle.sin()))
        turned = _turned(spread(along - start), across, spread(size), breadth, cos, sin)
        return *_swapped(columns_first, turned[0] + spread(start), turned[1]), turned[2]


Operation = Literal[
    "vertical_roll", "horizontal_roll", "vertical_flip", "horizontal_flip", "half_turn", "darken", "noise"
]
_OPERATIONS: tuple[Operation, ...] = get_args(Operation)


@dataclass(frozen=True, kw_only=True)
class Structure(Transform):
    """Cuts the image into blocks at random places and gives each block, where it stands, one random operation
    (structure invariant attack, SIA, Wang et al., ICCV 2023, arXiv 2309.14700; of the ten operations of the authors'
    code the seven that TransferAttack has, without resizing, a low pass and dropped channels).

    Attributes:
        blocks: blocks per side; fewer where the image has fewer pixels.
        operations: which operations a block's is drawn from: rolling by a random distance, flipping, turning by 180°,
            multiplying by U(0, 1), adding noise.
        noise: largest noise, in budgets; one in the paper. Where pixels are free, as those of a patch, a budget is all
            of [0, 1].
    """

    blocks: int = 3
    operations: tuple[Operation, ...] = _OPERATIONS
    noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("Structure blocks", self.blocks, 1)
        if not self.operations or not {*self.operations} <= {*_OPERATIONS}:
            raise UsageError(f"Structure operations is {self.operations!r}; allowed are {', '.join(_OPERATIONS)}")
        check_number("Structure noise", self.noise, 0)

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        n, (height, width) = self.blocks, x.shape[-2:]
        row_cell, col_cell = self._cells(height, x, draw), self._cells(width, x, draw)
        operation = draw.integers(torch.full((len(x), n, n), len(self.operations), device=x.device))
        amount = draw.uniform(n, n)
        rows = self._source(row_cell, operation, amount, "vertical_roll", "vertical_flip")
        cols = self._source(col_cell, operation.mT, amount.mT, "horizontal_roll", "horizontal_flip")
        rows, cols = _columns(rows, col_cell), _columns(cols, row_cell).mT
        image, label = resample(x, y, rows, cols)

        def per_pixel(of_cell: Tensor) -> Tensor:
            return _columns(_columns(of_cell, col_cell).mT, row_cell).mT[:, None]

        if "noise" in self.operations:
            bound = self.noise * draw.reach
            noisy = image + draw.uniform(*x.shape[1:], low=-bound, high=bound)
            # As clamp, which however gives no gradient to black and white.
            noisy = noisy.where(noisy >= 0, 0).where(noisy <= 1, 1)
            image = torch.where(per_pixel(self._is(operation, "noise")), noisy, image)
        return image * per_pixel(torch.where(self._is(operation, "darken"), amount, 1)), label

    def _cells(self, size: int, like: Tensor, draw: Draw) -> Tensor:
        """Which block each position along an axis falls into, (B, size)."""
        # Any places between pixels, all different: where random numbers are least, pixel 0 having nothing before it.
        numbers = draw.uniform(size)
        numbers = torch.cat([torch.full_like(numbers[:, :1], 2), numbers[:, 1:]], 1)
        cuts = numbers.argsort(stable=True)[:, : min(self.blocks, size) - 1]
        return torch.zeros_like(numbers, dtype=torch.int64).scatter(1, cuts, 1).cumsum(1)

    def _source(self, cell: Tensor, operation: Tensor, amount: Tensor, roll: Operation, flip: Operation) -> Tensor:
        """Where every position along an axis comes from, (B, size, n), depending on the block along the other axis."""
        size = torch.zeros_like(amount[:, 0]).scatter_add(1, cell, torch.ones_like(cell, dtype=amount.dtype))
        start, size = (table.gather(1, cell)[..., None] for table in (size.cumsum(1) - size, size))
        operation, amount = (_columns(table.mT, cell).mT for table in (operation, amount))
        at = positions(cell.shape[1], amount)[:, None] - start
        at = torch.where(self._is(operation, roll), (at - (amount * size).floor()).remainder(size), at)
        return start + torch.where(self._is(operation, flip, "half_turn"), size - 1 - at, at)

    def _is(self, operation: Tensor, *names: Operation) -> Tensor:
        """Where ``operation``, a number, is one of the ``names``."""
        found = torch.zeros_like(operation, dtype=torch.bool)
        for number, name in enumerate(self.operations):
            found = found | ((operation == number) & (name in names))
        return found


@dataclass(frozen=True, kw_only=True)
class Crop(Displacement):
    """Enlarges a random window of the image to full size.

    With ``whole_first``, ``beneath`` and two copies these are the global and the local view of the self-universality
    attack (SU, Wei et al., CVPR 2023, arXiv 2209.03716), whose feature similarity between the two is an objective,
    :class:`segtrans.objectives.CopySimilarity`.

    Attributes:
        area: bounds of the window's share of the image's area, drawn uniformly.
        ratio: bounds of the window's width per height in units of the image's own, drawn log-uniformly.
        whole_first: leave the first copy as it is.
        beneath: crop the clean image, and lay the whole perturbation on that.
    """

    area: tuple[float, float] = (0.1, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    whole_first: bool = False
    beneath: bool = False  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("Crop area", self.area)
        check_range("Crop ratio", self.ratio)
        if self.area[1] > 1:
            raise UsageError(f"Crop area is {self.area}; allowed are shares up to 1")

    def source(self, x: Tensor, draw: Draw) -> tuple[Tensor, ...]:
        area = draw.uniform(1, 1, low=self.area[0], high=self.area[1])
        low, high = self.ratio
        # The last bit of a tensor's power depends on its place in the batch, that of exp does not.
        ratio = low * (draw.uniform(1, 1) * math.log(high / low)).exp()
        whole = first_copy(draw) & self.whole_first
        rows, cols = grid(x)
        rows = self._window(rows, torch.where(whole, 1, (area / ratio).sqrt()), x.shape[-2], draw)
        cols = self._window(cols, torch.where(whole, 1, (area * ratio).sqrt()), x.shape[-1], draw)
        return rows, cols

    def _window(self, at: Tensor, share: Tensor, size: int, draw: Draw) -> Tensor:
        window = (share * size).round().clamp(1, size)
        start = draw.integers((size + 1 - window).long()).to(at.dtype)
        return start + ((at + 0.5) * (window / size) - 0.5).clamp_min(0).minimum(window - 1)


def _check_angle(part: Rotate | Shuffle) -> None:
    if not 0 <= part.angle <= 180:
        raise UsageError(f"{type(part).__name__} angle is {part.angle}; allowed are degrees from 0 to 180")


def _columns(of_cell: Tensor, cell: Tensor) -> Tensor:
    """(B, S, n) to (B, S, W): each column what its cell (B, W) has."""
    return of_cell.gather(2, cell[:, None].expand(-1, of_cell.shape[1], -1))


def grid(x: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of every pixel of images (B, 3, H, W), (B, H, W) each."""
    rows, cols = (positions(side, x) for side in x.shape[-2:])
    shape = (len(x), *x.shape[-2:])
    return rows[:, None].expand(shape), cols.expand(shape)


def _swapped(swap: Tensor, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """The two, in the other order where ``swap`` is true."""
    return torch.where(swap, other, one), torch.where(swap, one, other)


def _edges(size: Tensor, weights: Tensor) -> Tensor:
    """Whole-numbered borders (B, G, n + 1) of blocks in proportion to weights (B, G, n), along axes (B, 1, 1) long."""
    upto = weights.cumsum(-1)
    inner = (upto[..., :-1] / upto[..., -1:] * size).round()
    return torch.cat([torch.zeros_like(upto[..., :1]), inner, size.expand_as(upto[..., :1])], -1)


def _shuffled(at: Tensor, edges: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Where each position ``at`` (S,) along an axis comes from, and in which block that lies, (B, G, S), once the
    blocks between ``edges`` (B, G, n + 1) stand in the order of random ``numbers`` (B, G, n).
    """
    order = numbers.argsort(stable=True)
    ends = edges.diff(dim=-1).gather(-1, order).cumsum(-1)
    place = (at[:, None] >= ends[..., None, :-1]).sum(-1)
    shift = edges[..., 1:].gather(-1, order) - ends
    return at + shift.gather(-1, place), order.gather(-1, place)


def _turned(
    rows: Tensor, cols: Tensor, height: Tensor, width: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Where positions on pieces of height × width pixels come from once these are turned about their centres by an
    angle of the given cosine and sine, and whether that is on the piece.
    """
    middle, centre = (height - 1) / 2, (width - 1) / 2
    down, right = rows - middle, cols - centre
    rows, cols = middle + down * cos - right * sin, centre + down * sin + right * cos
    inside = within(rows, cols, height, width)
    # Positions beyond the centres of a piece's border read that border, not what is next to it.
    return rows.clamp_min(0).minimum(height - 1), cols.clamp_min(0).minimum(width - 1), inside
