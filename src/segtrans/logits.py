"""What logits say: each pixel's class, and whether they are numbers at all."""

import numpy as np
import torch
from torch import Tensor

MANY = 30
"""Classes beyond which each pixel's is found faster by numpy, where they are neighbours in memory, than on planes."""


def largest(values: Tensor) -> Tensor:
    """The largest over classes of values (N, C, H, W), (N, H, W); NaN where one is."""
    if values.device.type != "cpu" or not values.is_contiguous(memory_format=torch.channels_last):
        return values.amax(1)
    # Where a pixel's classes are neighbours in memory, halving them takes less than half of amax's time on a CPU.
    while (count := values.shape[1]) > 1:
        half = (count + 1) // 2
        values = torch.maximum(values[:, :half], values[:, count - half :])
    return values[:, 0]


def predicted_classes(logits: Tensor) -> Tensor:
    """Of logits (N, C, H, W) each pixel's class, (N, H, W) int64: the first of those with the largest logit."""
    count = logits.shape[1]
    if logits.device.type != "cpu":
        return logits.argmax(1)
    # On a CPU torch's argmax over planes is slow. Where classes are neighbours in memory, numpy's is faster if they are
    # many, and turning them into planes first if they are few.
    neighbours = logits.is_contiguous(memory_format=torch.channels_last)
    if count > MANY and neighbours and logits.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.argmax(logits.detach().permute(0, 2, 3, 1).numpy(), axis=3))
    if count > 255:
        return logits.argmax(1)
    planes = logits.contiguous()
    # Counted from the end, the first class has the most.
    from_the_end = torch.arange(count, 0, -1, dtype=torch.uint8, device=logits.device).view(1, -1, 1, 1)
    found = (planes == planes.amax(1, keepdim=True)).view(torch.uint8) * from_the_end
    return count - found.amax(1).long().clamp_min(1)


def finite_images(logits: Tensor) -> Tensor:
    """Which of the images of logits (N, C, H, W) have no NaN and no infinity among them, (N,) bool."""
    # A sum of finite numbers may overflow, but no sum of others is finite; it takes a thirtieth of the time.
    finite = logits.sum((1, 2, 3)).isfinite()
    return finite if finite.all() else logits.isfinite().flatten(1).all(1)
