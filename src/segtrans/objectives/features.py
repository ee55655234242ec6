"""Objectives on the features of an inner layer, where the forward pass ends unless logits count too; positions under
void never count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from segtrans.data.base import VOID
from segtrans.errors import UsageError
from segtrans.objectives.base import Objective

if TYPE_CHECKING:
    from segtrans.attack import Attack
    from segtrans.run import Run, View


@dataclass(frozen=True, kw_only=True)
class FeatureObjective(Objective):
    """Looks at the features (B, C, h, w) of one layer.

    Attributes:
        layer: a module's name, or a share of the depth from 0 to 1, as :func:`segtrans.features.find_layer` takes it.
            One share for every objective and network, which in ResNets is a block of the third stage; papers
            name a layer of each network: FSPGD the third stage's third block (``layer3.2``), code of FIA its second
            stage, of NAA its first.
        knows_targets: whether it is of use where the attack leads towards its labels.
    """

    uses_logits: ClassVar[bool] = False
    knows_targets: ClassVar[bool] = True

    layer: str | float = 0.6  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]

    def __post_init__(self) -> None:
        if isinstance(self.layer, bool) or not (self.layer if isinstance(self.layer, str) else 0 <= self.layer <= 1):
            raise UsageError(
                f"{type(self).__name__} layer is {self.layer!r}; allowed are names of modules and shares of the depth "
                "from 0 to 1"
            )

    def check(self, attack: Attack) -> None:
        if attack.goal.targeted and not self.knows_targets:
            raise UsageError(f"{type(self).__name__} leads away from the clean features and knows no targets")


def labels_at(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels (B, H, W) at another size (B, h, w): those of the pixels nearest to each position's centre."""
    rows, cols = (
        (2 * torch.arange(small, device=labels.device) + 1) * large // (2 * small)
        for small, large in zip(size, labels.shape[-2:], strict=True)
    )
    return labels[:, rows[:, None], cols]


def feature_labels(view: View) -> Tensor:
    """A view's labels at the positions of its features, (B, h, w)."""
    return labels_at(view.labels, view.features.shape[-2:])


@dataclass(frozen=True, kw_only=True)
class Dispersion(FeatureObjective):
    """Log of the length of those features that on the clean image are below their position's mean over channels, minus
    that of the others: what supports the prediction shrinks, what was suppressed grows (FDA, Ganeshan et al., ICCV
    2019, arXiv 1909.04385, who sum this over many layers, and whose code begins at a random point).
    """

    uses_clean: ClassVar[bool] = True
    knows_targets: ClassVar[bool] = False

    def __call__(self, view: View, run: Run) -> Tensor:
        features, valid = view.features, (feature_labels(view) != VOID)[:, None]
        above = view.clean.features >= view.clean.features.mean(1, keepdim=True)

        def log_length(which: Tensor) -> Tensor:
            # ReLU leaves nothing below the mean but zeros; the addend keeps their logarithm finite.
            return (features.square() * (which & valid)).sum((1, 2, 3)).add(1e-12).log() / 2

        return log_length(~above) - log_length(above)
