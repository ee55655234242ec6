"""Data that is not as it should be: each case is one sentence that names the file, the value and what is allowed."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trees import TREES, mask, photo

from segtrans.data import Dataset, Item, Sample, load_data
from segtrans.data.base import colours, identity_values, resize, shrink
from segtrans.errors import DataError, SegtransError, UsageError


def says(message: str, kind: type[SegtransError] = DataError) -> "pytest.RaisesExc[SegtransError]":
    return pytest.raises(kind, match=re.escape(message))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder data set of one 14×9 image ``x`` with a mask of the classes 0 and 1."""
    photo(tmp_path / "images" / "x.jpg")
    mask(tmp_path / "masks" / "x.png")
    return tmp_path


def load(root: Path, classes: int = 2) -> Dataset:
    return load_data(f"folder:{root}?classes={classes}")


def test_mask_of_another_size(root: Path):
    mask(root / "masks" / "x.png", (14, 8))
    with says(f"{root}/masks/x.png: mask is 14×8 but its image is 14×9 (width×height)") as caught:
        load(root)[0]
    assert "EXIF" not in str(caught.value)


def test_mask_of_an_exif_turned_photograph(root: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(root / "images" / "x.jpg").save(root / "images" / "x.jpg", exif=exif)
    with says("mask is 14×9 but its image is 9×14 (width×height); the photograph's EXIF tag turns it by 90°"):
        load(root)[0]
    mask(root / "masks" / "x.png", (9, 14))
    sample = load(root)[0]
    assert sample.image.shape == (14, 9, 3)


def test_label_out_of_range(root: Path):
    mask(root / "masks" / "x.png", values=(0, 1, 2, 7, 255))
    with says(f"{root}/masks/x.png: mask value 2 is no class of '{root.name}'; allowed are 0 to 1, 255"):
        load(root)[0]


@pytest.mark.parametrize(
    ("source", "file", "value", "allowed"),
    [
        ("camvid", "testannot/0001TP_000.png", 12, "0 to 11, 255"),
        ("cityscapes", "gtFine/val/aachen/aachen_000000_000019_gtFine_labelIds.png", 34, "0 to 33, 255"),
        ("ade20k", "ADEChallengeData2016/annotations/validation/ADE_val_00000000.png", 151, "0 to 150"),
        ("voc", "VOCdevkit/VOC2012/SegmentationClass/2007_000000.png", 21, "0 to 20, 255"),
    ],
)
def test_label_out_of_range_says_what_the_file_may_hold(
    tmp_path: Path, source: str, file: str, value: int, allowed: str
):
    spec = TREES[source](tmp_path)
    mask(tmp_path / file, (14, 9), (1, value))
    with says(f"{tmp_path / file}: mask value {value} is no class of {source!r}; allowed are {allowed}"):
        list(load_data(spec))


def test_image_without_mask(root: Path):
    photo(root / "images" / "y.png")
    with says(f"{root}/images/y.png: no mask for this image; expected {root}/masks/y.*"):
        load(root)


def test_mask_without_image_is_left_alone(root: Path):
    mask(root / "masks" / "y.png")
    assert len(load(root)) == 1


def test_two_images_of_one_name(root: Path):
    photo(root / "images" / "x.png")
    with says(f"{root}/images/x.png: same name as x.jpg; names must differ in more than the suffix"):
        load(root)


def test_empty_folder(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("nothing to see")
    with says(f"{tmp_path}: no images here; allowed are *{{.bmp,.jpeg,.jpg,"):
        load_data(f"folder:{tmp_path}")


def test_split_that_lists_a_missing_image(tmp_path: Path):
    spec = TREES["voc"](tmp_path)
    (tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").write_text("2007_000000\n2007_000009\n")
    with says("JPEGImages/2007_000009.*: no such image, though the split lists it"):
        load_data(spec)


def test_split_cannot_leave_its_folder(tmp_path: Path):
    spec = TREES["voc"](tmp_path)
    photo(tmp_path / "secret.jpg")
    (tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").write_text("../../../secret\n")
    with says("no such image, though the split lists it"):
        load_data(spec)


def test_split_with_a_name_twice_none_or_no_text(tmp_path: Path):
    spec = TREES["voc"](tmp_path)
    names = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    names.write_text("2007_000000\n2007_000000\n")
    with says("data set 'voc' has two images named '2007_000000'"):
        load_data(spec)
    names.write_text("\n\n")
    with says("data set 'voc' has no images"):
        load_data(spec)
    names.write_bytes(b"\xff\xfe\x00")
    with says(f"{names}: not a readable list of names"):
        load_data(spec)


def test_cityscapes_without_one_mask(tmp_path: Path):
    spec = TREES["cityscapes"](tmp_path)
    (tmp_path / "gtFine/val/aachen/aachen_000001_000019_gtFine_labelIds.png").unlink()
    with says("aachen_000001_000019_leftImg8bit.png: no mask for this image; expected") as caught:
        load_data(spec)
    assert "aachen_000001_000019_gtFine_labelIds.*" in str(caught.value)


def test_folder_options_that_do_not_fit(root: Path):
    with says(f"{root}: masks need their number of classes; expected classes=N or one name per line", UsageError):
        load_data(f"folder:{root}")
    with says(f"{root}/images: classes=3 but no masks; expected masks=PATH", UsageError):
        load_data(f"folder:{root}/images?classes=3")
    for classes in (0, -1, 256):
        with says("allowed are 1 to 255", UsageError):
            load(root, classes)
    (root / "classes.txt").write_text("a\nb\nc\n")
    with says(f"{root}/classes.txt: 3 class names, but classes=2", UsageError):
        load(root)
    assert load(root, 3).classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"palette": colours(1)}, "has 2 classes but 1 colours"),
        ({"values": (0, 1)}, "values must map each of 256 mask values to 0 to 1, 255 or -1"),
        ({"values": identity_values(3)}, "values must map each of 256 mask values"),
        ({"classes": (), "palette": ()}, "has masks but no classes"),
        ({"max_side": 0}, "side is 0"),
    ],
)
def test_a_dataset_is_consistent(change: dict[str, object], message: str):
    right: dict[str, object] = {
        "name": "d",
        "items": (Item("x", Path("x.jpg"), Path("x.png")),),
        "classes": ("a", "b"),
        "palette": colours(2),
        "values": identity_values(2),
    }
    Dataset(**right)  # type: ignore[arg-type]
    with says(message, UsageError):
        Dataset(**{**right, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("call", [lambda d: d.take(0), lambda d: d.take(-1), lambda d: resize(d[0], 0)])
def test_sizes_and_limits_start_at_one(root: Path, call: Callable[[Dataset], object]):
    with says("allowed are whole numbers from 1", UsageError):
        call(load(root))


def sample(height: int, width: int) -> Sample:
    """An image whose left half is white, and labelled 1."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[:, : width // 2] = 255
    label = torch.zeros(height, width, dtype=torch.int64)
    label[:, : width // 2] = 1
    label[0] = 255
    return Sample("s", image, label)


def test_resize_squeezes_and_keeps_labels_with_pixels():
    squeezed = resize(sample(40, 80), 16)
    assert squeezed.image.shape == (16, 16, 3)
    assert squeezed.image.dtype == np.uint8
    assert squeezed.label is not None
    assert squeezed.label.dtype == torch.int64
    assert {*squeezed.label.unique().tolist()} <= {0, 1, 255}
    inside = squeezed.label[4:] == torch.from_numpy(squeezed.image[4:, :, 0] > 127).long()
    assert bool(inside.all())
    assert resize(Sample("s", squeezed.image, None), 8).label is None


def test_resize_is_antialiased():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize(Sample("s", stripes, None), 16).image[:, 2:-2].astype(int) - 127).max() <= 2


def test_resize_to_the_same_size_changes_nothing():
    before = sample(16, 16)
    after = resize(before, 16)
    assert np.array_equal(after.image, before.image)
    assert before.label is not None
    assert after.label is not None
    assert torch.equal(after.label, before.label)


def test_shrink_keeps_proportions_and_never_enlarges():
    assert shrink(sample(40, 80), 20).image.shape == (10, 20, 3)
    assert shrink(sample(300, 1), 30).image.shape == (30, 1, 3)
    small = sample(8, 9)
    assert shrink(small, 9) is small
