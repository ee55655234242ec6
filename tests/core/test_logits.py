"""Decisions are argmax's, and what is no number is seen wherever it stands."""

import math

import pytest
import torch

from segtrans.data.base import VOID
from segtrans.logits import finite_images, largest, predicted_classes
from segtrans.objectives.base import pixel_losses

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("classes", [1, 2, 21, 255, 300])
def test_the_class_is_the_first_of_the_largest(classes: int, layout: torch.memory_format) -> None:
    random = torch.Generator().manual_seed(0)
    # Few values, so that many are equal.
    logits = torch.randint(-3, 4, (2, classes, 5, 7), generator=random).float()
    expected = [
        [[max(range(classes), key=z[:, i, j].tolist().__getitem__) for j in range(7)] for i in range(5)] for z in logits
    ]
    logits = logits.contiguous(memory_format=layout)
    assert torch.equal(predicted_classes(logits), torch.tensor(expected))
    assert torch.equal(largest(logits), logits.amax(1))
    assert predicted_classes(logits).dtype == torch.int64


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_bad_number_is_one_bad_image(value: float, layout: torch.memory_format) -> None:
    for place in range(4):
        logits = torch.zeros(3, 4, 2, 2).contiguous(memory_format=layout)
        logits[1, place, 1, 0] = value
        assert finite_images(logits).tolist() == [True, False, True]
        assert int(predicted_classes(logits).max()) < 4, "a class that is none could not be kept as one"


def test_numbers_whose_sum_is_none_are_numbers() -> None:
    logits = torch.full((2, 4, 2, 2), 3e38)
    assert finite_images(logits).tolist() == [True, True]
    logits[1, 0, 0, 0], logits[1, 1, 0, 0] = math.inf, -math.inf
    assert finite_images(logits).tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_is_the_same_however_logits_lie(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    values = torch.randn(2, 21, 5, 7, generator=random, dtype=dtype)
    labels = torch.randint(0, 21, (2, 5, 7), generator=random)
    labels[0, :2] = VOID
    found = []
    for layout in LAYOUTS:
        logits = values.contiguous(memory_format=layout).requires_grad_()
        losses = pixel_losses(logits, labels)
        found.append((losses, torch.autograd.grad(losses.sum(), logits)[0]))
    assert not found[1][0][0, :2].any()
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)
