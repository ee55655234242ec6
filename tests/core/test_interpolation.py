"""Interpolation by matrices of weights, which GPUs take, is torch's own."""

import pytest
import torch
from torch.nn import functional as F

from segtrans.interpolation import _weights

X = torch.randn(2, 3, 9, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SIZES = [(18, 28), (31, 17), (9, 5), (4, 14), (1, 1), (90, 140)]


@pytest.mark.parametrize(("align_corners", "antialias"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_weights_are_those_of_torch(size: tuple[int, int], align_corners: bool, antialias: bool) -> None:
    expected = F.interpolate(X, size, mode="bilinear", align_corners=align_corners, antialias=antialias)
    rows, cols = (_weights(n, m, X, align_corners, antialias) for n, m in zip(X.shape[-2:], size, strict=True))
    torch.testing.assert_close(rows @ X @ cols.mT, expected)
