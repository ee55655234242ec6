"""Files of a run that were lost, damaged or changed are made again; what is given from Python is checked."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from toy_run import CLASSES, toy

from segtrans import bench
from segtrans.bench import predictions
from segtrans.bench.predictions import predict
from segtrans.catalogue import attack, compose
from segtrans.errors import ImageSizeError, UsageError
from segtrans.gradients import Momentum
from segtrans.report import write_report
from segtrans.transforms import Remap

Go = Callable[..., dict[str, Any]]


def masks_of(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted((run / "masks").rglob("*.png"))}


@pytest.mark.parametrize("lost", ["all", "emptied"])
def test_masks_that_were_lost_or_damaged_are_made_again(go: Go, tmp_path: Path, lost: str) -> None:
    run = tmp_path / "run"
    go(attacks=["mi"])
    drawn = {name: raw for name, raw in masks_of(run).items() if name.endswith("/0.png")}
    for name in masks_of(run):
        (run / name).unlink() if lost == "all" else (run / name).write_bytes(b"")
    go(attacks=["mi"])
    assert drawn.items() <= masks_of(run).items()
    write_report(run)
    assert list((run / "pictures").iterdir())


def test_there_is_no_mask_of_an_image_on_which_a_model_fails(go: Go, tmp_path: Path) -> None:
    result = go(surrogates=["a:0"], targets=["poisoned:1"], attacks=["mi"], pictures=6)
    assert {f["image"] for f in result["failures"]} == {"5"}
    assert not [path for path in (tmp_path / "run" / "masks").rglob("5.png") if "poisoned" in str(path)]


def test_a_model_that_fails_when_a_lost_mask_is_made_again_costs_the_mask_alone(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = go(attacks=["mi"])
    for path in (tmp_path / "run" / "masks").rglob("0.png"):
        path.unlink()
    monkeypatch.setattr(predictions, "predict", lambda model, x: (x[:, 0].byte(), ["failed (today)"] * len(x)))
    assert go(attacks=["mi"])["cells"] == before["cells"]
    left = {path.parts[-2].partition("-")[0] for path in (tmp_path / "run" / "masks").rglob("0.png")}
    assert left <= {"labels"}


def test_an_adversarial_image_of_another_size_is_made_again(go: Go, tmp_path: Path) -> None:
    expected = go(attacks=["mi"], targets=["a:1"])["cells"]
    changed = next((tmp_path / "run" / "images").rglob("3.png"))
    before = changed.read_bytes()
    Image.open(changed).resize((9, 7)).save(changed)
    found = go(attacks=["mi"], targets=["a:1", "b:2"])["cells"]
    assert changed.read_bytes() == before
    assert [c["asr_pixel"] for c in found if c["target"] == "a:1"] == [c["asr_pixel"] for c in expected]


def test_a_model_that_takes_one_image_at_a_time_gets_one() -> None:
    model = toy("a:0")

    class One(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 1:
                raise ImageSizeError("one only")
            return model(x)

    x = torch.rand(3, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    masks, faults = predict(One(), x)  # type: ignore[arg-type]
    assert torch.equal(masks, predict(model, x)[0])
    assert faults == ["", "", ""]


def test_objects_from_python_are_what_they_are_to_be(go: Go) -> None:
    def refused(message: str) -> "pytest.RaisesExc[UsageError]":
        return pytest.raises(UsageError, match=f"^{re.escape(message)}")

    with refused("attack 'mi' of your own has the name of another of the catalogue"):
        go(attacks={"mi": compose(Remap(), Momentum())})
    go(attacks={"mi": attack("mi")}, targets=["a:1"])
    with refused("model 'm' is a Conv2d; allowed are what segtrans.models.wrap and load_model return"):
        go(surrogates=["m"], models={"m": torch.nn.Conv2d(3, 4, 1)})
    training = toy("a:0")
    training.network.train()
    with refused("model 'm' is in training mode, in which it depends on the batch; call its eval()"):
        go(surrogates=["m"], models={"m": training})


@pytest.mark.usefixtures("toys")
def test_names_are_no_markup(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as if it were a terminal, where bars are drawn
    name = "[/b] [red]"
    result = bench.run(
        surrogates=["a:0"],
        targets=["a:1"],
        attacks={name: compose(Remap(), Momentum())},
        data=f"folder:{data}?classes={CLASSES}",
        out=tmp_path / "run",
        pictures=0,
    )
    assert [c["attack"] for c in result["cells"]] == [name]
