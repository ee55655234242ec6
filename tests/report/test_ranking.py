"""What may be compared: means over the same pairs, seeds and images, within the same budget."""

from pathlib import Path
from typing import Any

import pytest
from synthetic_run import make_run, replicates

from segtrans.bench.summary import OTHER_BACKBONE, summary
from segtrans.report import write_page
from segtrans.report.origin import sentence
from segtrans.report.plot import points
from segtrans.report.ranking import headline, incomplete, lacking

TWO = {"surrogates": ["zoo:a"], "targets": ["zoo:c", "zoo:d"], "attacks": ["noise", "mi", "di", "segtrans"]}


def made(root: Path, **settings: Any) -> dict[str, Any]:
    """Scores on two other models, of which ``mi`` has the highest."""
    document = make_run(root, **{"images": {}, **TWO, **settings})
    for cell in document["cells"]:
        cell |= {"block": OTHER_BACKBONE, "asr_miou": {"noise": 0.1, "mi": 0.9}.get(cell["attack"], 0.5)}
    return summed(document)


def summed(document: dict[str, Any]) -> dict[str, Any]:
    document["summary"] = summary(document["cells"], replicates(document["cells"]))
    return document


@pytest.mark.parametrize(
    ("lost", "changed", "words"),
    [
        ({"target": "zoo:d"}, {}, "1 of 2 pairs"),
        ({"seed": 1}, {}, "1 of 2 seeds"),
        ({"seed": 1, "target": "zoo:d"}, {}, "1 of 2 seeds"),
        ({}, {"images": 3, "image_set": "other"}, "3 of 7 images"),
        ({}, {"image_set": "other"}, "on other images"),
    ],
)
def test_attacks_are_compared_on_the_same(
    tmp_path: Path, lost: dict[str, Any], changed: dict[str, Any], words: str
) -> None:
    document = made(tmp_path)
    assert incomplete(document) == []
    assert headline(document).startswith("mi takes 90.0 %")
    ours = [cell for cell in document["cells"] if cell["attack"] == "mi"]
    for cell in ours:
        if lost and lost.items() <= cell.items():
            document["cells"].remove(cell)
    ours[0] |= changed
    summed(document)
    assert lacking(document, OTHER_BACKBONE) == {"mi": words}
    assert incomplete(document) == [f"mi ({words} in other backbone)"]
    assert headline(document).startswith("di takes 50.0 %")
    assert "mi" not in headline(document).replace("mIoU", "").split()


def test_as_many_pairs_need_not_be_the_same(tmp_path: Path) -> None:
    document = made(tmp_path, attacks=["mi", "di"])
    at = {"mi": "zoo:c", "di": "zoo:d"}
    document["cells"] = [cell for cell in document["cells"] if cell["target"] == at[cell["attack"]]]
    summed(document)
    assert lacking(document, OTHER_BACKBONE) == {"mi": "1 of 2 pairs", "di": "1 of 2 pairs"}
    assert headline(document) == ""


def test_budgets_are_not_mixed(tmp_path: Path) -> None:
    document = made(tmp_path)
    plain = write_page(tmp_path, document).read_text(encoding="utf-8")
    assert "budget L-inf 8/255</small>" not in plain
    assert {p.attack for p in points(document) if p.front} == {"mi"}
    document["attacks"]["mi"] |= {"eps": "1"}
    document["attacks"]["segtrans"] |= {"eps": "1", "gradient_evaluations_per_iteration": 1}
    for cost in document["costs"]:
        cost["gradient_evaluations"] = {"noise": 0, "mi": 20, "di": 5, "segtrans": 10}[cost["attack"]]
    assert headline(document) == (
        "mi (budget none) takes 90.0 % of the clean mIoU away on average over 2 pairs of models with other backbones "
        "(segtrans 50.0 %)."
    )
    assert {p.attack for p in points(document) if p.front} == {"mi", "segtrans"}
    assert "; budget L-inf 8/255 and none; " in sentence(document)
    text = write_page(tmp_path, document).read_text(encoding="utf-8")
    assert text.count("budget none</small>") == text.count("budget L-inf 8/255</small>") == 2
    assert "<small>control: uniform noise within the budget; budget L-inf 8/255</small>" in text
    assert "A larger budget takes more" in text
