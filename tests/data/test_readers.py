"""What every registered reader promises, and what each reads in particular."""

import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from trees import SIZES, TREES, mask, photo

from segtrans.data import READERS, VOID, Dataset, load_data
from segtrans.data.cityscapes import cityscapes
from segtrans.errors import DataError, UsageError


@pytest.fixture(params=sorted(READERS))
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    return load_data(TREES[request.param](tmp_path))


def test_every_reader_has_a_tree():
    assert TREES.keys() == READERS.keys()


def test_names_are_unique_and_say_something(data: Dataset):
    names = [item.name for item in data.items]
    assert len(set(names)) == len(names) == len(data) >= 3
    assert all(name and "/" not in name for name in names)


@pytest.mark.parametrize("source", sorted(READERS))
def test_a_file_may_name_the_images(source: str, tmp_path: Path):
    spec, file = TREES[source](tmp_path), tmp_path / "names.txt"
    first, *_, last = load_data(spec).items
    file.write_text(f"{last.name}\n\n{first.name}\n")
    assert load_data(f"{spec}{'&' if '?' in spec else '?'}names={file}").items == (last, first)


def test_images_are_rgb_bytes(data: Dataset):
    for sample in data:
        assert sample.image.dtype == np.uint8
        assert sample.image.ndim == 3
        assert sample.image.shape[2] == 3
        assert sample.image.flags.writeable


def test_labels_are_classes_or_void(data: Dataset):
    for sample, item in zip(data, data.items, strict=True):
        assert (sample.label is None) == (item.mask is None)
        if sample.label is not None:
            assert sample.label.dtype == torch.int64
            assert tuple(sample.label.shape) == sample.image.shape[:2]
            assert {*sample.label.unique().tolist()} <= {*range(len(data.classes)), VOID}


def test_reading_is_deterministic(data: Dataset, tmp_path: Path):
    for first, second in zip(data, data, strict=True):
        assert first.name == second.name
        assert np.array_equal(first.image, second.image)
        if first.label is not None:
            assert second.label is not None
            assert torch.equal(first.label, second.label)


def test_take_is_the_beginning(data: Dataset):
    two = data.take(2)
    assert two.items == data.items[:2]
    assert (two.name, two.classes, two.palette, two.values, two.max_side) == (
        data.name, data.classes, data.palette, data.values, data.max_side,
    )  # fmt: skip
    assert data.take(None) == data.take(len(data)) == data.take(10**6) == data


def test_take_from_all_over(tmp_path: Path):
    for name in "abcdefg":
        photo(tmp_path / f"{name}.png", (20, 24))
    taken = load_data(f"folder:{tmp_path}").take(2, skip=1, every=3)
    assert [item.name for item in taken.items] == ["b", "e"]
    for wrong in ({"skip": -1}, {"every": 0}, {"every": -1}):
        with pytest.raises(UsageError, match=r" is (-1|0); allowed are whole numbers from "):
            taken.take(None, **wrong)


def test_every_class_has_a_colour_of_its_own(data: Dataset):
    assert len(data.palette) == len(data.classes) == len({*data.palette})
    assert all(0 <= channel <= 255 for colour in data.palette for channel in colour)


def test_trees_are_read_at_their_sizes(tmp_path: Path):
    for source in READERS.keys() - {"photos"}:
        data = load_data(TREES[source](tmp_path / source))
        assert sorted(s.image.shape[1::-1] for s in data) == sorted(SIZES)
        assert all(s.label is not None for s in data)


def test_voc_keeps_the_order_of_its_list_and_leaves_the_rest_out(tmp_path: Path):
    data = load_data(TREES["voc"](tmp_path))
    assert [item.name for item in data.items] == ["2007_000002", "2007_000000", "2007_000001"]
    label = data[0].label
    assert label is not None
    assert label.unique().tolist() == [0, 2, 20, 255]
    assert data.palette[15] == (192, 128, 128)  # the devkit's person


