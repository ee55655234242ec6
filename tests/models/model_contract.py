"""What every segmentation model must do, whatever network is inside."""

import torch
from torch import Tensor

from segtrans.models import SegModel
from segtrans.testing import check_model


def images(size: tuple[int, int], count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, *size, generator=generator, dtype=torch.float64)


def assert_contract(model: SegModel, classes: int) -> None:
    assert len(model.classes) == classes
    check_model(model)
