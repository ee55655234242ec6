"""The hf reader: tables with pictures in them, pictures beside tables, and what is neither."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trees import SIZES, TREES, mask, photo

pytest.importorskip("datasets")

import datasets

from segtrans.bench.identity import image_hashes
from segtrans.data import VOID, load_data
from segtrans.errors import DataError, MissingError, UsageError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache" / "segtrans"


def table(root: Path) -> Any:
    columns: dict[str, list[Any]] = {"image": [], "annotation": [], "scene": []}
    for i, size in enumerate(SIZES):
        files = {"image": photo(root / f"{i}.jpg", size, seed=i)}
        files["annotation"] = mask(root / f"{i}.png", size, (0, 1, 2, 255))
        for column, file in files.items():
            columns[column].append({"bytes": file.read_bytes(), "path": file.name})
        columns["scene"].append("street")
    pictures = dict.fromkeys(("image", "annotation"), datasets.Image())
    features = datasets.Features({**pictures, "scene": datasets.Value("string")})
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """As data sets lie on the hub."""
    root = tmp_path / "named"
    (root / "data").mkdir(parents=True)
    table(tmp_path / "files").to_parquet(root / "data" / "validation-00000-of-00001.parquet")
    (root / "classes.txt").write_text("sky\ntree\nroad\n")
    return root


def same_as_files(data: Any, files: Path) -> None:
    for i, sample in enumerate(data):
        assert sample.name == f"00000{i}"
        assert np.array_equal(sample.image, np.array(Image.open(files / f"{i}.jpg")))
        values = np.array(Image.open(files / f"{i}.png"))
        assert np.array_equal(sample.label.numpy(), values)


def test_pictures_inside_a_table_are_copied_once(parquet: Path, tmp_path: Path, cache: Path) -> None:
    data = load_data(f"hf:{parquet}?mask=annotation")
    assert (data.name, data.classes, len(data)) == ("named", ("sky", "tree", "road"), 3)
    same_as_files(data, tmp_path / "files")
    copies = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(copies) == 6
    assert {path.read_bytes() for path in copies} == {p.read_bytes() for p in (tmp_path / "files").iterdir()}
    assert load_data(f"hf:{parquet}?mask=annotation") == data
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == copies
    elsewhere = load_data(f"hf:{parquet}?mask=annotation&cache={tmp_path}/elsewhere")
    assert {item.image.parent for item in elsewhere.items} == {tmp_path / "elsewhere"}
    assert image_hashes(elsewhere) == image_hashes(data)


def test_pictures_beside_a_table_stay_where_they_are(tmp_path: Path, cache: Path) -> None:
    table(tmp_path / "validation")
    rows = [{"file_name": f"{i}.jpg", "annotation_file_name": f"{i}.png"} for i in range(len(SIZES))]
    (tmp_path / "validation" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = load_data(f"hf:{tmp_path}?mask=annotation&classes=3")
    assert [item.image for item in data.items] == [tmp_path / "validation" / f"{i}.jpg" for i in range(3)]
    same_as_files(data, tmp_path / "validation")
    assert not cache.exists()


def test_a_saved_data_set_and_its_first_class(tmp_path: Path) -> None:
    datasets.DatasetDict(mine=table(tmp_path / "files")).save_to_disk(tmp_path / "saved")
    data = load_data(f"hf:{tmp_path}/saved?split=mine&mask=annotation&classes=2&first=1")
    assert data[0].label is not None
    assert data[0].label.unique().tolist() == [0, 1, VOID]
    assert data.values[:4] == (VOID, 0, 1, -1)
    bare = load_data(f"hf:{tmp_path}/saved?split=mine")
    assert bare[0].label is None
    with pytest.raises(UsageError, match=r"unknown split of .*saved 'nine'; did you mean mine"):
        load_data(f"hf:{tmp_path}/saved?split=nine")


def test_a_saved_split_is_not_taken_for_another(tmp_path: Path) -> None:
    one = table(tmp_path / "files")
    datasets.Dataset.from_dict(one.to_dict(), features=one.features, split=datasets.Split.TEST).save_to_disk(
        tmp_path / "saved"
    )
    assert len(load_data(f"hf:{tmp_path}/saved?split=test")) == len(load_data(f"hf:{tmp_path}/saved")) == len(one)
    for other in ("train", "validation"):
        with pytest.raises(UsageError, match=f"saved is split 'test' alone, and split is {other!r}"):
            load_data(f"hf:{tmp_path}/saved?split={other}")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ("?image=picture", UsageError, "unknown column of pictures in .* 'picture'; known: annotation, image"),
        ("?mask=scene&classes=2", UsageError, "unknown column of pictures in .* 'scene'"),
        ("?classes=3", UsageError, "classes=3 but no masks; add mask=COLUMN"),
        ("?mask=annotation&first=-2", UsageError, "first is -2; allowed are whole numbers from 0"),
        ("?mask=annotation&first=254", UsageError, "3 classes from mask value 254 on; masks have values up to 255"),
        ("?mask=annotation&classes=2", UsageError, "3 class names, but classes=2"),
        ("?split=train", DataError, "named: not a data set whose split 'train' can be loaded .*Unknown split"),
    ],
)
def test_mistakes_are_named(parquet: Path, options: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as error:
        load_data(f"hf:{parquet}{options}")
    assert "\n" not in str(error.value)


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        load_data(f"hf:{tmp_path}/nowhere")
    with pytest.raises(MissingError, match=r"'nobody/nothing' is no folder here, and split 'validation' could not be"):
        load_data("hf:nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: not a data set whose split 'validation' can be loaded"):
        load_data(f"hf:{tmp_path}/empty")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingError, match=r"pip install 'segtrans\[hf\]'"):
        load_data("hf:nobody/nothing")


def test_the_tree_is_a_table_of_bytes(tmp_path: Path) -> None:
    load_data(TREES["hf"](tmp_path))
    assert len(list((tmp_path / "copies").iterdir())) == 6