@pytest.mark.parametrize("inner", ["VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_accepts_its_inner_folders(tmp_path: Path, inner: str):
    TREES["voc"](tmp_path)
    assert len(load_data(f"voc:{tmp_path / inner}")) == 3


def test_voc_reads_the_augmented_layout(tmp_path: Path):
    photo(tmp_path / "JPEGImages" / "a.jpg")
    mask(tmp_path / "SegmentationClassAug" / "a.png", values=(3, 255))
    (tmp_path / "train.txt").write_text("\ufeffa\r\n\r\n", encoding="utf-8")
    (sample,) = load_data(f"voc:{tmp_path}?split=train")
    assert sample.label is not None
    assert sample.label.unique().tolist() == [3, 255]


def test_cityscapes_maps_label_ids_to_train_ids(tmp_path: Path):
    TREES["cityscapes"](tmp_path)
    data = cityscapes(tmp_path)
    named = {"road": 7, "building": 11, "pole": 17, "traffic light": 19, "sky": 23, "person": 24, "bicycle": 33}
    assert {name: data.values.index(data.classes.index(name)) for name in named} == named
    assert sum(v == VOID for v in data.values) == 34 - 19 + 1
    # unlabelled, ego vehicle, parking, rail track, guard rail, bridge, tunnel, pole group, caravan, trailer
    assert all(data.values[v] == VOID for v in (0, 1, 9, 10, 14, 15, 16, 18, 29, 30))
    label = data[0].label
    assert label is not None
    assert label.flatten()[:34].tolist() == list(data.values[:34])
    assert data.items[0].name == "aachen_000000_000019"


def test_camvid_eleven_is_void(tmp_path: Path):
    label = load_data(TREES["camvid"](tmp_path))[0].label
    assert label is not None
    assert label.flatten()[:12].tolist() == [*range(11), VOID]


def test_ade20k_zero_is_void_and_the_rest_moves_down(tmp_path: Path):
    data = load_data(TREES["ade20k"](tmp_path))
    label = data[0].label
    assert label is not None
    assert label.flatten()[:4].tolist() == [VOID, 0, 1, 149]
    assert len({*data.classes}) == 150
    assert (data.classes[0], data.classes[12], data.classes[75], data.classes[149]) == (
        "wall", "person", "swivel chair", "flag",
    )  # fmt: skip
    assert load_data(f"ade20k:{tmp_path}?split=val") == data


def test_folder_with_subfolders_and_class_names(tmp_path: Path):
    data = load_data(TREES["folder"](tmp_path / "my set"))
    assert data.name == "my set"
    assert data.classes == ("background", "red thing", "blue thing")
    assert data.items[0].name == "Straße 0 – früh.v2"


def test_folder_with_masks_elsewhere(tmp_path: Path):
    photo(tmp_path / "a" / "x.JPG")
    mask(tmp_path / "b" / "x.png", values=(0, 4))
    data = load_data(f"folder:{tmp_path}/a?masks={tmp_path}/b&classes=5")
    assert data.classes == tuple(f"class {i}" for i in range(5))
    assert data[0].label is not None


def test_folder_without_masks_has_no_labels(tmp_path: Path):
    photo(tmp_path / "x.jpg", (40, 20))
    (tmp_path / "notes.txt").write_text("no image")
    photo(tmp_path / ".hidden.png")
    (tmp_path / "album").mkdir()
    data = load_data(f"folder:{tmp_path}?side=10")
    assert data.classes == ()
    (sample,) = data
    assert sample.label is None
    assert sample.image.shape == (5, 10, 3)


def test_what_is_called_an_image_but_is_no_file_is_named(tmp_path: Path):
    photo(tmp_path / "x.jpg")
    (tmp_path / "album.png").mkdir()
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere")
    data = load_data(f"folder:{tmp_path}")
    assert [item.name for item in data.items] == ["album", "lost", "x"]
    with pytest.raises(DataError, match=r"album\.png: not a readable image \(it is no file\)"):
        data[0]
    with pytest.raises(DataError, match=r"lost\.png: no such file"):
        data[1]


def test_photos_need_no_network(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    samples = {sample.name: sample for sample in load_data("photos")}
    assert [*samples] == ["astronaut", "camera", "chelsea", "coffee", "motorcycle", "rocket"]
    assert all(max(s.image.shape) == 288 and s.label is None for s in samples.values())
    assert samples["motorcycle"].image.shape == (194, 288, 3)
    assert all(s.image.std() > 20 for s in samples.values())


def test_photos_at_full_size():
    assert load_data("photos?side=5000")[0].image.shape == (512, 512, 3)
