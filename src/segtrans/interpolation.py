"""Bilinear interpolation whose backward pass takes GPUs little longer than its forward pass."""

import torch
from torch import Tensor
from torch.nn import functional as F


def interpolate(x: Tensor, size: tuple[int, int], *, align_corners: bool = False, antialias: bool = False) -> Tensor:
    """Maps (N, C, h, w) at another size, (N, C, *size), as torch's own function of that name has them (bilinear).

    On CUDA it is a product with a matrix of weights for each axis, unless torch was told to multiply float32 coarsely.
    Torch's backward pass adds up there with atomic operations, which wait for each other the longer the more is
    enlarged, and where it is antialiased most of all. A product makes NaN of an infinite value's whole map.
    """
    exact = x.device.type == "cuda" and torch.get_float32_matmul_precision() == "highest"
    if not exact or is_written_down():
        return F.interpolate(x, size, mode="bilinear", align_corners=align_corners, antialias=antialias)
    return by_products(x, size, align_corners=align_corners, antialias=antialias)


def by_products(x: Tensor, size: tuple[int, int], *, align_corners: bool, antialias: bool) -> Tensor:
    """:func:`interpolate` as it is on CUDA."""
    wide = x if x.dtype == torch.float64 else x.float()
    rows, cols = (_weights(n, m, wide, align_corners, antialias) for n, m in zip(x.shape[-2:], size, strict=True))
    # A type with fewer digits is meant for the network's products, and was chosen by now.
    with torch.autocast(x.device.type, enabled=False):
        return (rows @ (wide @ cols.mT)).to(x.dtype)


def _weights(before: int, after: int, like: Tensor, align_corners: bool, antialias: bool) -> Tensor:
    """How much each of the positions ``before`` counts at each of those ``after``: what becomes of one that is 1."""
    alone = torch.eye(before, dtype=like.dtype, device=like.device)[None, None]
    size = (after, before)
    return F.interpolate(alone, size, mode="bilinear", align_corners=align_corners, antialias=antialias)[0, 0]


def is_written_down() -> bool:
    """Whether PyTorch is making a program of a network, in which what we know better has no place."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
