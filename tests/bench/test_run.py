"""The main job on toy models: what is scored, kept, resumed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from toy_run import BARE, CLASSES, cell, network, toy

from segtrans import bench
from segtrans.attack import Attack
from segtrans.bench import plan as planning
from segtrans.bench import work
from segtrans.config import make_config
from segtrans.data import load_data
from segtrans.errors import DataError, ModelError, UsageError
from segtrans.models import Ensemble, SegModel
from segtrans.report.costs import costs

pytestmark = pytest.mark.usefixtures("toys")


def test_one_cell_per_surrogate_attack_target_and_seed(go: Callable[..., dict[str, Any]]) -> None:
    result = go(seeds=[0, 1])
    assert len(result["cells"]) == 1 * 3 * 3 * 2
    assert len(result["costs"]) == 3 * 2
    assert {c["block"] for c in result["cells"]} == {"white box", "same backbone", "other backbone"}
    assert all(c["images"] == 6 for c in result["cells"])
    assert {c["attack"]: c["gradient_evaluations"] for c in result["costs"]} == {"noise": 0, "mi": 3, "segtrans": 3}


def test_what_draws_no_random_numbers_is_made_once_for_all_seeds(
    go: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    told: list[dict[str, Any]] = []
    result = go(attacks=["noise", "mi"], seeds=[3, 1], on_trial=told.append)
    assert {cost.attack: cost.images for cost in costs(result)} == {"noise": 12, "mi": 6}
    go(attacks=["mi"], seeds=[4])
    made = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "run" / "images").glob("*/*/seed*"))
    assert made == ["seed0", "seed1", "seed3"]
    trials = sorted((cost["attack"], cost["seed"]) for one in told for cost in one["costs"])
    assert trials == [("mi", 1), ("mi", 3), ("noise", 1), ("noise", 3)]
    for target in ("a:0", "a:1", "b:2"):
        mi, noise = ([cell(result, attack=a, target=target, seed=s) for s in (3, 1)] for a in ("mi", "noise"))
        assert {**mi[0], "seed": 1} == mi[1]
        assert noise[0]["miou"] != noise[1]["miou"]


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


def test_images_that_are_to_be_kept_are_made_where_they_are_missing(
    go: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    def images() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (tmp_path / "run" / "images").rglob("seed0*/*.png")}

    first = go(attacks=["mi"], save_images=False, pictures=1)
    assert len(images()) == 1
    assert go(attacks=["mi"], pictures=1)["cells"] == first["cells"]
    kept = images()
    assert len(kept) == 6
    max(kept).unlink()
    assert go(attacks=["mi"], pictures=1)["cells"] == first["cells"]
    assert images() == kept


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
    Image.open(masks[2]).resize((9, 7)).save(masks[2])
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
    assert (result["objects"], named["objects"]) == (["mine", "short"], [])
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
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UsageError, match=r"out is .*, but .*link is a link to nowhere, which is not there"):
        go(out=tmp_path / "link" / "run")


@pytest.mark.parametrize("place", ["", "images", "masks"])
def test_results_do_not_lie_among_the_data(go: Callable[..., dict[str, Any]], data: Path, place: str) -> None:
    before = sorted(data.rglob("*"))
    with pytest.raises(UsageError, match=r"^out is .*, where .*/5\.png of the data lies; give a folder of its own"):
        go(out=data / place)
    assert sorted(data.rglob("*")) == before


def test_a_damaged_shard_is_recomputed(go: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    first = go()
    shards = list((tmp_path / "run" / "units").rglob("*.safetensors"))
    assert len(shards) == 3 + 3 + 3 * 3
    for path in shards:
        raw = bytearray(path.read_bytes())
        raw[-3] ^= 1
        path.write_bytes(raw)
    assert go()["cells"] == first["cells"]


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
        ({"eps": True}, UsageError, "eps is True; allowed are no truth values"),
        ({"attacks": {"mine": network}}, UsageError, r"^attack 'mine' is a function; allowed are attacks, such as att"),
        (
            {"attacks": {"mine": "mi"}},
            UsageError,
            r"^attack 'mine' is a str; allowed are attacks, such as attack\('mi'",
        ),
        (
            {"attacks": ["mi", Attack()]},
            UsageError,
            "^attacks holds a value of type Attack without a name; allowed are",
        ),
        ({"attacks": Attack()}, UsageError, "^attacks holds a value of type Attack without a name; allowed are names"),
        (
            {"models": {"mine": toy("a:0")}, "surrogates": ["mean:mine,a:1"]},
            UsageError,
            r"^ensemble 'mean:mine,a:1' names 'mine', a model of your own; .* give an Ensemble\(\[...\]\) among your",
        ),
        ({"step_size": 2}, UsageError, "write 2/255"),
        ({"data": "voc:/nowhere"}, DataError, "/nowhere"),
        ({"data": [1, 2]}, UsageError, "^data is a list; allowed are a spelling such as 'photos'"),
        ({"data": Path("photos")}, UsageError, "^data is a PosixPath; allowed are a spelling such as 'photos'"),
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


@pytest.mark.parametrize("masks", [True, False])
def test_classes_in_another_order_are_refused(go: Callable[..., dict[str, Any]], data: Path, masks: bool) -> None:
    own = SegModel(network(0), ["class 0", "class 2", "class 1", "class 3"], preprocessing=BARE, name="own")
    spec = f"folder:{data}?classes={CLASSES}" if masks else f"folder:{data / 'images'}"
    whose = "data '.*'" if masks else "model 'a:0'"
    found = rf"^model 'own' has the classes of {whose} in another order \(class 1 is 'class 2' instead of 'class 1'\)"
    with pytest.raises(UsageError, match=found):
        go(targets=["own"], models={"own": own}, data=spec)
    own.relabel([0, 2, 1, 3])
    assert len(go(targets=["own"], models={"own": own}, data=spec, attacks=["noise"])["cells"]) == 1


def test_the_callers_model_stays_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(planning, "places_of_work", lambda config: (torch.device("meta"), "meta"))
    monkeypatch.setattr(planning, "model_hashes", lambda model: ("x", frozenset()))
    own = toy("a:0")
    config = make_config({"surrogates": ["own"], "attacks": ["noise"], "data": "photos", "out": tmp_path / "run"})
    plan = planning.make_plan(config, models={"own": own})
    assert {p.device.type for p in own.parameters()} == {"cpu"}
    assert {p.device.type for p in plan.models["own"].parameters()} == {"meta"}
    monkeypatch.setattr(planning, "places_of_work", lambda config: (torch.device("cpu"), "cpu"))
    assert planning.make_plan(config, models={"own": own}).models["own"] is own


def test_a_data_set_from_python_is_recorded_by_its_name(toys: None, data: Path, tmp_path: Path) -> None:
    mine = replace(load_data(f"folder:{data}?classes={CLASSES}"), name="mine")
    result = bench.run(
        surrogates=["a:0"], targets=["a:1"], attacks=["noise"], data=mine, quiet=True, out=tmp_path / "x"
    )
    assert (result["config"]["data"], result["data"]["name"], result["objects"]) == ("mine", "mine", ["mine"])
