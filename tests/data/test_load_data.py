"""The spelling of data sets: `source:path?key=value`."""

import re
from pathlib import Path

import pytest
from trees import TREES, mask, photo

from segtrans.data import READERS, load_data
from segtrans.errors import DataError, UsageError


def test_every_source_is_explained():
    assert load_data.__doc__ is not None
    assert all(f"``{source}" in load_data.__doc__ for source in READERS)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vox:/data", "unknown data set 'vox'; did you mean voc?"),
        ("citiscapes:/data", "did you mean cityscapes?"),
        ("", "unknown data set ''; known: ade20k, camvid, cityscapes, folder, hf, photos, voc"),
        ("voc", "data set 'voc' needs a folder: voc:PATH"),
        ("voc:?split=val", "data set 'voc' needs a folder: voc:PATH"),
        ("photos:/data", "data set 'photos' takes no path, got '/data'"),
        ("voc:/data?spilt=val", "unknown option of data set 'voc' 'spilt'; did you mean split?"),
        ("voc:/data?root=/etc", "unknown option of data set 'voc' 'root'"),
        ("voc:/data?split", "option 'split' of data set 'voc' has no value; expected split=VALUE"),
        ("voc:/data?split=", "option 'split' of data set 'voc' has no value"),
        ("voc:/data?split=a&split=b", "option 'split' of data set 'voc' is given twice"),
        ("photos?side=big", "option 'side' of data set 'photos' is 'big'; expected a whole number"),
        ("photos?side=0", "side is 0; allowed are whole numbers from 1"),
    ],
)
def test_mistakes_are_named(spec: str, message: str):
    with pytest.raises(UsageError, match=re.escape(message)):
        load_data(spec)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("voc", "expected JPEGImages/ beside ImageSets/Segmentation/val.txt and SegmentationClass/, or val.txt and"),
        ("cityscapes", "expected leftImg8bit/val/CITY/*_leftImg8bit.png and gtFine/val/CITY/*_gtFine_labelIds.png"),
        ("camvid", "expected test.txt, test/ and testannot/"),
        ("ade20k", "expected images/validation/*.jpg and annotations/validation/*.png"),
        ("folder", "no such folder"),
    ],
)
def test_a_missing_folder_says_what_was_expected(tmp_path: Path, source: str, message: str):
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        load_data(f"{source}:{tmp_path}/nowhere")
    assert str(caught.value).startswith(f"{tmp_path}/nowhere: ")
    assert caught.value.exit_code == 4


def test_a_missing_split_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="no Cityscapes split 'tset' here"):
        load_data(f"{TREES['cityscapes'](tmp_path)}?split=tset")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("2007_000000\n2007_999999\n", "names '2007_999999'; data set 'voc' has no such image"),
        ("2007_000000\n2007_000000\n", "data set 'voc' has two images named '2007_000000'"),
        ("\n", "names no image"),
    ],
)
def test_names_that_are_not_there_are_named(tmp_path: Path, lines: str, message: str):
    file = tmp_path / "names.txt"
    file.write_text(lines)
    with pytest.raises(DataError, match=re.escape(message)):
        load_data(f"{TREES['voc'](tmp_path)}?names={file}")
    with pytest.raises(DataError, match=r"nowhere\.txt: no such file"):
        load_data(f"{TREES['voc'](tmp_path / 'again')}?names={tmp_path}/nowhere.txt")


def test_the_home_folder_and_odd_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    photo(tmp_path / "a + b%20:c" / "x.png")
    mask(tmp_path / "m=1" / "x.png")
    data = load_data("folder:~/a + b%20:c?masks=~/m=1&classes=2")
    assert data.items[0].image == tmp_path / "a + b%20:c" / "x.png"
    assert data[0].label is not None
