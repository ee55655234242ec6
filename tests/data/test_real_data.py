"""The real data sets kept beside the repository; skipped where they are not."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from segtrans.data import VOID, load_data

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"real data are not at {SHARED}")


def label(spec: str, index: int = 0) -> Tensor:
    found = load_data(spec.format(SHARED))[index].label
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("spec", "count", "first", "last"),
    [
        ("voc:{}/voc2012", 248, "2007_000033", "2011_003114"),
        ("voc:{}/voc2012_train?split=train", 2200, "2007_000032", "2011_003255"),
        ("cityscapes:{}/cityscapes", 24, "frankfurt_000000_005543", "munster_000136_000019"),
        ("camvid:{}/camvid", 233, "0001TP_008550", "Seq05VD_f05100"),
        ("camvid:{}/camvid?split=train", 367, "0001TP_006690", "0016E5_08640"),
        ("camvid:{}/camvid?split=val", 101, "0016E5_07959", "0016E5_08159"),
    ],
)
def test_counts_and_ends(spec: str, count: int, first: str, last: str):
    data = load_data(spec.format(SHARED))
    assert (len(data), data.items[0].name, data.items[-1].name) == (count, first, last)
    # A few from all over the set: the shared folder can be slow to read for the first time.
    for i in range(0, count, count // 5):
        sample = data[i]
        assert sample.label is not None
        assert tuple(sample.label.shape) == sample.image.shape[:2]
        assert {*sample.label.unique().tolist()} <= {*range(len(data.classes)), VOID}


def test_training_and_official_validation_images_are_disjoint():
    train = {item.name for item in load_data(f"voc:{SHARED}/voc2012_train?split=train").items}
    assert not train & {item.name for item in load_data(f"voc:{SHARED}/voc2012").items}


def test_voc_sizes_are_mixed():
    sizes = {sample.image.shape for sample in load_data(f"voc:{SHARED}/voc2012").take(12)}
    assert len(sizes) > 3
    assert all(max(size) == 500 for size in sizes)


def test_voc_first_label():
    counts = torch.bincount(label("voc:{}/voc2012").flatten(), minlength=256)
    assert counts.nonzero().flatten().tolist() == [0, 1, VOID]
    assert counts[:2].tolist() == [143868, 30937]


def test_cityscapes_first_label():
    y = label("cityscapes:{}/cityscapes")
    assert y.shape == (1024, 2048)
    counts = torch.bincount(y.flatten(), minlength=256)
    assert counts[:6].tolist() == [641606, 42322, 154160, 575, 36183, 88230]
    # The bonnet of the recording car is void; the middle of the lane before it is road.
    assert (int(y[1015, 1024]), int(y[700, 900])) == (VOID, 0)


def test_camvid_first_label():
    counts = torch.bincount(label("camvid:{}/camvid").flatten(), minlength=256)
    assert counts[:5].tolist() == [36078, 52889, 1001, 35990, 6027]
