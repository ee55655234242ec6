"""What an attack is given, checked before anything is done with it: one sentence for whatever is wrong."""

from operator import index
from typing import Any

import torch
from torch import Tensor

from segtrans.data.base import VOID
from segtrans.errors import ModelError, UsageError


def check_images(x: Tensor) -> None:
    """UsageError unless images are float32 or float64 (N, 3, H, W) in [0, 1], at least one."""
    if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point() or x.numel() == 0:
        raise UsageError(f"images are {x.dtype} {tuple(x.shape)}; expected floating point (N, 3, H, W) in [0, 1]")
    if x.dtype not in (torch.float32, torch.float64):
        # Neither the places of pixels nor sums over them fit.
        raise UsageError(
            f"images are {x.dtype}; expected float32 or float64 (a surrogate multiplies in bfloat16 with the attack's "
            "precision='bfloat16')"
        )
    low, high = x.aminmax()
    if not (low >= 0 and high <= 1):
        raise UsageError(f"images range from {float(low):g} to {float(high):g}; expected values in [0, 1]")


def check_labels(y: Tensor, x: Tensor) -> None:
    """UsageError unless labels are int64 (N, H, W) for images (N, 3, H, W), of whatever classes."""
    expected = (len(x), *x.shape[-2:])
    if y.dtype != torch.int64 or tuple(y.shape) != expected:
        raise UsageError(f"labels are {y.dtype} {tuple(y.shape)}; expected torch.int64 {expected}")
    if y.device != x.device:
        raise UsageError(f"labels are on {y.device}; expected on {x.device}, where the images are")


def label_range(y: Tensor) -> tuple[int, int]:
    """The least and the largest of labels of any shape, with 0 for 255."""
    low, high = y.where(y != VOID, 0).aminmax()
    return int(low), int(high)


def check_classes(found: tuple[int, int], classes: int) -> None:
    """UsageError unless the :func:`label_range` is from 0 to below the number of the surrogate's classes."""
    low, high = found
    if low < 0 or high >= classes:
        raise UsageError(
            f"labels contain {low if low < 0 else high}; the surrogate has {classes} classes, "
            f"so allowed are 0 to {classes - 1} and {VOID} (void)"
        )


def check_logits(logits: Any, z: Tensor) -> None:
    """ModelError unless a model returned four dimensions, of which all but the second are as of images (N, 3, H, W)."""
    expected = (len(z), *z.shape[-2:])
    if not isinstance(logits, Tensor) or logits.ndim != 4 or (len(logits), *logits.shape[-2:]) != expected:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"the model returned {shape} for images {tuple(z.shape)}; expected logits (N, C, H, W) at input size, "
            "which segtrans.models.SegModel makes of any network"
        )


def checked_weights(weights: Tensor, expected: tuple[int, int]) -> Tensor:
    """The weights without a gradient; UsageError unless they are finite floating point (N, M) for N images and M
    members, of each image at least one not zero.
    """
    fits = weights.is_floating_point() and tuple(weights.shape) == expected and bool(weights.isfinite().all())
    if not fits or not weights.any(1).all():
        raise UsageError(
            f"weights are {weights.dtype} {tuple(weights.shape)}; expected finite floating point {expected}, for each "
            "image one per member of the surrogate and not all of them 0"
        )
    return weights.detach()


def check_seed(seed: int) -> int:
    """The seed as a Python number; UsageError unless it is a whole number, of numpy's kinds or not."""
    try:
        return index(seed)
    except TypeError:
        raise UsageError(f"seed is {seed!r}; allowed are whole numbers") from None


def allowed_region(region: Tensor | None, x: Tensor) -> Tensor:
    """The pixels that may change, broadcastable to images ``x`` (N, 3, H, W), all of them for None; UsageError unless a
    region is boolean (H, W), (1, H, W) or (N, H, W).
    """
    if region is None:
        return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=x.device)
    sizes = (x.shape[-2:], (1, *x.shape[-2:]), (len(x), *x.shape[-2:]))
    if region.dtype != torch.bool or tuple(region.shape) not in map(tuple, sizes):
        raise UsageError(
            f"region is {region.dtype} {tuple(region.shape)}; "
            f"expected torch.bool (H, W) or (N, H, W) for images {tuple(x.shape)}"
        )
    return region.view(-1, 1, *region.shape[-2:])
