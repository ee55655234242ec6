"""Several surrogates as one."""

import math
from collections.abc import Sequence
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from segtrans.errors import UsageError, check_choice
from segtrans.models.base import SegModel, out_of_order

Model = TypeVar("Model")


class Ensemble(nn.Module):
    """Several models as one surrogate or target (Liu et al., ICLR 2017, arXiv 1611.02770; Dong et al., CVPR 2018).

    Args:
        models: two or more, with the same number of classes.
        fuse: ``"logits"`` or ``"probabilities"`` are averaged, or ``"loss"``: then an attack asks each member for the
            objective and averages that, while predictions average logits.

    Attributes:
        members: the models.
        apart: whether attacks ask the members one by one.

    Raises:
        UsageError: fewer than two models, models with different classes, or another ``fuse``.
    """

    def __init__(self, models: Sequence[SegModel], fuse: Literal["logits", "probabilities", "loss"] = "logits") -> None:
        super().__init__()
        if len(models) < 2:
            raise UsageError(f"an ensemble of {len(models)} model(s); allowed are two or more")
        check_choice("fuse", fuse, ("logits", "probabilities", "loss"))
        counts = [f"{model.name} {len(model.classes)}" for model in models]
        if len({len(model.classes) for model in models}) > 1:
            raise UsageError(f"an ensemble's models must have the same classes; these have: {', '.join(counts)}")
        for model in models:
            if first := out_of_order(model.classes, models[0].classes):
                raise UsageError(
                    f"an ensemble's models must have the same classes; {model.name} has those of {models[0].name} in "
                    f"another order ({first}), so give it a label map"
                )
        self.members = nn.ModuleList(models)
        self.fuse, self.apart = fuse, fuse == "loss"
        self.name = f"{'mean' if fuse == 'logits' else fuse}:" + ",".join(model.name for model in models)
        self.classes = models[0].classes
        self.backbone = " + ".join(dict.fromkeys(model.backbone for model in models))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes, H, W) for images (N, 3, H, W) in [0, 1]; log probabilities where these are averaged."""
        logits = torch.stack([cast(Tensor, model(x)) for model in self.members])
        if self.fuse == "probabilities":
            # In logarithms throughout: probabilities that underflow would lose their gradient.
            return logits.log_softmax(2).logsumexp(0) - math.log(len(logits))
        return logits.mean(0)


def members_of(model: Model) -> Sequence[Model]:
    """The models of an ensemble, whatever its class, or the model alone."""
    return tuple(getattr(model, "members", None) or (model,))
