"""Images of a data set as tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from segtrans.data.base import Dataset, Sample, resize
from segtrans.data.load import load_data
from segtrans.io import to_tensor


def batch(data: Dataset | str = "photos", *, count: int = 6, size: int = 128) -> tuple[Tensor, Tensor | None]:
    """The first images of a data set, (N, 3, size, size) in [0, 1], and their labels (N, size, size), if it has any."""
    data = load_data(data) if isinstance(data, str) else data
    samples = [resize(sample, size) for sample in data.take(count)]
    return images_of(samples), labels_of(samples)


def images_of(samples: Sequence[Sample], device: torch.device | str = "cpu") -> Tensor:
    """Images of one size, (N, 3, H, W) in [0, 1]."""
    return torch.stack([to_tensor(sample.image) for sample in samples]).to(device)


def labels_of(samples: Sequence[Sample]) -> Tensor | None:
    """Labels (N, H, W) on the CPU, or None where the data set has none."""
    labels = [sample.label for sample in samples if sample.label is not None]
    return torch.stack(labels) if labels else None
