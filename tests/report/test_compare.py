"""Two runs beside each other."""

from pathlib import Path

import pytest
from synthetic_run import make_run

from segtrans.errors import DataError
from segtrans.io import write_json
from segtrans.report import write_page
from segtrans.report.compare import compare
from segtrans.report.words import signed


def test_shared_pairs_are_compared(tmp_path: Path) -> None:
    ours = make_run(tmp_path / "a", attacks=["mi", "di"], images={})
    theirs = make_run(tmp_path / "b", attacks=["ni", "mi"], targets=["zoo:voc/one", "zoo:voc/two"], images={})
    for cell in theirs["cells"]:
        cell["asr_miou"] = 0.25 if cell["target"] == "zoo:voc/one" else None
    write_json(tmp_path / "b" / "result.json", theirs)
    found = compare(ours, theirs, "b")
    # Only mi is in both; of its pairs, that of surrogate two on target one is defined in both and no white box.
    (only,) = found.differences
    assert (only.attack, only.pairs, only.theirs) == ("mi", 1, 0.25)
    mean = sum(
        c["asr_miou"]
        for c in ours["cells"]
        if (c["attack"], c["surrogate"], c["target"]) == ("mi", "zoo:voc/two", "zoo:voc/one")
    ) / 2  # fmt: skip
    assert only.ours == pytest.approx(mean)
    assert only.rows == [("one", [pytest.approx(0.65), None, None]), ("two", [pytest.approx(mean - 0.25), None, None])]
    assert found.conditions == []
    text = write_page(tmp_path / "a", ours, tmp_path / "b").read_text(encoding="utf-8")
    assert f'<td class="number">{signed(mean - 0.25)}</td>' in text
    assert "<td>+65.0</td>" in text
    assert 'id="against"' not in write_page(tmp_path / "a", ours).read_text(encoding="utf-8")
    with pytest.raises(DataError, match="no such file"):
        write_page(tmp_path / "a", ours, tmp_path / "c")


def test_white_boxes_are_compared_where_there_is_nothing_else(tmp_path: Path) -> None:
    ours = make_run(tmp_path, surrogates=["zoo:a"], targets=["zoo:a"], attacks=["mi"], images={})
    (only,) = compare(ours, ours, "itself").differences
    assert (only.pairs, only.ours, only.theirs) == (1, pytest.approx(0.9), pytest.approx(0.9))
    none = make_run(tmp_path, surrogates=["zoo:b"], targets=["zoo:b"], attacks=["mi"], images={})
    assert compare(ours, none, "other").differences == []
    assert "No attack was scored" in write_page(tmp_path, none, _other(tmp_path)).read_text(encoding="utf-8")


def _other(root: Path) -> Path:
    make_run(root / "other", surrogates=["zoo:c"], targets=["zoo:c"], attacks=["mi"], images={})
    return root / "other"


def test_other_conditions_are_named(tmp_path: Path) -> None:
    ours = make_run(tmp_path / "a", images={}, eps="4/255", batch=3)
    theirs = make_run(tmp_path / "b", images={}, seeds=[0])
    theirs["data"]["hash"] = "e" * 64
    theirs["models"]["zoo:voc/two"]["hash"] = "f" * 64
    theirs["attacks"]["mi"]["value"] = "another"
    theirs["segtrans"] = "0.0.9"
    ours["environment"]["libraries"] = {"timm": "1.0.1"}
    theirs["environment"] |= {"device": "cuda", "torch": "2.1.0"}
    assert compare(ours, theirs, "b").conditions == [
        "eps is 4/255 here and not set there",
        "seeds is [0, 1] here and [0] there",
        "the images are not the same",
        "zoo:voc/two is not the same model",
        "mi is not the same attack",
        "segtrans is 0.1.0 here and 0.0.9 there",
        "device is cpu here and cuda there",
        "timm is 1.0.1 here and not installed there",
        "torch is 2.13.0 here and 2.1.0 there",
    ]


def test_other_images_and_seeds_of_a_shared_pair_are_named(tmp_path: Path) -> None:
    ours, theirs = (make_run(tmp_path, attacks=["mi", "di"], images={}) for _ in range(2))
    theirs["cells"][0]["image_set"] = "another"  # mi's
    theirs["cells"] = [c for c in theirs["cells"] if (c["attack"], c["target"], c["seed"]) != ("di", "zoo:voc/one", 1)]
    assert compare(ours, theirs, "b").conditions == [
        "mi was not scored on the same images",
        "di was not scored with the same seeds",
    ]


def test_white_boxes_are_told_from_transfer(tmp_path: Path) -> None:
    ours = make_run(tmp_path / "a", attacks=["mi", "di"], images={})
    theirs = make_run(tmp_path / "b", attacks=["mi", "di"], images={})
    theirs["cells"] = [c for c in theirs["cells"] if c["attack"] == "mi" or c["block"] == "white box"]
    write_json(tmp_path / "b" / "result.json", theirs)
    assert [(d.attack, d.white_box) for d in compare(ours, theirs, "b").differences] == [("mi", False), ("di", True)]
    text = write_page(tmp_path / "a", ours, tmp_path / "b").read_text(encoding="utf-8")
    assert text.count("<small>white box</small>") == 1
    assert "left out, and" not in text
