"""Pictures from a run's folder alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_run import CLASSES, make_run

from segtrans.data.base import colours
from segtrans.errors import DataError
from segtrans.io import write_json
from segtrans.report import draw_pictures, read_document
from segtrans.report.content import class_colours, short_names
from segtrans.report.pictures import _Type


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert image.mode == "RGB"
        return image.size


def test_one_picture_per_image_and_surrogate(tmp_path: Path) -> None:
    document = make_run(tmp_path, images={"cat": (40, 60), "a/dog": (60, 40)})
    drawn = draw_pictures(tmp_path, document)
    assert [(p.image, p.surrogate) for p in drawn] == [
        (image, surrogate) for image in ("cat", "a/dog") for surrogate in ("zoo:voc/one", "zoo:voc/two")
    ]
    assert {p.path for p in drawn} == {*(tmp_path / "pictures").iterdir()}
    landscape, portrait = size(drawn[0].path), size(drawn[2].path)
    assert landscape[0] > portrait[0]
    assert landscape[1] < portrait[1]


def test_the_same_folder_gives_the_same_pixels(tmp_path: Path) -> None:
    document = make_run(tmp_path)
    first = [p.path.read_bytes() for p in draw_pictures(tmp_path, document)]
    assert [p.path.read_bytes() for p in draw_pictures(tmp_path, document)] == first


@pytest.mark.parametrize("shape", [(16, 160), (120, 40), (50, 50)])
@pytest.mark.parametrize("models", [1, 25])
def test_nothing_touches_the_margin(tmp_path: Path, shape: tuple[int, int], models: int) -> None:
    targets = [f"zoo:voc/a-very-long-model-name-without-end-{i}" for i in range(models)]
    attack = "segpgd + remap(grid=2, window=(0.6, 1)) + mi(decay=0.9) + something else"
    run = {"surrogates": targets[:1], "targets": targets, "attacks": ["noise", attack], "images": {"x": shape}}
    (drawn,) = draw_pictures(tmp_path, make_run(tmp_path, **run))
    with Image.open(drawn.path) as image:
        page = np.asarray(image)
    inside = np.zeros(page.shape[:2], dtype=bool)
    inside[20:-20, 20:-20] = True
    assert (page[~inside] == 255).all()
    assert max(page.shape) < 6000


def test_perturbation_and_masks_are_what_lies_in_the_folder(tmp_path: Path) -> None:
    document = make_run(tmp_path, surrogates=["zoo:one"], targets=["zoo:one"], attacks=["mi"], images={"x": (300, 300)})
    (picture,) = document["pictures"]
    clean = np.asarray(Image.open(tmp_path / picture["image"])).astype(int)
    moved = np.asarray(Image.open(tmp_path / picture["rows"][0]["image"])).astype(int)
    page = np.asarray(Image.open(draw_pictures(tmp_path, document)[0].path)).astype(int)
    # A square image of 300 pixels is shown as it is, so its tiles are found pixel by pixel.
    expected = np.clip(128 + 10 * (moved - clean), 0, 255)
    places = {
        (y, x)
        for y in range(page.shape[0] - 299)
        for x in np.flatnonzero((page[y, : page.shape[1] - 299] == expected[0, 0]).all(-1))
        if (page[y : y + 300, x : x + 300] == expected).all()
    }
    assert len(places) == 1


def test_ground_truth_is_shown_where_there_is_one(tmp_path: Path) -> None:
    with_labels, without = (
        size(draw_pictures(tmp_path, make_run(tmp_path, labelled=labelled))[0].path) for labelled in (True, False)
    )
    assert with_labels[0] == without[0]
    assert with_labels[1] > without[1]  # a line of text below the clean masks


def test_what_was_not_finished_is_left_out(tmp_path: Path) -> None:
    document = make_run(tmp_path, images={"cat": (40, 60), "dog": (40, 60)}, attacks=["mi", "di"])
    full = size(draw_pictures(tmp_path, document)[0].path)
    pictures = {(picture["name"], picture["surrogate"]): picture for picture in document["pictures"]}
    (tmp_path / pictures["cat", "zoo:voc/one"]["rows"][1]["masks"]["zoo:voc/three"]).unlink()
    (tmp_path / pictures["dog", "zoo:voc/one"]["image"]).unlink()
    document["pictures"] = [picture for picture in document["pictures"] if picture["surrogate"] == "zoo:voc/one"]
    (drawn,) = draw_pictures(tmp_path, document)
    assert (drawn.image, drawn.surrogate) == ("cat", "zoo:voc/one")
    assert size(drawn.path)[1] < full[1]


def test_pictures_of_an_earlier_run_do_not_stay(tmp_path: Path) -> None:
    kept = draw_pictures(tmp_path, make_run(tmp_path, images={"cat": (20, 30), "dog": (20, 30)}))[-1]
    assert (kept.image, kept.surrogate) == ("dog", "zoo:voc/two")
    (tmp_path / "pictures" / "mine.png").touch()
    document = make_run(tmp_path, images={"dog": (20, 30)}, surrogates=["zoo:voc/two", "zoo:voc/three"])
    # What can no longer be drawn stays, since there is no other of it.
    (tmp_path / document["pictures"][0]["image"]).unlink()
    assert draw_pictures(tmp_path, document) == []
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {kept.path.name, "mine.png"}


def test_no_pictured_images_no_pictures(tmp_path: Path) -> None:
    assert draw_pictures(tmp_path, make_run(tmp_path, images={})) == []
    assert not (tmp_path / "pictures").exists()


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"result\.json: no such file"):
        read_document(tmp_path)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(DataError, match="not a readable result"):
        read_document(tmp_path)
    (tmp_path / "result.json").write_text("[]")
    with pytest.raises(DataError, match="not the result of a run"):
        read_document(tmp_path)
    document = make_run(tmp_path)
    for older in ({**document, "format": 0}, {k: v for k, v in document.items() if k != "format"}):
        write_json(tmp_path / "result.json", older)
        with pytest.raises(DataError, match=r"result\.json: has format 0, .* reads format 2"):
            read_document(tmp_path)
    write_json(tmp_path / "result.json", {**document, "format": "new"})
    with pytest.raises(DataError, match=r"result\.json: has format 'new'; allowed are whole numbers"):
        read_document(tmp_path)
    for broken in ({**document, "cells": 1}, {k: v for k, v in document.items() if k != "failures"}):
        write_json(tmp_path / "result.json", broken)
        with pytest.raises(DataError, match=r"result\.json: not the result of a run"):
            read_document(tmp_path)
    (tmp_path / document["pictures"][0]["image"]).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cat\.png"):
        draw_pictures(tmp_path, document)


@pytest.mark.parametrize(
    ("names", "short"),
    [
        ({"zoo:voc/a": "zoo:voc/a", "zoo:voc/b": "zoo:voc/b"}, ["a", "b"]),
        ({"hf:/x/net": "/x/net", "hf:/y/other/": "/y/other/"}, ["net", "other"]),
        ({"smp:unet/a": "unet", "smp:unet/a?mean=0,0,0": "unet"}, ["a", "a?mean=0,0,0"]),
        ({"hf:/x/net": "net", "hf:/y/net": "net", "z:o": "o"}, ["hf:/x/net", "hf:/y/net", "o"]),
        ({"one": "/"}, ["/"]),
        ({"mean:zoo:voc/a,zoo:voc/b": "mean:zoo:voc/a,zoo:voc/b", "zoo:voc/b": "zoo:voc/b"}, ["mean:a,b", "b"]),
    ],
)
def test_short_names_tell_models_apart(names: dict[str, str], short: list[str]) -> None:
    document = {"models": {key: {"name": name} for key, name in names.items()}}
    assert list(short_names(document).values()) == short


def test_classes_come_from_the_data_or_else_from_a_model_that_names_them(tmp_path: Path) -> None:
    document = make_run(tmp_path, images={}, labelled=True)
    assert class_colours(document)[1] == ("aeroplane", (40, 160, 128))
    document = make_run(tmp_path, images={})
    first = next(iter(document["models"].values()))
    first["class_names"] = [f"class {i}" for i in range(len(CLASSES))]
    assert class_colours(document) == list(zip(CLASSES, colours(len(CLASSES)), strict=True))
    assert json.loads((tmp_path / "result.json").read_text())["data"]["classes"] == []


def test_names_are_wrapped_at_separators_within_the_width() -> None:
    text = _Type(20)
    assert text.wrap("mi", 300, 3) == ["mi"]
    assert text.wrap("deeplabv3plus-efficientnetlite0", 210, 3) == ["deeplabv3plus-", "efficientnetlite0"]
    assert text.wrap("", 100, 3) == [""]
    lines = text.wrap("x" * 500, 100, 3)
    assert len(lines) == 3
    assert lines[-1].endswith("…")
    assert all(text.width(line) <= 100 for line in lines)
