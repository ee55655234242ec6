"""What an objective is, and what pixel losses share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.data.base import VOID
from segtrans.random import MayDraw

if TYPE_CHECKING:
    from segtrans.attack import Attack
    from segtrans.run import Run, View


@dataclass(frozen=True, kw_only=True)
class Objective(MayDraw, ABC):
    """Maximised by an attack; minimised where its goal is targeted.

    Attributes:
        uses_logits: false for objectives on features alone, for which the forward pass ends at their layer.
        uses_clean: whether :attr:`View.clean`, the same view of the clean images, is looked at.
        uses_other: whether :attr:`View.other`, the view of the other copies, is looked at.
    """

    uses_logits: ClassVar[bool] = True
    uses_clean: ClassVar[bool] = False
    uses_other: ClassVar[bool] = False

    @property
    def layer(self) -> str | float | None:
        """The layer whose features it looks at, as :func:`segtrans.features.find_layer` takes it."""
        return None

    @property
    def preparation(self) -> int:
        """Gradient evaluations per image that :meth:`bind` spends."""
        return 0

    def check(self, attack: Attack) -> None:
        """UsageError where the attack has parts that the objective does not go with, whatever it is done to."""

    def bind(self, run: Run) -> Callable[[View], Tensor]:
        """The objective for one attack call; those with a state of their own, or with something to prepare, make it
        here.
        """
        return lambda view: self(view, run)

    @abstractmethod
    def __call__(self, view: View, run: Run) -> Tensor:
        """Loss per item of the view, (B,)."""

    def tracked(self, view: View) -> Tensor:
        """What tells how far the attack has come, per item of the view, (B,): the cross-entropy of all valid pixels,
        since a loss of unfinished pixels falls as they are finished.
        """
        return valid_mean(pixel_losses(view.logits, view.labels), view.labels)


def pixel_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every pixel, (B, H, W); zero where void."""
    if not logits.is_contiguous(memory_format=torch.channels_last):
        return F.cross_entropy(logits, labels, ignore_index=VOID, reduction="none")
    # Pixel by pixel, as they lie in memory: on a CPU half the time, and a gradient that lies as they do, for which the
    # backward pass of interpolation takes a quarter of its time.
    pixels = logits.permute(0, 2, 3, 1).flatten(0, 2)
    losses = F.cross_entropy(pixels, labels.flatten(), ignore_index=VOID, reduction="none")
    return losses.view(labels.shape)


def valid_mean(values: Tensor, labels: Tensor) -> Tensor:
    """Mean of ``values`` (B, H, W) over each image's valid pixels, (B,); zero for an image that has none."""
    valid = labels != VOID
    return (values * valid).sum((1, 2)) / valid.sum((1, 2)).clamp_min(1)
