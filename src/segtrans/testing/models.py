"""The contract of models, as a check."""

from copy import deepcopy

import torch
from torch import Tensor

from segtrans.errors import reason
from segtrans.models import SegModel
from segtrans.testing.laws import hold
from segtrans.testing.toys import images


def check_model(model: SegModel) -> None:
    """Whether a model, wrapped by :func:`segtrans.models.wrap` or an ensemble, keeps the contract: frozen, in
    evaluation mode, finite logits (N, classes, H, W) at any size, a gradient that reaches the image and no other image
    of the batch, nothing random, nothing of the caller's changed. It works on a copy, since some of this needs float64.

    Raises:
        AssertionError: the first law that it breaks.
    """
    part, classes = f"model {getattr(model, 'name', '')!r}", len(model.classes)
    hold(bool(model.name), "names", part, "has no name")
    hold(not any(m.training for m in model.modules()), "evaluation mode", part, "has modules in training mode")
    hold(not any(p.requires_grad for p in model.parameters()), "frozen weights", part, "has weights with gradients")
    model, device = deepcopy(model), next(iter(model.state_dict().values()), torch.empty(0)).device
    state = torch.get_rng_state()
    for size, dtype in ((64, 64), torch.float32), ((65, 97), torch.float64):
        x = images(2, size, seed=1).to(device, dtype).requires_grad_()
        model, before = model.to(dtype), x.detach().clone()
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        try:
            logits = model(x)
        except Exception as error:
            raise AssertionError(
                f"law of any size: {part} fails on images {tuple(x.shape)}: {reason(error)}"
            ) from error
        expected = 2, classes, *size
        hold(tuple(logits.shape) == expected, "shape", part, f"returned {tuple(logits.shape)} instead of {expected}")
        hold(logits.dtype == dtype, "precision", part, f"returned {logits.dtype} for images of {dtype}")
        hold(logits.isfinite().all(), "finite logits", part, "returned NaN or infinite values")
        # One image's loss: its gradient must reach it, and no other image of the batch.
        hold(logits.requires_grad, "gradients", part, "returned logits without a gradient")
        (gradient,) = torch.autograd.grad(logits[1].square().sum(), x)
        hold(gradient[1].isfinite().all(), "gradients", part, "has a gradient that is not finite")
        hold((gradient[1] != 0).any(), "gradients", part, "has a gradient of zero")
        hold((gradient[0] == 0).all(), "independence within a batch", part, "lets images of a batch see each other")
        with torch.inference_mode():
            again, alone = model(before), model(before[1:])[0]
        if dtype == torch.float64:
            margin = 1e-6 * (1 + float(logits.detach().std()))
            hold(_near(again, logits, margin), "reproducibility", part, "says something else when asked again")
            hold(_near(alone, logits[1], margin), "independence within a batch", part, "depends on the batch's size")
        same = torch.equal(x, before) and all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
        hold(same, "nothing else changes", part, "changed its weights, its buffers or the images")
    hold(torch.equal(torch.get_rng_state(), state), "nothing else changes", part, "used torch's global random state")


def _near(one: Tensor, other: Tensor, margin: float) -> bool:
    return torch.allclose(one, other, rtol=1e-6, atol=margin)
