"""The pictures inside the page: what they show, and how much of it fits."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_run import CLASSES, make_run

from segtrans.report import draw_pictures, gallery, write_page
from segtrans.report.content import class_colours
from segtrans.report.gallery import examples
from segtrans.report.pictures import VOID_COLOUR
from segtrans.report.ranking import ranking

ATTACKS = ("noise", "mi", "di", "segtrans")


def opened(address: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB"))


def test_examples_show_the_folder_in_the_order_of_the_ranking(tmp_path: Path) -> None:
    document = make_run(tmp_path, attacks=ATTACKS, images={"cat": (40, 60)}, labelled=True)
    first, second = examples(tmp_path, document)
    assert (first.image, first.surrogate, second.surrogate) == ("cat", "one", "two")
    assert [m.name for m in first.models] == ["one", "two", "three", "ground truth"]
    assert [m.note for m in first.models] == ["surrogate", "same backbone", "", ""]
    assert [a.attack for a in first.attacks] == [r.attack for r in ranking(document)]
    assert {name for name, _ in first.legend} <= {*CLASSES, "void"}
    entry = document["pictures"][0]
    row = next(r for r in entry["rows"] if r["attack"] == first.attacks[1].attack)
    colours = np.array([*(colour for _, colour in class_colours(document)), VOID_COLOUR], dtype=np.uint8)
    for address, masks in ((first.masks, entry["masks"]), (first.attacks[1].masks, row["masks"])):
        sprite = opened(address)
        assert sprite.shape == (4 * 20, 30, 3)  # half as large, three models and the truth
        for i, path in enumerate(
            (*(masks[m] for m in ("zoo:voc/one", "zoo:voc/two", "zoo:voc/three")), entry["labels"])
        ):
            with Image.open(tmp_path / path) as image:
                ids = np.asarray(image.resize((30, 20), Image.Resampling.NEAREST))
            assert (sprite[20 * i : 20 * i + 20] == colours[np.where(ids == 255, len(CLASSES), ids)]).all()
    with Image.open(tmp_path / row["image"]) as image:
        assert np.abs(opened(first.attacks[1].image).astype(int) - np.asarray(image)).mean() < 6


def test_of_many_attacks_the_first_are_shown(tmp_path: Path) -> None:
    attacks = ["noise", *(f"mi(decay=0.{i})" for i in range(12))]
    document = make_run(tmp_path, attacks=attacks, images={"cat": (20, 30)}, surrogates=["zoo:a"], targets=["zoo:a"])
    (example,) = examples(tmp_path, document)
    assert [a.attack for a in example.attacks] == [r.attack for r in ranking(document)][: gallery.MOST_ATTACKS]
    assert example.left_out == 3
    # Nothing is read that is not shown.
    last = ranking(document)[-1].attack
    (left_out,) = (row for row in document["pictures"][0]["rows"] if row["attack"] == last)
    (tmp_path / left_out["image"]).write_bytes(b"no image")
    assert examples(tmp_path, document) == [example]
    assert "and 3 more attacks in the full picture" in write_page(tmp_path, document).read_text(encoding="utf-8")


def test_what_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = make_run(tmp_path, images={f"image {i}": (200, 300) for i in range(3)})
    drawn = draw_pictures(tmp_path, document)
    large = examples(tmp_path, document)
    assert len(large) == 6
    monkeypatch.setattr(gallery, "GALLERY_BYTES", sum(e.bytes for e in large) * 2 // 3)
    smaller = examples(tmp_path, document)
    assert len(smaller) == 6
    assert sum(e.bytes for e in smaller) < gallery.GALLERY_BYTES
    monkeypatch.setattr(gallery, "GALLERY_BYTES", min(e.bytes for e in smaller) * 3 // 2)
    fewer = examples(tmp_path, document)
    assert 1 <= len(fewer) < 6
    assert sum(e.bytes for e in fewer) <= gallery.GALLERY_BYTES
    text = write_page(tmp_path, document).read_text(encoding="utf-8")
    assert f"{6 - len(fewer)} more pictures in <code>pictures/" in text
    for picture in drawn[len(fewer) :]:
        picture.path.unlink()
    assert "in <code>pictures/" not in write_page(tmp_path, document).read_text(encoding="utf-8")


def test_what_was_not_finished_is_left_out(tmp_path: Path) -> None:
    document = make_run(tmp_path, attacks=["mi", "di"], images={"cat": (40, 60), "dog": (40, 60)}, surrogates=["zoo:a"])
    (tmp_path / document["pictures"][0]["rows"][0]["image"]).unlink()
    (tmp_path / document["pictures"][1]["image"]).unlink()
    assert [(e.image, [a.attack for a in e.attacks]) for e in examples(tmp_path, document)] == [("cat", ["di"])]


def test_without_its_ground_truth_an_image_is_left_out(tmp_path: Path) -> None:
    document = make_run(tmp_path, images={"cat": (40, 60), "dog": (40, 60)}, surrogates=["zoo:a"], labelled=True)
    (tmp_path / document["pictures"][0]["labels"]).unlink()
    assert [e.image for e in examples(tmp_path, document)] == ["dog"]
    assert [picture.image for picture in draw_pictures(tmp_path, document)] == ["dog"]
