"""Euclidean lengths, and division by lengths that may be zero."""

import torch
from torch import Tensor


def image_lengths(values: Tensor) -> Tensor:
    """The length of each image's values (N, C, H, W) as one vector, (N, 1, 1, 1)."""
    return torch.linalg.vector_norm(values.flatten(1), dim=1).view(-1, 1, 1, 1)


def safe_divide(values: Tensor, lengths: Tensor) -> Tensor:
    """``values / lengths``; values whose length is zero stay as they are, which is zero."""
    return values / torch.where(lengths > 0, lengths, 1)
