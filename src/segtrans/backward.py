"""Changes of the surrogate's backward pass that last for one attack call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segtrans.run import Run


@dataclass(frozen=True, kw_only=True)
class Backward(ABC):
    """Alters how gradients flow through the surrogate while an attack runs."""

    @abstractmethod
    def changed(self, run: Run) -> AbstractContextManager[None]:
        """A context in which ``run.network`` is changed; leaving it restores the network exactly."""
