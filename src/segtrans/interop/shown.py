"""What the attack of a library is shown in place of a surrogate."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segtrans.attack import Model
from segtrans.data.base import VOID


class Shown(nn.Module):
    """One image (1, 3, H, W) as a library sees it: a classifier of batches (N, 3, H, W) into right and wrong, (N, 2)
    logits; or with ``dense`` the surrogate itself. The surrogate is no submodule, so no library can change its mode.
    """

    def __init__(self, model: Model, image: Tensor, labels: Tensor, allowed: Tensor, clean: Tensor) -> None:
        super().__init__()
        self.image, self.labels, self.valid, self._allowed = image, labels, labels != VOID, allowed
        self._ask: Model = lambda z: model(z)
        self._unit = (2 / math.log(2) * self._loss(clean)).clamp_min(1)
        self.dense = False
        self.evaluations = 0
        self.finite = torch.ones((), dtype=torch.bool, device=image.device)
        self.alive = torch.zeros_like(self.finite)
        # Where libraries look for the device.
        self.place = nn.Parameter(image.new_zeros(()), requires_grad=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.image).where(self._allowed, self.image)
        if x.requires_grad:
            x.register_hook(self._count)
        logits = self._ask(x)
        self.finite &= logits.detach().isfinite().all()
        if self.dense:
            return logits
        # The probability of right is exp(-loss); both logarithms are finite, and so are their derivatives.
        losses = (self._loss(logits) / self._unit).clamp_min(torch.finfo(logits.dtype).tiny)
        return torch.stack([-losses, (-torch.expm1(-losses)).log()], 1)

    def _loss(self, logits: Tensor) -> Tensor:
        """Mean cross-entropy over valid pixels, (N,)."""
        labels = self.labels.expand(len(logits), -1, -1)
        return F.cross_entropy(logits, labels, ignore_index=VOID, reduction="none").sum((1, 2)) / self.valid.sum()

    def _count(self, gradient: Tensor) -> None:
        self.evaluations += len(gradient)
        self.alive |= (gradient != 0).any()
