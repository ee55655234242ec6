"""Three toys as the members of an ensemble, and the loss of one on one image."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from segtrans.models import Ensemble, wrap
from segtrans.models.base import SegModel
from toys import CLASSES, Context, images, labels

SIZE = (9, 11)
X, Y = images(3, SIZE), labels(3, SIZE, block=3)


def member(network: nn.Module, classes: int = CLASSES) -> SegModel:
    return wrap(network, classes, mean=(0, 0, 0), std=(1, 1, 1), name=f"m{id(network)}").double()


MODELS = [member(Context(seed)) for seed in range(3)]
ENSEMBLE = Ensemble(MODELS, "loss")
each_fuse = pytest.mark.parametrize("fuse", ["logits", "probabilities", "loss"])


def loss(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of one image's valid pixels."""
    return nn.functional.cross_entropy(model(x[None]), y[None], ignore_index=255)


def slope(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(loss(model, leaf, y), leaf)[0]
