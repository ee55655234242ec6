"""What an attack is after: which labels, and whether the surrogate is driven away from them or towards them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from segtrans.data.base import VOID
from segtrans.errors import UsageError, check_whole
from segtrans.logits import predicted_classes
from segtrans.random import MayDraw

if TYPE_CHECKING:
    from segtrans.run import Run


@dataclass(frozen=True, kw_only=True)
class Goal(MayDraw, ABC):
    """Chooses the labels of the objective; where ``targeted``, the objective is made small instead of large."""

    targeted: ClassVar[bool] = True

    @abstractmethod
    def labels(self, run: Run, y: Tensor | None) -> Tensor:
        """The labels (N, H, W), 255 = void, from those the caller gave, if any."""

    def check(self, classes: int) -> None:
        """UsageError where the goal names a class that a surrogate of so many classes does not have."""


@dataclass(frozen=True, kw_only=True)
class Untargeted(Goal):
    """Away from the given labels, or from the surrogate's own clean prediction where there are none."""

    targeted: ClassVar[bool] = False

    def labels(self, run: Run, y: Tensor | None) -> Tensor:
        return run.of_clean(predicted_classes) if y is None else y


@dataclass(frozen=True, kw_only=True)
class Towards(Goal):
    """Towards the label map that the caller gives instead of the true one."""

    def labels(self, run: Run, y: Tensor | None) -> Tensor:
        if y is None:
            raise UsageError("goal Towards got no labels; give the wanted label map as y")
        return y


@dataclass(frozen=True, kw_only=True)
class LeastLikely(Goal):
    """Towards the class that the surrogate finds least likely on the clean image, pixel by pixel (Kurakin et al., ICLR
    2017, arXiv 1611.01236; on segmentation Arnab et al., CVPR 2018). Of given labels only void is looked at, and stays.
    """

    def labels(self, run: Run, y: Tensor | None) -> Tensor:
        wanted = run.of_clean(lambda logits: logits.argmin(1))
        return wanted if y is None else wanted.where(y != VOID, VOID)


@dataclass(frozen=True, kw_only=True)
class OneClass(Goal):
    """Base of goals about one class.

    Attributes:
        index: the class.
    """

    index: int = 0

    def __post_init__(self) -> None:
        check_whole(f"{type(self).__name__} index", self.index, 0)

    def check(self, classes: int) -> None:
        # Labels would not tell: a class that is nowhere changes none when it is hidden, and 255 is void.
        if self.index >= classes:
            raise UsageError(
                f"{type(self).__name__} index is {self.index}; the surrogate has {classes} classes, so allowed are 0 "
                f"to {classes - 1}"
            )


@dataclass(frozen=True, kw_only=True)
class HideClass(OneClass):
    """Towards the given labels, or the clean prediction, without one class: its pixels take the nearest label of
    another class (Metzen et al., ICCV 2017, arXiv 1704.05712). Void stays, and neither spreads nor is filled; where an
    image has no other class, the hidden one becomes void.
    """

    def labels(self, run: Run, y: Tensor | None) -> Tensor:
        labels = Untargeted().labels(run, y)
        return _nearest_of(labels, (labels != self.index) & (labels != VOID)).where(labels == self.index, labels)


@dataclass(frozen=True, kw_only=True)
class AllAs(OneClass):
    """Towards one class everywhere (a static target, as in Metzen et al., ICCV 2017, arXiv 1704.05712). Of given labels
    only void is looked at, and stays.
    """

    def labels(self, run: Run, y: Tensor | None) -> Tensor:
        shape = (len(run.x), *run.x.shape[-2:])
        wanted = torch.full(shape, self.index, dtype=torch.int64, device=run.x.device)
        return wanted if y is None else wanted.where(y != VOID, VOID)


def _nearest_of(labels: Tensor, source: Tensor) -> Tensor:
    """For every pixel the label of its image's nearest ``source`` pixel, both (N, H, W); void where it has none."""
    from scipy.ndimage import distance_transform_edt  # slow to import, and needed here alone

    count, height, width = labels.shape
    # One transform for the batch: images are layers that lie further apart than any two pixels of one image, so that
    # the nearest source is in another layer only where there is none in the own. The last layer is all source, since
    # without any the transform is undefined.
    missing = torch.cat([~source, torch.zeros_like(source[:1])]).cpu().numpy()
    nearest = distance_transform_edt(
        missing, sampling=(height + width, 1, 1), return_distances=False, return_indices=True
    )
    layer, row, col = torch.from_numpy(nearest)[:, :count].long().to(labels.device)
    own = torch.arange(count, device=labels.device).view(-1, 1, 1)
    return labels[layer.clamp_max(count - 1), row, col].where(layer == own, VOID)
