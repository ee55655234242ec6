"""One worked example; the general laws are in tests/laws."""

import tracemalloc

import numpy as np
import pytest
import torch

from segtrans.data.base import VOID
from segtrans.errors import UsageError
from segtrans.metrics import Counts, miou, resamples, tally

TRUTH = torch.tensor([[[0, 0, 0, 0], [1, 1, VOID, VOID]], [[1, 1, 1, 1], [1, 1, 1, 0]]])
CLEAN = torch.tensor([[[0, 0, 0, 1], [1, 1, 0, 1]], [[1, 1, 1, 1], [1, 1, 0, 0]]])
AFTER = torch.tensor([[[1, 1, 0, 0], [1, 0, 2, 2]], [[1, 1, 1, 1], [1, 1, 0, 0]]])


def test_a_worked_example() -> None:
    counts = Counts.of(TRUTH, CLEAN, AFTER, 3)
    # Found, true and predicted pixels of each class.
    assert counts.clean.tolist() == [[[3, 2, 0], [4, 2, 0], [3, 3, 0]], [[1, 6, 0], [1, 7, 0], [2, 6, 0]]]
    assert counts.attacked.tolist() == [[[2, 1, 0], [4, 2, 0], [3, 3, 0]], [[1, 6, 0], [1, 7, 0], [2, 6, 0]]]
    assert counts.flipped.tolist() == [3, 0]
    assert counts.changed.tolist() == [4, 0]
    clean, after = (4 / 6 + 8 / 10) / 2, (3 / 7 + 7 / 11) / 2
    assert counts.measures() == pytest.approx(
        {
            "miou_clean": clean,
            "miou": after,
            "macc": (3 / 5 + 7 / 9) / 2,
            "aacc": 10 / 14,
            "asr_miou": 1 - after / clean,
            "asr_pixel": 3 / 12,
            "apsr": 4 / 14,
            "drop": clean - after,
            "disagreement": 4 / 14,
            "miou_image": ((2 / 5 + 1 / 4) / 2 + (1 / 2 + 6 / 7) / 2) / 2,
        }
    )


def test_the_data_sets_miou_is_not_the_mean_of_the_images() -> None:
    measures = Counts.of(TRUTH, CLEAN, AFTER, 3).measures()
    assert measures["miou"] != pytest.approx(measures["miou_image"])


def test_nothing_scored_is_an_error() -> None:
    with pytest.raises(UsageError, match="no image was scored"):
        Counts.concatenate([])


def test_more_classes_than_occur_change_nothing() -> None:
    few, many = Counts.of(TRUTH, CLEAN, AFTER, 3), Counts.of(TRUTH, CLEAN, AFTER, 150)
    assert few.measures() == pytest.approx(many.measures())


def test_miou_of_many_tallies_at_once() -> None:
    tallies = tally(TRUTH, AFTER, 3)
    assert torch.equal(miou(tallies), torch.stack([miou(t) for t in tallies]))


def test_some_images_have_their_own_counts() -> None:
    both, second = Counts.of(TRUTH, CLEAN, AFTER, 3), Counts.of(TRUTH[1:], CLEAN[1:], AFTER[1:], 3)
    assert both[[1]].measures() == second.measures()
    assert both[[1, 0]].measures() == pytest.approx(both.measures())


def test_rare_classes_can_be_left_out() -> None:
    """One stray pixel of a class that the truth lacks, or hardly has, then changes next to nothing."""
    counts = torch.tensor([[6000, 3999, 0], [6001, 3999, 0], [6000, 3999, 1]])
    assert float(miou(counts)) == pytest.approx((6000 / 6001 + 1 + 0) / 3)
    assert float(miou(counts, least=0.01)) == pytest.approx((6000 / 6001 + 1) / 2)
    counts[:, 2] = torch.tensor([50, 50, 51])
    assert float(miou(counts, least=0.01)) == pytest.approx((6000 / 6001 + 1) / 2)
    counts[:, 2] = torch.tensor([500, 500, 501])
    assert float(miou(counts, least=0.01)) == pytest.approx(float(miou(counts)))


def test_resampling_takes_little_memory_and_is_what_it_would_be_at_once() -> None:
    tracemalloc.start()
    try:
        weights = resamples(4000)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8e6, "a byte per image and replicate, and some replicates at work"
    at_once = np.random.default_rng(0).multinomial(4000, [1 / 4000] * 4000, size=1000)
    assert np.array_equal(weights.numpy(), at_once)
