"""What a batch consists of that goes through the surrogate."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from segtrans.devices import sent


@dataclass(frozen=True, eq=False)
class Items:
    """Which image of the attacked batch each item of a batch shows, and which transformed copy of it.

    Attributes:
        places: (B,) int64, the images' places, on the CPU, where random numbers are made.
        copy: (B,) int64, the copies' numbers, likewise.
        device: where the images are.
    """

    places: Tensor
    copy: Tensor
    device: torch.device

    def __len__(self) -> int:
        return len(self.places)

    @cached_property
    def index(self) -> Tensor:
        """``places`` where the images are."""
        return sent(self.places, self.device)

    def at(self, here: Tensor) -> "Items":
        """Some of them, by their places among these; a GPU is waited for."""
        chosen = here.cpu()
        return Items(self.places[chosen], self.copy[chosen], self.device)
