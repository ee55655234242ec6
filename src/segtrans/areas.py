"""Where an attack may change pixels."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


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
