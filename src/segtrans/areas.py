"""Where an attack may change pixels."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segtrans.data.base import VOID
from segtrans.errors import UsageError, check_number, check_whole


@dataclass(frozen=True, kw_only=True)
class Area(ABC):
    """The pixels that may change; where ``hidden``, these pixels do not count in the objective."""

    hidden: ClassVar[bool] = True

    @abstractmethod
    def mask(self, x: Tensor, y: Tensor) -> Tensor:
        """Boolean (N or 1, 1, H, W) or (1, 1, 1, 1), from images (N, 3, H, W) and labels (N, H, W)."""


@dataclass(frozen=True, kw_only=True)
class Everywhere(Area):
    """The whole image."""

    hidden: ClassVar[bool] = False

    def mask(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=x.device)


@dataclass(frozen=True, kw_only=True)
class Patch(Area):
    """A square at a fixed place, which is not counted: the rest of the image is to be misread. Within a budget of
    ``LInf(1)`` its pixels are free.

    Attributes:
        side: below 1 a share of the image's shorter side, from 1 a number of pixels.
        row, col: where it lies, from 0 for the top (left) to 1 for the bottom (right).
    """

    side: float = 0.25
    row: float = 0.5
    col: float = 0.5

    def __post_init__(self) -> None:
        if not (0 < self.side < 1 or self.side == self.side // 1 >= 1):
            raise UsageError(f"Patch side is {self.side}; allowed are shares below 1 and whole numbers from 1")
        for name in ("row", "col"):
            check_number(f"Patch {name}", getattr(self, name), 0, 1)

    def mask(self, x: Tensor, y: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        side = max(1, round(self.side * min(height, width))) if self.side < 1 else int(self.side)
        if side > min(height, width):
            raise UsageError(f"Patch side is {side}; images are only {height}×{width}")
        top, left = round(self.row * (height - side)), round(self.col * (width - side))
        mask = torch.zeros(1, 1, height, width, dtype=torch.bool, device=x.device)
        mask[:, :, top : top + side, left : left + side] = True
        return mask


@dataclass(frozen=True, kw_only=True)
class Classes(Area):
    """The pixels of some classes, which are not counted: what surrounds an object may change, and the object is to be
    misread (indirect local attacks, Nakka & Salzmann, ECCV 2020, arXiv 1911.13038). Void never belongs to it. The
    labels are those of the attack's goal.

    Attributes:
        classes: their numbers.
        inside: false turns it round, to the pixels of all other classes.
    """

    classes: tuple[int, ...] = (0,)
    inside: bool = True

    def __post_init__(self) -> None:
        for index in self.classes:
            check_whole("Classes classes", index, 0)

    def mask(self, x: Tensor, y: Tensor) -> Tensor:
        chosen = torch.isin(y, torch.tensor(self.classes, dtype=torch.int64, device=y.device))
        return ((chosen == self.inside) & (y != VOID))[:, None]
