"""Law 9: counts are additive and order-free, and every measure is what its name says, by independent arithmetic."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from segtrans.data.base import VOID
from segtrans.metrics import HEADLINES, Counts, miou, tally

Case = tuple[int, Tensor, Tensor, Tensor]


@st.composite
def cases(draw: st.DrawFn, least: int = 1) -> Case:
    """Classes, truth with void, clean and attacked predictions of a few small images; some classes may be absent."""
    classes, count = draw(st.integers(2, 6)), draw(st.integers(least, 4))
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    present = random.choice(classes, draw(st.integers(1, classes)), replace=False)
    shape = (count, height, width)
    truth = random.choice([*present, VOID], shape, p=[*[0.8 / len(present)] * len(present), 0.2])
    # Mostly right when clean, mostly wrong when attacked.
    clean = np.where(random.random(shape) < 0.7, truth, random.choice(present, shape))
    attacked = np.where(random.random(shape) < 0.3, clean, random.integers(0, classes, shape))
    return classes, *(
        torch.from_numpy(np.where(a == VOID, 0, a) if a is not truth else a) for a in (truth, clean, attacked)
    )


def counts_of(case: Case) -> Counts:
    classes, truth, clean, attacked = case
    return Counts.of(truth, clean, attacked, classes)


def plainly(case: Case) -> dict[str, float]:
    """The definitions, pixel by pixel."""
    classes, truth, clean, attacked = case
    pixels = [
        (t, c, a)
        for t, c, a in zip(*(v.flatten().tolist() for v in (truth, clean, attacked)), strict=True)
        if t != VOID
    ]

    def iou(which: int) -> float:
        ratios = []
        for k in range(classes):
            both = sum(p[0] == k and p[which] == k for p in pixels)
            either = sum(p[0] == k or p[which] == k for p in pixels)
            if either:
                ratios.append(both / either)
        return sum(ratios) / len(ratios) if ratios else math.nan

    def share(part: list[Any], of: list[Any]) -> float:
        return len(part) / len(of) if of else math.nan

    recalls = []
    for k in range(classes):
        of_class = [p for p in pixels if p[0] == k]
        if of_class:
            recalls.append(share([p for p in of_class if p[2] == k], of_class))
    right = [p for p in pixels if p[1] == p[0]]
    before, after = iou(1), iou(2)
    return {
        "miou_clean": before,
        "miou": after,
        "macc": sum(recalls) / len(recalls) if recalls else math.nan,
        "aacc": share([p for p in pixels if p[2] == p[0]], pixels),
        "asr_miou": 1 - after / before if before else math.nan,
        "asr_pixel": share([p for p in right if p[2] != p[0]], right),
        "apsr": share([p for p in pixels if p[2] != p[0]], pixels),
        "drop": before - after,
        "disagreement": share([p for p in pixels if p[2] != p[1]], pixels),
    }


@given(cases())
def test_measures_are_what_they_are_called(case: Case) -> None:
    found = counts_of(case).measures()
    each = [plainly((case[0], *(v[i : i + 1] for v in case[1:])))["miou"] for i in range(len(case[1]))]
    known = [value for value in each if not math.isnan(value)]
    expected = {**plainly(case), "miou_image": sum(known) / len(known) if known else math.nan}
    assert found == pytest.approx(expected, nan_ok=True, abs=1e-12)
    assert set(HEADLINES) <= set(found)


@given(cases())
def test_miou_is_that_of_torchmetrics(case: Case) -> None:
    """Both leave out classes that neither truth nor prediction contains, and make NaN of void alone."""
    torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is the second opinion on mIoU")
    classes, truth, _, attacked = case
    metric = torchmetrics.classification.MulticlassJaccardIndex(classes, average="macro", ignore_index=VOID)
    # Image by image, so that its accumulation is compared with ours too.
    for prediction, label in zip(attacked, truth, strict=True):
        metric.update(prediction[None], label[None])
    expected = float(metric.compute())
    assert counts_of(case).measures()["miou"] == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert math.isnan(expected) == bool((truth == VOID).all())


def test_an_absent_class_is_left_out_and_a_missed_one_is_zero() -> None:
    truth = torch.tensor([[[0, 0, 1, VOID]]])
    assert miou(tally(truth, torch.tensor([[[0, 0, 1, 2]]]), 4).sum(0)) == 1, "class 2 occurs under void only"
    assert miou(tally(truth, torch.tensor([[[0, 0, 2, 2]]]), 4).sum(0)) == pytest.approx(1 / 3)


@given(cases(least=2), st.randoms(use_true_random=False))
def test_counts_are_additive_and_order_free(case: Case, random: Any) -> None:
    whole = counts_of(case)
    classes, *values = case
    singly = [Counts.of(*(v[i : i + 1] for v in values), classes) for i in range(len(whole))]
    assert same(Counts.concatenate(singly), whole)
    random.shuffle(singly)
    shuffled = Counts.concatenate(singly)
    assert len(shuffled) == len(whole)
    assert shuffled.measures() == pytest.approx(whole.measures(), nan_ok=True, abs=1e-12)
    assert torch.equal(shuffled.attacked.sum(0), whole.attacked.sum(0))


def same(one: Counts, other: Counts) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))


@given(cases())
def test_counts_hold_together(case: Case) -> None:
    classes, truth, *_ = case
    counts = counts_of(case)
    valid = (truth != VOID).sum((1, 2))
    for tallies in (counts.clean, counts.attacked):
        assert tallies.dtype == torch.int64
        assert tallies.shape == (len(truth), 3, classes)
        found, there, predicted = tallies.unbind(1)
        assert torch.equal(there.sum(1), valid)
        assert torch.equal(predicted.sum(1), valid)
        assert (found <= torch.minimum(there, predicted)).all()
        for k in range(classes):
            assert torch.equal(there[:, k], (truth == k).sum((1, 2)))
    assert (counts.flipped <= counts.changed).all()
    assert (counts.changed <= valid).all()
    measures = counts.measures()
    for name, value in measures.items():
        least = -math.inf if name == "asr_miou" else -1 if name == "drop" else 0
        assert math.isnan(value) or least <= value <= 1, name


@given(cases())
def test_no_attack_no_success(case: Case) -> None:
    classes, truth, clean, _ = case
    measures = Counts.of(truth, clean, clean, classes).measures()
    for name in ("asr_miou", "asr_pixel", "drop", "disagreement"):
        assert measures[name] == 0 or math.isnan(measures[name])
    assert measures["miou"] == measures["miou_clean"] or math.isnan(measures["miou"])


def test_success_is_undefined_where_nothing_was_right() -> None:
    truth, wrong = torch.zeros(1, 2, 2, dtype=torch.int64), torch.ones(1, 2, 2, dtype=torch.int64)
    measures = Counts.of(truth, wrong, truth, 2).measures()
    assert math.isnan(measures["asr_miou"])
    assert math.isnan(measures["asr_pixel"])
    assert measures["miou"] == 1
    assert measures["drop"] == -1


def example(count: int = 20, seed: int = 0) -> Counts:
    random = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, 4, (count, 8, 9), generator=random)
    noise = torch.rand(truth.shape, generator=random)
    # Some images are attacked far better than others.
    hard = torch.rand(count, 1, 1, generator=random)
    other = torch.randint(0, 4, truth.shape, generator=random)
    return Counts.of(truth, truth.where(noise < 0.9, other), truth.where(noise < 0.9 * hard, other), 4)


@pytest.mark.parametrize("seed", range(5))
def test_intervals_contain_the_estimate(seed: int) -> None:
    counts = example(seed=seed)
    measures, intervals = counts.measures(), counts.intervals(replicates=200, seed=seed)
    assert set(intervals) == set(HEADLINES)
    for name, (low, high) in intervals.items():
        assert low < measures[name] < high
        assert 0.02 < high - low < 0.6


def test_intervals_narrow_with_level_and_images() -> None:
    def width(counts: Counts, level: float) -> float:
        low, high = counts.intervals(replicates=500, level=level)["asr_pixel"]
        return high - low

    assert width(example(), 0.5) < width(example(), 0.9) < width(example(), 0.99)
    assert width(example(200), 0.95) < width(example(20), 0.95)


def test_intervals_have_their_nominal_width() -> None:
    """For a mean over equally large images the percentile bootstrap is about ±1.96 standard errors."""
    counts = example(100)
    share = counts.flipped.double() / counts.clean[:, 0].sum(1)
    low, high = counts.intervals(replicates=2000)["asr_pixel"]
    assert high - low == pytest.approx(2 * 1.96 * float(share.std()) / 10, rel=0.15)


def test_intervals_repeat_themselves_and_heed_the_seed() -> None:
    state = torch.get_rng_state()
    assert example().intervals(replicates=50) == example().intervals(replicates=50)
    assert example().intervals(replicates=50) != example().intervals(replicates=50, seed=1)
    assert torch.equal(state, torch.get_rng_state())


def test_an_interval_over_one_image_is_its_estimate() -> None:
    counts = example(1)
    for name, ends in counts.intervals(replicates=10).items():
        assert ends == pytest.approx((counts.measures()[name],) * 2)
