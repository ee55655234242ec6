"""Random chains of transformations."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from segtrans.data.base import VOID
from segtrans.errors import UsageError, check_whole
from segtrans.random import Draw
from segtrans.transforms.base import Transform, positions, resample
from segtrans.transforms.blocks import CellMask, Crop, Rotate, Shuffle, grid

Link = Literal["identity", "rotate", "resize", "shuffle", "crop", "mask", "darken"]
_LINKS: tuple[Link, ...] = get_args(Link)
_EMPTY = -1  # the label, between links, of what an earlier link left empty; void are also labels that were so
_ROTATE, _SHUFFLE, _CROP, _MASK = Rotate(angle=180), Shuffle(blocks=5, angle=0), Crop(), CellMask(kept=15)


@dataclass(frozen=True, kw_only=True)
class Chain(Transform):
    """Sends every copy of every image through a chain of operations, each drawn evenly from a list.

    Learning to transform (L2T, Zhu et al., CVPR 2024, arXiv 2405.14077) draws from some hundred operations with odds
    that it learns along the way. Here the odds stay even, and seven families stand for its ten: the identity, turns by
    up to 180°, shrinking to 65 % or more of the side on black, shuffled 5 × 5 blocks, crops, one of 16 cells blacked
    out, and division by 2^i with i up to 4. Pixels and labels are read anew at every link.

    Attributes:
        length: links of a chain.
        operations: what a link is drawn from.
    """

    length: int = 2
    operations: tuple[Link, ...] = _LINKS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("Chain length", self.length, 1)
        if not self.operations or not {*self.operations} <= {*_LINKS}:
            raise UsageError(f"Chain operations is {self.operations!r}; allowed are {', '.join(_LINKS)}")

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        for _ in range(self.length):
            drawn = draw.integers(torch.full((len(x), 1, 1), len(self.operations), device=x.device))
            (rows, cols), inside = grid(x), torch.ones_like(y, dtype=torch.bool)
            divisor = torch.ones_like(drawn, dtype=x.dtype)
            for number, name in enumerate(self.operations):
                this = drawn == number
                if name == "darken":
                    divisor = torch.where(this, (1 << draw.integers(torch.full_like(drawn, 5))).to(x.dtype), divisor)
                elif name != "identity":
                    source = _source(name, x, draw)
                    rows, cols = (torch.where(this, new, old) for new, old in zip(source, (rows, cols), strict=False))
                    inside = torch.where(this, source[2], inside) if len(source) > 2 else inside
            x, y = resample(x, y, rows, cols)
            # A pixel nearest to an empty place is empty as a whole, whatever its other neighbours are.
            inside = inside & (y != _EMPTY)
            x, y = x * inside[:, None] / divisor[:, None], y.where(inside, _EMPTY)
        return x, y.where(y != _EMPTY, VOID)


def _source(name: Link, x: Tensor, draw: Draw) -> tuple[Tensor, ...]:
    """Where pixels come from, as a :class:`Displacement` says it."""
    if name == "mask":
        return *grid(x), _MASK.shown(x, draw)
    if name == "resize":
        return _shrunk(x, draw)
    return {"rotate": _ROTATE, "shuffle": _SHUFFLE, "crop": _CROP}[name].source(x, draw)


def _shrunk(x: Tensor, draw: Draw) -> tuple[Tensor, ...]:
    """The image at a random smaller size, somewhere on a canvas of its own size."""
    factor = draw.uniform(1, low=0.65, high=1.0)
    found: list[tuple[Tensor, Tensor]] = []
    for size in x.shape[-2:]:
        small = (factor * size).round().clamp_min(1)
        local = positions(size, x) - draw.integers((size + 1 - small).long()).to(x.dtype)
        found.append(((local + 0.5) * (size / small) - 0.5, (local >= 0) & (local < small)))
    (rows, in_rows), (cols, in_cols) = found
    shape = (len(x), *x.shape[-2:])
    return rows[:, :, None].expand(shape), cols[:, None].expand(shape), in_rows[:, :, None] & in_cols[:, None]
