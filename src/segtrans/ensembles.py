"""Several surrogates as one."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from segtrans.errors import UsageError
from segtrans.models.base import SegModel


class MeanLogits(nn.Module):
    """The mean of several models' logits, for attacks on an ensemble (Dong et al., CVPR 2018).

    Raises:
        UsageError: fewer than two models, or models with different classes.
    """

    def __init__(self, models: Sequence[SegModel]) -> None:
        super().__init__()
        if len(models) < 2:
            raise UsageError(f"an ensemble of {len(models)} model(s); allowed are two or more")
        counts = {model.name: len(model.classes) for model in models}
        if len(set(counts.values())) > 1:
            raise UsageError(f"an ensemble's models must have the same classes; these have {counts}")
        self.members = nn.ModuleList(models)
        self.name = "mean:" + ",".join(model.name for model in models)
        self.classes = models[0].classes
        self.backbone = " + ".join(dict.fromkeys(model.backbone for model in models))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes, H, W) for images (N, 3, H, W) in [0, 1]."""
        return torch.stack([cast(Tensor, model(x)) for model in self.members]).mean(0)
