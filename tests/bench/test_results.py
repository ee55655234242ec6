"""What the document of a run says: blocks, means, leads, classes, costs."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from toy_run import BARE, CLASSES, cell, network, toy

from cells import leads
from segtrans import bench
from segtrans.bench.summary import Key, class_means, comparison, key, summary
from segtrans.errors import UsageError
from segtrans.models import Ensemble, SegModel
from segtrans.report import write_page
from segtrans.report.ranking import ranking

pytestmark = pytest.mark.usefixtures("toys")


def made(attack: str, surrogate: str, target: str, asr: float, block: str = "other backbone") -> dict[str, Any]:
    names = {"attack": attack, "surrogate": surrogate, "target": target, "seed": 0, "block": block}
    return {**names, "asr_miou": asr, "asr_pixel": 0.5}


def drawn(cells: list[dict[str, Any]], spread: float = 0.0) -> dict[Key, dict[str, Tensor]]:
    around = torch.linspace(-spread, spread, 201, dtype=torch.float64)
    return {key(c): {name: c[name] + around for name in ("asr_miou", "asr_pixel")} for c in cells}


@pytest.mark.parametrize(
    ("ours", "theirs", "block"),
    [
        ("resnet50", "resnet50", "same backbone"),
        ("efficientnet-b0", "timm-efficientnet-b0", "same backbone"),
        ("efficientnet-b0", "tu-efficientnet_b0", "same backbone"),
        ("se_resnet50", "seresnet50", "same backbone"),
        ("resnet50", "tu-resnet50.a1_in1k", "same backbone"),
        ("mobilenet_v3_large", "tu-mobilenetv3_large_100", "same backbone"),
        ("mobilenet_v2", "tu-mobilenetv2_100", "same backbone"),
        ("mobilenet_v2_1.0", "mobilenet_v2_0.5", "other backbone"),
        ("mobilenet_v2_140", "tu-mobilenetv2_140", "same backbone"),
        ("convnextv2_tiny.fcmae", "tu-convnextv2_tiny", "same backbone"),
        ("convnext_tiny.dinov3_lvd1689m", "convnext_tiny", "same backbone"),
        ("fastvit_t8.apple_dist_in1k", "tu-fastvit_t8", "same backbone"),
        ("flexivit_base.300ep_in1k", "flexivit_base", "same backbone"),
        ("se_resnet50", "tu-legacy_seresnet50", "same backbone"),
        ("swin_tiny", "tu-swin_tiny_patch4_window7_224.ms_in1k", "same backbone"),
        ("swin_tiny", "swin_base_patch4_window7_224", "other backbone"),
        ("caformer_s18", "resnet50", "CNN ↔ transformer"),
        ("fastvit_t8", "resnet50", "other backbone"),
        ("resnet50", "resnet101", "other backbone"),
        ("resnet50", "mobilenet_v2", "other backbone"),
        ("mit_b0", "resnet50", "CNN ↔ transformer"),
        ("mit_b0", "swin_t", "other backbone"),
        ("resnet50", "", "unknown backbone"),
        ("", "", "unknown backbone"),
    ],
)
def test_blocks(ours: str, theirs: str, block: str, data: Path, tmp_path: Path) -> None:
    models = {
        name: SegModel(network(i), CLASSES, preprocessing=BARE, name=name, backbone=backbone)
        for i, (name, backbone) in enumerate((("one", ours), ("two", theirs)))
    }
    result = bench.run(
        surrogates=["one"], targets=["two"], models=models, attacks=["noise"], quiet=True, pictures=0,
        data=f"folder:{data}?classes={CLASSES}", out=tmp_path / "run",
    )  # fmt: skip
    assert [c["block"] for c in result["cells"]] == [block]


def test_an_undefined_cell_does_not_blank_the_average() -> None:
    cells = [made("mi", "a", t, v) for t, v in (("b", 0.25), ("c", float("nan")), ("d", 0.75))]
    (row,) = summary(cells, drawn(cells, 0.1))
    assert (row["pairs"], row["asr_miou"], row["asr_pixel"]) == (2, 0.5, 0.5)
    assert row["asr_miou_interval"] == pytest.approx([0.405, 0.595])


def test_intervals_of_means_are_over_the_same_pairs_in_every_replicate() -> None:
    cells = [made("mi", "a", "b", 0.0), made("mi", "a", "c", 0.8)]
    replicates = drawn(cells, 0.1)
    # Most of the replicates of the one have none of the few images that it is defined on.
    replicates[key(cells[0])]["asr_miou"][50:] = torch.nan
    low, high = summary(cells, replicates)[0]["asr_miou_interval"]
    assert 0.3 <= low <= high <= 0.36


def test_attacks_are_compared_pair_by_pair_and_replicate_by_replicate() -> None:
    cells = [
        made("mi", "a", "b", 0.3), made("mi", "c", "b", 0.2), made("mi", "a", "a", 0.9, "white box"),
        made("di", "a", "b", 0.5), made("di", "c", "b", 0.1), made("di", "a", "a", 0.1, "white box"),
        made("di", "a", "d", 0.9, "same backbone"),
    ]  # fmt: skip
    (row,) = comparison(cells, leads(cells, drawn(cells, 0.2)), "mi")
    # What both attacks were scored on, without the white box; the wide spread they share cancels out.
    assert (row["attack"], row["pairs"], row["ahead"]) == ("di", 2, 1)
    assert row["asr_miou"] == pytest.approx(0.05)
    assert row["asr_miou_interval"] == pytest.approx([0.05, 0.05])
    assert row["surrogates"] == pytest.approx({"a": 0.2, "c": -0.1})


def test_leads_are_told_apart_by_block() -> None:
    cells = [
        made(attack, s, t, value, block)
        for attack, values in {"mi": (0.3, 0.2, 0.5), "di": (0.5, 0.1, 0.9)}.items()
        for value, (s, t, block) in zip(
            values,
            [("a", "b", "other backbone"), ("c", "b", "other backbone"), ("a", "d", "same backbone")],
            strict=True,
        )
    ]
    (row,) = comparison(cells, leads(cells, drawn(cells, 0.2)), "mi")
    assert [*row["blocks"]] == ["other backbone", "same backbone"]
    assert row["asr_miou"] == pytest.approx((0.2 - 0.1 + 0.4) / 3)
    assert [lead["pairs"] for lead in row["blocks"].values()] == [2, 1]
    assert [lead["asr_miou"] for lead in row["blocks"].values()] == pytest.approx([0.05, 0.4])
    assert row["blocks"]["same backbone"]["asr_miou_interval"] == pytest.approx([0.4, 0.4])


def test_a_run_with_a_baseline_compares_and_one_without_does_not(go: Callable[..., dict[str, Any]]) -> None:
    result = go(attacks=["noise", "bim", "mi"], baseline="noise")
    assert [row["attack"] for row in result["comparison"]] == ["bim", "mi"]
    for row in result["comparison"]:
        low, high = row["asr_miou_interval"]
        assert low <= row["asr_miou"] <= high
        leads = [
            c["asr_miou"] - n["asr_miou"]
            for c in result["cells"] if c["attack"] == row["attack"] and c["block"] != "white box"
            for n in result["cells"] if n["attack"] == "noise" and n["target"] == c["target"]
        ]  # fmt: skip
        assert row["pairs"] == len(leads) == 2
        assert row["asr_miou"] == pytest.approx(sum(leads) / len(leads))
    assert go()["comparison"] == []
    with pytest.raises(UsageError, match="unknown baseline 'nosie'; did you mean noise"):
        go(attacks=["noise"], baseline="nosie")


def test_classes_have_the_means_of_the_cells(go: Callable[..., dict[str, Any]], data: Path) -> None:
    result = go(attacks=["noise", "mi"], seeds=[0, 1])
    assert [row["attack"] for row in result["class_iou"]] == ["noise", "mi"]
    for row in result["class_iou"]:
        cells = [c for c in result["cells"] if c["attack"] == row["attack"] and c["block"] != "white box"]
        assert (len(cells), len(row["iou"])) == (4, CLASSES)
        for name, mean in (("iou_clean", "miou_clean"), ("iou", "miou")):
            assert sum(row[name]) / CLASSES == pytest.approx(sum(c[mean] for c in cells) / 4)
    assert go(data=f"folder:{data / 'images'}", attacks=["mi"])["class_iou"] == []


def test_classes_that_no_image_shows_are_undefined(go: Callable[..., dict[str, Any]], data: Path) -> None:
    for path in (data / "masks").iterdir():
        mask = np.array(Image.open(path))
        mask[mask == 2] = 1
        Image.fromarray(mask).save(path)
    (row,) = go(attacks=["mi"])["class_iou"]
    # Models do predict the class, which is no reason to call it lost.
    assert (
        [value is None for value in row["iou"]] == [False, False, True, False] == [v is None for v in row["iou_clean"]]
    )


def test_class_means_leave_out_white_boxes_unless_there_is_nothing_else() -> None:
    def made(target: str, block: str) -> dict[str, Any]:
        return {"surrogate": "a", "target": target, "attack": "mi", "seed": 0, "block": block}

    cells = [made("a", "white box"), made("b", "other backbone"), made("c", "same backbone")]
    nan = float("nan")
    values = ([[0.9, 0.9], [0.1, 0.1]], [[0.6, 0.8], [0.5, 0.6]], [[0.8, nan], [0.3, nan]])
    ious = {key(c): torch.tensor(v, dtype=torch.float64) for c, v in zip(cells, values, strict=True)}
    (row,) = class_means(cells, ious)
    assert row["iou_clean"] == pytest.approx([0.7, 0.8])
    assert row["iou"] == pytest.approx([0.4, 0.6])
    assert class_means(cells[:1], ious)[0]["iou"] == pytest.approx([0.1, 0.1])


def test_without_masks_the_clean_prediction_is_the_reference(go: Callable[..., dict[str, Any]], data: Path) -> None:
    result = go(data=f"folder:{data / 'images'}", attacks=["clean", "mi"])
    assert cell(result, attack="clean", target="a:1")["miou_clean"] == 1
    assert cell(result, attack="clean", target="a:1")["asr_miou"] == 0
    assert cell(result, attack="mi", target="a:0")["disagreement"] > 0.1
    assert result["data"]["reference"] == "each target's own clean prediction"


def test_documents_are_strict_json_and_csv(go: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    result = go()
    text = (tmp_path / "run" / "result.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == json.loads(json.dumps(result))
    lines = (tmp_path / "run" / "cells.csv").read_text().splitlines()
    assert len(lines) == 1 + len(result["cells"])
    assert {"surrogate", "target", "attack", "image_set", "asr_miou_interval_low"} <= set(lines[0].split(","))


def test_cells_tell_on_which_images_they_are(go: Callable[..., dict[str, Any]], data: Path) -> None:
    result = go(surrogates=["a:0"], targets=["poisoned:0", "a:1"], attacks=["mi"])
    sets = {cell["target"]: (cell["images"], cell["image_set"]) for cell in result["cells"]}
    assert [images for images, _ in sets.values()] == [5, 6]
    (data / "images" / "5.png").unlink()
    (data / "masks" / "5.png").unlink()
    again = go(surrogates=["a:0"], targets=["a:1"], attacks=["mi"])
    # The same five, whatever the reason.
    assert [cell["image_set"] for cell in again["cells"]] == [sets["poisoned:0"][1]] != [sets["a:1"][1]]


def test_one_image_has_no_interval(go: Callable[..., dict[str, Any]]) -> None:
    result = go(attacks=["noise", "mi"], baseline="noise", limit=1)
    found = [*result["cells"], *result["summary"], *result["comparison"]]
    assert all(entry["asr_pixel"] is not None and entry["asr_pixel_interval"] == [None, None] for entry in found)


def test_steps_are_said_as_listings_say_them(go: Callable[..., dict[str, Any]]) -> None:
    result = go(attacks=["noise", "mi", "l2(eps=5) + mi(step_size=0.5)", "apgd"])
    assert [entry["step"] for entry in result["attacks"].values()] == ["", "eps/4", "0.5", "found"]


def test_a_table_made_of_an_earlier_result_goes_with_it(go: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    stale = tmp_path / "run" / "cells.parquet"
    stale.write_text("")
    go()
    assert not stale.exists()


def test_costs_tell_of_gradients_before_the_first_iteration(go: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    result = go(attacks=["noise", "mi", "fia", "ila"])
    with (tmp_path / "run" / "costs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("gradient_evaluations_of_preparation", "gradient_evaluations_per_iteration", "gradient_evaluations")
    expected = {"noise": [0, 0, 0], "mi": [0, 1, 3], "fia": [30, 1, 33], "ila": [10, 1, 13]}
    assert {cost["attack"]: [cost[name] for name in names] for cost in result["costs"]} == expected
    assert {row["attack"]: [int(row[name]) for name in names] for row in rows} == expected
    assert {name: [found[names[0]], found[names[1]]] for name, found in result["attacks"].items()} == {
        name: counts[:2] for name, counts in expected.items()
    }


def test_each_member_of_an_ensemble_costs_its_own_gradients(go: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    tuned = "variance(samples=2) + mi"
    ensemble = Ensemble([toy("a:0"), toy("b:2")])
    result = go(surrogates=["a:0", "both"], targets=["a:1"], attacks=["noise", "mi", tuned], models={"both": ensemble})
    names = ("gradient_evaluations_per_iteration", "gradient_evaluations")
    assert {(cost["attack"], cost["surrogate"]): tuple(cost[name] for name in names) for cost in result["costs"]} == {
        ("noise", "a:0"): (0, 0), ("noise", "both"): (0, 0),
        ("mi", "a:0"): (1, 3), ("mi", "both"): (2, 6),
        (tuned, "a:0"): (3, 9), (tuned, "both"): (6, 18),
    }  # fmt: skip
    assert {r.attack: r.gradients for r in ranking(result)} == {"noise": "0", "mi": "1–2", tuned: "3–6"}
    assert "each member of an ensemble counts" in write_page(tmp_path / "run", result).read_text(encoding="utf-8")
