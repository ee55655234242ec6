"""Interpolation by products with matrices of weights, as GPUs do it, is torch's own, forwards and backwards."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.interpolation import by_products, interpolate

SIZES = [(18, 28), (31, 17), (9, 5), (4, 14), (1, 1), (90, 140)]
KINDS = [(False, False), (True, False), (False, True)]
each_kind = pytest.mark.parametrize(("align_corners", "antialias"), KINDS)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@each_kind
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products_are_torchs_interpolation(size: tuple[int, int], align_corners: bool, antialias: bool) -> None:
    x, slope = random(2, 3, 9, 14).requires_grad_(), random(2, 3, *size)
    expected = F.interpolate(x, size, mode="bilinear", align_corners=align_corners, antialias=antialias)
    found = by_products(x, size, align_corners=align_corners, antialias=antialias)
    torch.testing.assert_close(found, expected)
    for one, other in zip(*(torch.autograd.grad((y * slope).sum(), x) for y in (found, expected)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_autocast_does_not_reach_the_products(dtype: torch.dtype) -> None:
    x = random(2, 3, 9, 14).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = by_products(x, (31, 17), align_corners=False, antialias=False)
    assert found.dtype == dtype
    expected = F.interpolate(x.float(), (31, 17), mode="bilinear").to(dtype)
    torch.testing.assert_close(found, expected)


@each_kind
def test_a_cpu_takes_torchs_own(align_corners: bool, antialias: bool) -> None:
    x = random(2, 3, 9, 14).float()
    found = interpolate(x, (31, 17), align_corners=align_corners, antialias=antialias)
    assert torch.equal(
        found, F.interpolate(x, (31, 17), mode="bilinear", align_corners=align_corners, antialias=antialias)
    )
