"""The main job on toy models: what is scored, kept, resumed and reported."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from segtrans import bench
from segtrans.bench import plan as planning
from segtrans.bench import runner
from segtrans.errors import DataError, ModelError, SegtransError, UsageError
from segtrans.models import Preprocessing, SegModel

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
    images = sorted((tmp_path / "run" / "images").rglob("seed0/*.png"))
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

    monkeypatch.setattr(runner, "_work", forbidden)
    monkeypatch.setattr(runner, "_clean", forbidden)
    assert go()["cells"] == first["cells"]
    with pytest.raises(AssertionError, match="again"):
        go(eps="4/255")


def test_a_damaged_shard_is_recomputed(go: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    first = go()
    for path in (tmp_path / "run" / "units").iterdir():
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
        ({"surrogates": ["broken:0"]}, ModelError, "broken:0.*NaN"),
        ({"targets": ["wide:0"]}, UsageError, "wide:0.*5 classes.*has 4.*label_map"),
        ({"eps": 8}, UsageError, "write 8/255"),
        ({"eps": "eight"}, UsageError, "eps is 'eight'"),
        ({"limit": 0}, UsageError, "limit"),
        ({"attacks": ["segtrans", "segtran"]}, UsageError, "did you mean segtrans"),
        ({"device": "gpu"}, SegtransError, "device 'gpu'"),
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
    work = runner._work

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return work(*arguments)

    monkeypatch.setattr(runner, "_work", interrupted)
    result = go()
    assert result["interrupted"]
    assert {c["attack"] for c in result["cells"]} == {"noise"}
    monkeypatch.setattr(runner, "_work", work)
    again = go()
    assert {c["attack"] for c in again["cells"]} == {"noise", "mi", "segtrans"}
    assert not again["interrupted"]


def test_second_interrupt_stops(go: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(runner, "_work", interrupted)
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
