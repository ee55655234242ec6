"""The main job on toy models: what is scored, kept, resumed and reported."""

import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from segtrans import bench
from segtrans.attack import Attack
from segtrans.bench import plan as planning
from segtrans.bench import runner, work
from segtrans.bench.summary import Key, class_means, comparison, key, summary
from segtrans.ensembles import Ensemble
from segtrans.errors import DataError, ModelError, UsageError
from segtrans.models import Preprocessing, SegModel
from segtrans.report import write_page
from segtrans.report.costs import failures
from segtrans.report.ranking import fewer_pairs, headline, ranking
from segtrans.spec import make_config

CLASSES = 4


class Poisoned(nn.Module):
    """Returns NaN for images whose top left pixel is white."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        white = (x[:, :, 0, 0] == 1).all(1)
        return self.inner(x).masked_fill(white.view(-1, 1, 1, 1), float("nan"))


def network(seed: int, classes: int = CLASSES) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, classes, 3, padding=1))


def toy(name: str, device: str = "cpu") -> SegModel:
    kind, _, seed = name.partition(":")
    inner = network(int(seed), CLASSES + 1 if kind == "wide" else CLASSES)
    if kind == "poisoned":
        inner = Poisoned(inner)
    if kind == "broken":
        nn.init.constant_(inner[0].bias, float("nan"))
    preprocessing = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    classes = CLASSES + 1 if kind == "wide" else CLASSES
    return SegModel(inner, classes, preprocessing=preprocessing, name=name, backbone=kind).to(device)


BARE = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "load_model", toy)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six images of two sizes with masks; void in the corner of each; the last one starts with a white pixel."""
    root = tmp_path / "data"
    random = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for i in range(6):
        size = (24, 32) if i % 2 else (20, 28)
        mask = random.integers(0, CLASSES, size, dtype=np.uint8)
        mask[:3, :3] = 255
        image = random.integers(0, 255, (*size, 3), dtype=np.uint8)
        if i == 5:
            image[0, 0] = 255
        Image.fromarray(image).save(root / "images" / f"{i}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
    return root


@pytest.fixture
def go(data: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def go(**values: Any) -> dict[str, Any]:
        defaults: dict[str, Any] = {
            "surrogates": ["a:0"],
            "targets": ["a:0", "a:1", "b:2"],
            "attacks": ["noise", "mi", "segtrans"],
            "data": f"folder:{data}?classes={CLASSES}",
            "iterations": 3,
            "out": tmp_path / "run",
            "pictures": 1,
        }
        return bench.run(quiet=True, **{**defaults, **values})

    return go


def cell(result: dict[str, Any], **keys: Any) -> dict[str, Any]:
    (found,) = [c for c in result["cells"] if all(c[k] == v for k, v in keys.items())]
    return found


def test_one_cell_per_surrogate_attack_target_and_seed(go: Callable[..., dict[str, Any]]) -> None:
    result = go(seeds=[0, 1])
    assert len(result["cells"]) == 1 * 3 * 3 * 2
    assert len(result["costs"]) == 3 * 2
    assert {c["block"] for c in result["cells"]} == {"white box", "same backbone", "other backbone"}
    assert all(c["images"] == 6 for c in result["cells"])
    assert {c["attack"]: c["gradient_evaluations"] for c in result["costs"]} == {"noise": 0, "mi": 3, "segtrans": 3}


def test_white_box_attack_hurts_most(go: Callable[..., dict[str, Any]]) -> None:
    result = go(attacks=["noise", "mi"], iterations=10, eps="24/255")
    white = cell(result, attack="mi", target="a:0")["asr_pixel"]
    assert white > cell(result, attack="noise", target="a:0")["asr_pixel"] + 0.2
    assert white > cell(result, attack="mi", target="b:2")["asr_pixel"]


def test_what_is_scored_is_what_is_on_disk(go: Callable[..., dict[str, Any]], data: Path, tmp_path: Path) -> None:
    result = go(attacks=["mi"], targets=["a:1"])
    images = sorted((tmp_path / "run" / "images").rglob("seed0-*/*.png"))
    assert len(images) == 6
    wrong = right = 0
    for path in images:
        clean = np.array(Image.open(data / "images" / path.name)).astype(int)
        attacked = np.array(Image.open(path)).astype(int)
        assert 0 < abs(attacked - clean).max() <= 8
        truth = torch.from_numpy(np.array(Image.open(data / "masks" / path.name)).astype(np.int64))
        before, after = (
            toy("a:1")(torch.from_numpy(p).permute(2, 0, 1)[None].float() / 255).argmax(1)[0] for p in (clean, attacked)
        )
        correct = (before == truth) & (truth != 255)
        right += int(correct.sum())
        wrong += int((correct & (after != truth)).sum())
    assert cell(result, target="a:1")["asr_pixel"] == pytest.approx(wrong / right, abs=1e-12)


@pytest.mark.parametrize("batch", [1, 3, 6])
def test_batch_size_changes_nothing(go: Callable[..., dict[str, Any]], tmp_path: Path, batch: int) -> None:
    reference = go(attacks=["segtrans"], batch=2, out=tmp_path / "reference")
    assert go(attacks=["segtrans"], batch=batch)["cells"] == reference["cells"]


def test_finished_work_is_not_done_again(go: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    first = go()

    def forbidden(*_: Any) -> None:
        raise AssertionError("work was done again")

    monkeypatch.setattr(work.UnitWork, "_craft", forbidden)
    monkeypatch.setattr(work, "predict", forbidden)
    assert go()["cells"] == first["cells"]
    assert go(targets=["b:2", "a:1"], attacks=["mi"], pictures=0)["cells"] == [
        cell(first, attack="mi", target=target) for target in ("b:2", "a:1")
    ]
    with pytest.raises(AssertionError, match="again"):
        go(eps="4/255")


def test_a_new_target_is_scored_on_what_is_there(
    go: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fresh = go(attacks=["mi"], out=tmp_path / "fresh")
    go(attacks=["mi"], targets=["a:1"])
    monkeypatch.setattr(work.UnitWork, "_craft", lambda *_: pytest.fail("crafted again"))
    again = go(attacks=["mi"], pictures=3)
    assert again["cells"] == fresh["cells"]
    for picture in again["pictures"]:
        for row in ({**picture}, *picture["rows"]):
            for path in (row["image"], *row["masks"].values()):
                assert (tmp_path / "run" / path).is_file()


def test_an_image_that_goes_away_is_named_and_missed_the_next_time(
    go: Callable[..., dict[str, Any]], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = go(attacks=["noise"], out=data / "undisturbed")
    image = sorted((data / "images").iterdir())[1]
    craft = work.UnitWork._craft

    def disturbed(self: work.UnitWork) -> None:
        hidden = image.rename(data / "hidden")
        try:
            craft(self)
        finally:
            hidden.rename(image)

    monkeypatch.setattr(work.UnitWork, "_craft", disturbed)
    found = go(attacks=["noise"])
    assert {failure["image"] for failure in found["failures"]} == {image.stem}
    assert {c["images"] for c in found["cells"]} == {whole["cells"][0]["images"] - 1}
    monkeypatch.setattr(work.UnitWork, "_craft", craft)
    again = go(attacks=["noise"])
    assert (again["cells"], again["failures"]) == (whole["cells"], [])


def test_damaged_adversarial_images_are_made_again(go: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    first = go(attacks=["mi"], targets=["b:1"])
    for path in (tmp_path / "run" / "images").rglob("*.png"):
        if "clean" not in path.parent.name:
            path.write_bytes(path.read_bytes()[:100])
    again = go(attacks=["mi"], targets=["b:1", "b:2"])
    assert cell(again, target="b:1") == cell(first, target="b:1")
    assert cell(again, target="b:2")["images"] == cell(first, target="b:1")["images"]


def test_images_that_were_not_kept_are_crafted_again(go: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    fresh = go(attacks=["mi"], out=tmp_path / "fresh")
    go(attacks=["mi"], targets=["a:1"], save_images=False, pictures=0)
    assert not list((tmp_path / "run" / "images").rglob("seed0*/*.png"))
    assert go(attacks=["mi"], save_images=False)["cells"] == fresh["cells"]


def test_runs_with_other_settings_do_not_touch_each_other(go: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Resuming one of several runs in a folder finds its images, masks and scores as it left them."""
    first = go(attacks=["mi"], size=24)
    kept = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.png")}
    other = go(attacks=["mi"], size=16, eps="16/255", pictures=2)
    assert other["cells"] != first["cells"]
    go(attacks=["noise"], size=24, targets=["a:1"])
    assert {path: path.read_bytes() for path in kept} == kept
    assert go(attacks=["mi"], size=24)["cells"] == first["cells"]


def test_lost_and_damaged_clean_masks_are_made_again(go: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    fresh = go(out=tmp_path / "fresh")
    go(attacks=["noise"])
    masks = sorted((tmp_path / "run" / "masks").rglob("clean-*/*.png"))
    assert len(masks) == 3 * 6
    masks[0].unlink()
    masks[1].write_bytes(masks[1].read_bytes()[:40])
    assert go()["cells"] == fresh["cells"]


def test_another_structure_is_another_model(go: Callable[..., dict[str, Any]], data: Path, tmp_path: Path) -> None:
    """Weights of the same names and shapes do not make the same function."""

    def variant(activation: nn.Module) -> SegModel:
        inner = network(0)
        inner[1] = activation
        return SegModel(inner, CLASSES, preprocessing=BARE, name="own")

    results = [
        bench.run(
            surrogates=["own"], models={"own": variant(activation)}, attacks=["noise"], quiet=True, pictures=0,
            data=f"folder:{data}?classes={CLASSES}", out=tmp_path / "run",
        )
        for activation in (nn.ReLU(), nn.Sigmoid())
    ]  # fmt: skip
    assert results[0]["models"]["own"]["hash"] != results[1]["models"]["own"]["hash"]
    assert results[0]["cells"] != results[1]["cells"]


def test_own_models_and_attacks_take_part(data: Path, tmp_path: Path) -> None:
    model = SegModel(network(0), CLASSES, preprocessing=BARE, name="mine")
    values: dict[str, Any] = {"data": f"folder:{data}?classes={CLASSES}", "quiet": True, "pictures": 0}
    result = bench.run(
        surrogates=["mine"], targets=["mine", "a:1"], models={"mine": model}, out=tmp_path / "own",
        attacks={"short": Attack(iterations=2)}, **values,
    )  # fmt: skip
    named = bench.run(
        surrogates=["a:0"], targets=["a:0", "a:1"], attacks="bim(iterations=2)", out=tmp_path / "named", **values
    )
    numbers = ("miou_clean", "miou", "asr_miou", "asr_pixel")
    for own, other in zip(result["cells"], named["cells"], strict=True):
        assert [own[n] for n in numbers] == [other[n] for n in numbers]
    assert [c["block"] for c in result["cells"]] == ["white box", "unknown backbone"]
    assert result["attacks"]["short"]["provenance"] == "custom"
    with pytest.raises(UsageError, match="limit given beside a configuration"):
        bench.run(make_config({"surrogates": ["a:0"]}), limit=1)


def test_ensembles_run_and_their_members_are_white_boxes(
    go: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, device: str = "cpu") -> SegModel:
        if name.startswith("mean:"):
            return cast(SegModel, Ensemble([toy(member) for member in name.removeprefix("mean:").split(",")]))
        return toy(name)

    monkeypatch.setattr(planning, "load_model", load)
    result = go(surrogates=["mean:a:0,b:1"], targets=["a:0", "a:2", "c:3", "mean:b:1,a:0"], attacks=["mi", "svre"])
    assert [c["gradient_evaluations"] for c in result["costs"]] == [6, 27], "each member counts"
    assert {c["target"]: c["block"] for c in result["cells"]} == {
        "a:0": "white box",
        "a:2": "same backbone",
        "c:3": "other backbone",
        "mean:b:1,a:0": "white box",
    }


@pytest.mark.parametrize(
    ("ours", "theirs", "block"),
    [
        ("resnet50", "resnet50", "same backbone"),
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


def test_a_target_that_fails_everywhere_does_not_stop_the_others(go: Callable[..., dict[str, Any]]) -> None:
    result = go(targets=["a:1", "broken:0"], attacks=["noise"])
    assert [c["target"] for c in result["cells"]] == ["a:1"]
    assert len(result["failures"]) == 6
    assert all("broken:0" in f["reason"] for f in result["failures"])


def drawn(cells: list[dict[str, Any]], spread: float = 0.0) -> dict[Key, dict[str, Tensor]]:
    around = torch.linspace(-spread, spread, 201, dtype=torch.float64)
    return {key(c): {name: c[name] + around for name in ("asr_miou", "asr_pixel")} for c in cells}


def made(attack: str, surrogate: str, target: str, asr: float, block: str = "other backbone") -> dict[str, Any]:
    names = {"attack": attack, "surrogate": surrogate, "target": target, "seed": 0, "block": block}
    return {**names, "asr_miou": asr, "asr_pixel": 0.5}


def test_an_undefined_cell_does_not_blank_the_average() -> None:
    cells = [made("mi", "a", t, v) for t, v in (("b", 0.25), ("c", float("nan")), ("d", 0.75))]
    (row,) = summary(cells, drawn(cells, 0.1))
    assert (row["pairs"], row["asr_miou"], row["asr_pixel"]) == (2, 0.5, 0.5)
    assert row["asr_miou_interval"] == pytest.approx([0.405, 0.595])


def test_attacks_are_compared_pair_by_pair_and_replicate_by_replicate() -> None:
    cells = [
        made("mi", "a", "b", 0.3), made("mi", "c", "b", 0.2), made("mi", "a", "a", 0.9, "white box"),
        made("di", "a", "b", 0.5), made("di", "c", "b", 0.1), made("di", "a", "a", 0.1, "white box"),
        made("di", "a", "d", 0.9, "same backbone"),
    ]  # fmt: skip
    (row,) = comparison(cells, drawn(cells, 0.2), "mi")
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
    (row,) = comparison(cells, drawn(cells, 0.2), "mi")
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


def test_images_can_be_left_out_from_the_front(go: Callable[..., dict[str, Any]]) -> None:
    whole, rest = go(attacks=["mi"]), go(attacks=["mi"], skip=2)
    assert (whole["cells"][0]["images"], rest["cells"][0]["images"]) == (6, 4)
    assert rest["data"]["images"] == 4
    with pytest.raises(UsageError, match=r"skip is 6, but data .* has only 6 images"):
        go(skip=6)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_for_results_must_be_possible(go: Callable[..., dict[str, Any]], tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"out is .*file.* is a file; give a folder"):
        go(out=tmp_path / place)


def test_a_damaged_shard_is_recomputed(go: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    first = go()
    shards = list((tmp_path / "run" / "units").rglob("*.safetensors"))
    assert len(shards) == 3 + 3 + 3 * 3
    for path in shards:
        raw = bytearray(path.read_bytes())
        raw[-3] ^= 1
        path.write_bytes(raw)
    assert go()["cells"] == first["cells"]


def test_without_masks_the_clean_prediction_is_the_reference(go: Callable[..., dict[str, Any]], data: Path) -> None:
    result = go(data=f"folder:{data / 'images'}", attacks=["clean", "mi"])
    assert cell(result, attack="clean", target="a:1")["miou_clean"] == 1
    assert cell(result, attack="clean", target="a:1")["asr_miou"] == 0
    assert cell(result, attack="mi", target="a:0")["disagreement"] > 0.1
    assert result["data"]["reference"] == "each target's own clean prediction"


def test_unreadable_images_are_named_and_left_out(go: Callable[..., dict[str, Any]], data: Path) -> None:
    (data / "images" / "0.png").write_bytes((data / "images" / "0.png").read_bytes()[:200])
    result = go()
    assert [(f["image"], "0.png" in f["reason"]) for f in result["failures"]] == [("0", True)]
    assert all(c["images"] == 5 for c in result["cells"])


def test_images_a_model_fails_on_are_named_and_left_out(go: Callable[..., dict[str, Any]]) -> None:
    result = go(surrogates=["poisoned:0"], targets=["a:1"])
    assert [f["image"] for f in result["failures"]] == ["5"]
    assert "NaN" in result["failures"][0]["reason"]
    assert all(c["images"] == 5 for c in result["cells"])


@pytest.mark.parametrize(
    ("values", "error", "match"),
    [
        ({"surrogates": ["broken:0"], "targets": []}, ModelError, "broken:0.*NaN"),
        ({"targets": ["wide:0"]}, UsageError, "wide:0.*5 classes.*has 4.*label_map"),
        ({"eps": 8}, UsageError, "write 8/255"),
        ({"eps": "eight"}, UsageError, "eps is 'eight'"),
        ({"limit": 0}, UsageError, "limit"),
        ({"attacks": ["segtrans", "segtran"]}, UsageError, "did you mean segtrans"),
        ({"device": "gpu"}, UsageError, "unknown device 'gpu'.*cpu"),
        ({"device": "meta"}, UsageError, "unknown device 'meta'"),
        ({"eps": "1/300"}, UsageError, "allowed are 0 and budgets from 1/255"),
        ({"eps": "1e400"}, UsageError, "eps is '1e400'"),
        ({"eps": True}, UsageError, "True is no number"),
        ({"step_size": 2}, UsageError, "write 2/255"),
        ({"data": "voc:/nowhere"}, DataError, "/nowhere"),
        ({"iteration": 3}, UsageError, "did you mean iterations"),
        ({"surrogates": []}, UsageError, "surrogates"),
    ],
)
def test_bad_input_is_one_sentence(
    go: Callable[..., dict[str, Any]], values: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match) as caught:
        go(**values)
    assert "\n" not in str(caught.value)


def test_interrupt_finishes_the_unit_and_keeps_it(
    go: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    craft = work.UnitWork._craft

    def interrupted(self: work.UnitWork) -> None:
        signal.raise_signal(signal.SIGINT)
        craft(self)

    monkeypatch.setattr(work.UnitWork, "_craft", interrupted)
    result = go()
    assert result["interrupted"]
    assert {c["attack"] for c in result["cells"]} == {"noise"}
    monkeypatch.setattr(work.UnitWork, "_craft", craft)
    again = go()
    assert {c["attack"] for c in again["cells"]} == {"noise", "mi", "segtrans"}
    assert not again["interrupted"]


def test_interrupt_between_clean_predictions(
    go: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted: list[str] = []
    clean = runner.clean_work

    def interrupted(plan: Any, model: str, *rest: Any) -> Any:
        predicted.append(model)
        signal.raise_signal(signal.SIGTERM)
        return clean(plan, model, *rest)

    monkeypatch.setattr(runner, "clean_work", interrupted)
    result = go()
    assert result["interrupted"]
    assert (predicted, result["cells"]) == (["a:0"], [])


def test_second_interrupt_stops(go: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(work.UnitWork, "_craft", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        go()
    assert signal.getsignal(signal.SIGINT) is before


def test_documents_are_strict_json_and_csv(go: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    result = go()
    text = (tmp_path / "run" / "result.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == json.loads(json.dumps(result))
    lines = (tmp_path / "run" / "cells.csv").read_text().splitlines()
    assert len(lines) == 1 + len(result["cells"])
    assert {"surrogate", "target", "attack", "asr_miou", "asr_miou_interval_low"} <= set(lines[0].split(","))


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
    assert "each member of an ensemble counts" in write_page(tmp_path / "run").read_text(encoding="utf-8")


def test_an_attack_that_is_not_for_a_surrogate_leaves_the_others(go: Callable[..., dict[str, Any]]) -> None:
    models = {"both": Ensemble([toy("a:0"), toy("b:2")])}
    result = go(surrogates=["both", "a:0"], targets=["a:1"], attacks=["mi", "fia"], models=models)
    assert {(c["surrogate"], c["attack"]) for c in result["cells"]} == {("both", "mi"), ("a:0", "mi"), ("a:0", "fia")}
    (failure,) = failures(result)
    reason = "FeatureImportance prepares itself on one network; the surrogate is an ensemble"
    assert failure.reason == f"attack 'fia' is not for 'both': {reason}"
    assert (len(failure.images), failure.named.count(",")) == (6, 2)
    assert failure.named.endswith(" and 3 more")
    (cost,) = [c for c in result["costs"] if (c["surrogate"], c["attack"]) == ("both", "fia")]
    assert (cost["images"], cost["gradient_evaluations"], cost["seconds_per_image"]) == (0, 0, None)
    assert fewer_pairs(result) == ["fia (1 of 2 in same backbone)"]
    assert {r.attack: r.gradients for r in ranking(result)} == {"mi": "1–2", "fia": "1 +30"}
    assert headline(result).startswith("mi takes")
    assert not result["interrupted"]
    again = go(surrogates=["both"], targets=["a:1"], attacks=["fia", "featuresimilarity(layer='none') + mi"],
               models=models, seeds=[0, 1])  # fmt: skip
    assert again["cells"] == []
    assert [failure.where for failure in failures(again)] == [
        f"{attack} on both, seed {seed}"
        for seed in (0, 1)
        for attack in ("fia", "featuresimilarity(layer='none') + mi")
    ]


class Narrow(nn.Module):
    """Has memory for so many images at once, or for so many of the size of the data's larger ones."""

    def __init__(self, inner: nn.Module, most: int, large: int, error: type[Exception], words: str) -> None:
        super().__init__()
        self.inner, self.most, self.large, self.error, self.words = inner, most, large, error, words

    def __repr__(self) -> str:
        return "Narrow"

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > (self.large if x.shape[-1] > 28 else self.most):
            raise self.error(self.words)
        return self.inner(x)


def narrow(most: int, large: int, error: type[Exception] = RuntimeError, words: str = "not enough memory") -> SegModel:
    return SegModel(Narrow(network(0), most, large, error, words), CLASSES, preprocessing=BARE, name="narrow")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError, "CUDA ran full"),
        (RuntimeError, "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        (RuntimeError, "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        (RuntimeError, "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        (MemoryError, ""),
    ],
)
def test_memory_that_does_not_suffice_changes_nothing(
    go: Callable[..., dict[str, Any]], tmp_path: Path, error: type[Exception], words: str
) -> None:
    values: dict[str, Any] = {"surrogates": ["own"], "targets": ["own", "a:1"], "size": 24, "batch": 6}
    values["attacks"] = ["mi", "segtrans", "universal"]
    wide, less = (
        go(**values, models={"own": narrow(most, most, error, words)}, out=tmp_path / f"{most}") for most in (99, 1)
    )
    assert less["cells"] == wide["cells"]
    assert less["failures"] == []


def test_other_errors_are_not_taken_for_a_lack_of_memory(go: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(RuntimeError, match="memory of an elephant"):
        go(surrogates=["own"], models={"own": narrow(1, 1, RuntimeError, "memory of an elephant")}, size=24)


def test_images_too_large_for_memory_are_named_and_tried_again(
    go: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    def run(where: str, large: int, **values: Any) -> dict[str, Any]:
        return go(models={"own": narrow(2, large)}, attacks=["mi"], out=tmp_path / where, **values)

    # On the surrogate.
    fresh = run("fresh", 2, surrogates=["own"], targets=["a:1"])
    short = run("short", 0, surrogates=["own"], targets=["a:1"])
    assert {f["image"] for f in short["failures"]} == {"1", "3", "5"}
    assert all("'own' does not fit into memory" in f["reason"] for f in short["failures"])
    assert [c["images"] for c in short["cells"]] == [3]
    assert run("short", 2, surrogates=["own"], targets=["a:1"])["cells"] == fresh["cells"]
    # On a target.
    fresh = run("fresh", 2, targets=["own", "b:2"])
    short = run("short", 0, targets=["own", "b:2"])
    assert [c["images"] for c in short["cells"]] == [3, 6]
    assert run("short", 2, targets=["own", "b:2"])["cells"] == fresh["cells"]
    with pytest.raises(ModelError, match="on every image model 'own' does not fit into memory"):
        go(surrogates=["own"], targets=["own"], models={"own": narrow(0, 0)}, out=tmp_path / "none")


def test_gradients_may_not_fit_where_predictions_do(
    go: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Narrow.forward

    def training(self: Narrow, x: Tensor) -> Tensor:
        if x.requires_grad:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, x)

    monkeypatch.setattr(Narrow, "forward", training)
    result = go(surrogates=["own"], models={"own": narrow(9, 9)}, attacks=["noise", "mi"])
    assert {c["attack"] for c in result["cells"]} == {"noise"}
    assert len(result["failures"]) == 6
    assert all("attack 'mi' on 'own' does not fit" in f["reason"] for f in result["failures"])
