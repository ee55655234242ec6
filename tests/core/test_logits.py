"""Decisions are argmax's, and what is no number is seen wherever it stands."""

import math

import pytest
import torch

from segtrans.logits import finite_images, predicted_classes


@pytest.mark.parametrize("classes", [1, 2, 21, 255, 300])
def test_the_class_is_the_first_of_the_largest(classes: int) -> None:
    random = torch.Generator().manual_seed(0)
    # Few values, so that many are equal.
    logits = torch.randint(-3, 4, (2, classes, 5, 7), generator=random).float()
    expected = [
        [[max(range(classes), key=z[:, i, j].tolist().__getitem__) for j in range(7)] for i in range(5)] for z in logits
    ]
    assert torch.equal(predicted_classes(logits), torch.tensor(expected))
    assert predicted_classes(logits).dtype == torch.int64


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_bad_number_is_one_bad_image(value: float) -> None:
    for place in range(4):
        logits = torch.zeros(3, 4, 2, 2)
        logits[1, place, 1, 0] = value
        assert finite_images(logits).tolist() == [True, False, True]
        assert int(predicted_classes(logits).max()) < 4, "a class that is none could not be kept as one"
