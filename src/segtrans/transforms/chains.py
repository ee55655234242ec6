"""Random chains of transformations."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor

from segtrans.data.base import VOID
from segtrans.errors import UsageError, check_whole
from segtrans.random import Draw
from segtrans.transforms.base import Transform, on_canvas, resample, within
from segtrans.transforms.blocks import Crop, Rotate, Shuffle, grid
from segtrans.transforms.masks import CellMask

Link = Literal["identity", "rotate", "resize", "shuffle", "crop", "mask", "darken"]
_LINKS: tuple[Link, ...] = get_args(Link)
_EMPTY = -1  # the label, between links, of what an earlier link left empty; void are also labels that were so
_ROTATE, _SHUFFLE, _CROP, _MASK = Rotate(angle=180), Shuffle(blocks=5, angle=0), Crop(), CellMask(kept=15)


@dataclass(frozen=True, kw_only=True)
class Chain(Transform):
    """Sends every copy of every image through a chain of operations, each drawn evenly from a list.

    Learning to transform (L2T, Zhu et al., CVPR 2024, arXiv 2405.14077) draws from some hundred operations with odds
    that it learns along the way. Here the odds stay even, as they all but do in TransferAttack's code: there a gradient
    step of rate 0.01 climbs the loss times a chain's probability, which is 1e-4 for two of a hundred. There are six of
    its ten families and the identity: turns by up to 180°, shrinking to 65 % or more of the side on black, shuffled
    5 × 5 blocks, crops, one of 16 cells blacked out, and division by 2^i with i up to 4; not Admix, dropped pixels,
    changed spectra and affine maps. Pixels and labels are read anew at every link. The paper averages over three chains
    per step, each of which may hold several copies.

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
        return on_canvas(x, draw.uniform(1, low=0.65, high=1.0), draw)
    return {"rotate": _ROTATE, "shuffle": _SHUFFLE, "crop": _CROP}[name].source(x, draw)


@dataclass(frozen=True, kw_only=True)
class Operators(Transform):
    """Sends every copy of every image through a chain of simple operators, each drawn evenly from a bank of 31: the
    operator sampling of OPS (Guo et al., CVPR 2025).

    The bank has the identity, two flips, rolls by a random distance along either axis, turns by ±5°, ±15°, ±45°, ±90°
    and 180°, division by 2 … 8, and shrinking by a random factor down to 1/1.1, 1/1.3 … 1/2.9, somewhere on a black
    canvas. A chain's places are put together first and pixels and labels read once, where the authors' code blurs the
    image at every link; labels that move along are ours.

    Attributes:
        length: links of the longest chain.
        shortest: links of the shortest; all lengths are equally likely.
    """

    length: int = 4
    shortest: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("Operators shortest", self.shortest, 0)
        check_whole("Operators length", self.length, self.shortest)

    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        (rows, cols), inside, bank = grid(x), torch.ones_like(y, dtype=torch.bool), _bank(x.device, x.dtype)
        (height, width), one = x.shape[-2:], torch.ones(len(x), 1, 1, dtype=torch.int64, device=x.device)
        links, brightness = self.shortest + draw.integers(one * (self.length - self.shortest + 1)), one.to(x.dtype)
        # From the last operator, which made what is shown, to the first.
        for link in range(self.length):
            drawn = draw.integers(one * len(bank)).where(link < links, 0)
            cos, sin, least, light, *moves = bank[drawn].unbind(-1)
            down, right = rows - (height - 1) / 2, cols - (width - 1) / 2
            rows, cols = (height - 1) / 2 + down * cos - right * sin, (width - 1) / 2 + down * sin + right * cos
            size = least + (1 - least) * draw.uniform(1, 1)
            rows = _moved(rows, height, size, draw.uniform(1, 1), *moves[:2])
            cols = _moved(cols, width, size, draw.uniform(1, 1), *moves[2:])
            inside = inside & within(rows, cols, height, width)
            brightness = brightness * light
        image, label = resample(x, y, rows, cols, inside)
        return image * brightness[:, None], label


@cache
def _bank(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Operators of which all but the first differ from the identity in one way, (31, 8): cosine and sine of the turn,
    the smallest size, the brightness, and whether rows are flipped, rows rolled, columns flipped, columns rolled.
    """
    still, same = [0.0] * 4, [1.0, 0.0, 1.0, 1.0]
    turns = [math.radians(degrees) for degrees in (5, -5, 15, -15, 45, -45, 90, -90, 180)]
    bank = [same + still, *([*same, *(float(k == kind) for k in range(4))] for kind in range(4))]
    # Rounded, so that right angles are exact.
    bank += [[round(math.cos(turn), 15), round(math.sin(turn), 15), 1.0, 1.0, *still] for turn in turns]
    bank += [[1.0, 0.0, 1.0, 1 / divisor, *still] for divisor in range(2, 9)]
    bank += [[1.0, 0.0, 10 / tenths, 1.0, *still] for tenths in range(11, 30, 2)]
    return torch.tensor(bank, device=device, dtype=dtype)


def _moved(at: Tensor, length: int, size: Tensor, chance: Tensor, flip: Tensor, roll: Tensor) -> Tensor:
    """Where positions along an axis come from before the image was flipped or rolled, or shrunk to a share ``size`` of
    its length; ``chance``, from 0 to 1, decides how far it was rolled, or where on the canvas it lies.
    """
    small = (size * length).round().clamp_min(1)
    # From the image's edge, which is half a pixel before its first centre.
    edge = (at - (chance * (length + 1 - small)).floor() + 0.5) * (length / small)
    edge = torch.where(flip > 0, length - edge, edge)
    return torch.where(roll > 0, (edge - (chance * length).floor()).remainder(length), edge) - 0.5
