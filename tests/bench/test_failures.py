"""What cannot be read, predicted, attacked or held in memory is named, and the rest goes on."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from toy_run import BARE, CLASSES, network, toy

from segtrans.bench import plan as planning
from segtrans.bench.estimate import Estimate, estimate
from segtrans.config import make_config
from segtrans.data import load_data
from segtrans.data.base import resize
from segtrans.errors import ImageSizeError, ModelError, UsageError
from segtrans.io import to_tensor
from segtrans.models import Ensemble, SegModel, load_model
from segtrans.report.costs import failures
from segtrans.report.ranking import headline, incomplete, ranking

pytestmark = pytest.mark.usefixtures("toys")


def test_a_target_that_fails_everywhere_does_not_stop_the_others(go: Callable[..., dict[str, Any]]) -> None:
    result = go(targets=["a:1", "broken:0"], attacks=["noise"])
    assert [c["target"] for c in result["cells"]] == ["a:1"]
    assert len(result["failures"]) == 6
    assert all("broken:0" in f["reason"] for f in result["failures"])


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


def test_a_lead_is_over_the_images_that_both_attacks_were_made_on(
    go: Callable[..., dict[str, Any]], data: Path, tmp_path: Path
) -> None:
    """A patch finds no room in images that are smaller."""
    attacks = {"attacks": ["mi", "mi + patch(side=22)"], "baseline": "mi"}
    result = go(**attacks)
    assert [c["images"] for c in result["cells"] if c["block"] == "other backbone"] == [6, 3]
    where = ("other backbone", "same backbone")
    assert incomplete(result) == [f"mi + patch(side=22) (3 of 6 images in {block})" for block in where]
    assert headline(result).startswith("mi (budget L-inf 8/255) takes")
    large = "\n".join("135")
    (tmp_path / "large.txt").write_text(large)
    alone = go(
        **attacks, data=f"folder:{data}?classes={CLASSES}&names={tmp_path / 'large.txt'}", out=tmp_path / "alone"
    )
    (among_all,), (among_large,) = result["comparison"], alone["comparison"]
    names = ("asr_miou", "asr_pixel", "pairs", "ahead")
    assert [among_all[name] for name in names] == [among_large[name] for name in names]
    low, high = among_all["asr_miou_interval"]
    assert low <= among_all["asr_miou"] <= high


def test_images_of_a_size_that_a_program_does_not_take_are_named_and_left_out(
    go: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Halved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, x[:, :1]], 1) + nn.functional.avg_pool2d(x, 8).repeat_interleave(8, 2)[:, :1, :, :1]

    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.script(Halved()).save(str(tmp_path / "halved.pt"))
    monkeypatch.setattr(planning, "load_model", load_model)
    name = f"script:{tmp_path / 'halved.pt'}?classes={CLASSES}"
    result = go(surrogates=[name], targets=[name], attacks=["mi"])
    # 20 rows are no multiple of eight, 24 are.
    assert [(f["image"], f["where"]) for f in result["failures"]] == [(i, f"clean {name}") for i in "024"]
    assert all("halved.pt cannot be run on (" in f["reason"] and "\n" not in f["reason"] for f in result["failures"])
    assert [c["images"] for c in result["cells"]] == [3]


def test_an_attack_that_is_not_for_a_surrogate_leaves_the_others(go: Callable[..., dict[str, Any]]) -> None:
    models = {"both": Ensemble([toy("a:0"), toy("b:2")])}
    result = go(surrogates=["both", "a:0"], targets=["a:1"], attacks=["mi", "fia"], models=models)
    assert {(c["surrogate"], c["attack"]) for c in result["cells"]} == {("both", "mi"), ("a:0", "mi"), ("a:0", "fia")}
    (failure,) = failures(result)
    reason = "FeatureImportance prepares itself on one network; the surrogate is an ensemble"
    assert failure.reason == f"attack 'fia' cannot be made on 'both': {reason}"
    assert (len(failure.images), failure.named.count(",")) == (6, 2)
    assert failure.named.endswith(" and 3 more")
    (cost,) = [c for c in result["costs"] if (c["surrogate"], c["attack"]) == ("both", "fia")]
    assert (cost["images"], cost["gradient_evaluations"], cost["seconds_per_image"]) == (0, 0, None)
    assert incomplete(result) == ["fia (1 of 2 pairs in same backbone)"]
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


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        ("fia + remap", "FeatureImportance weighs features where they are in the clean image, which Remap moves"),
        ("dispersion + allas(index=1)", "Dispersion leads away from the clean features and knows no targets"),
        (
            "alma-prox + scale",
            "objective AugmentedLagrangian has a multiplier per pixel and goes with no input transformation; "
            "leave out Scale",
        ),
    ],
)
def test_an_attack_that_contradicts_itself_is_refused_before_anything_runs(
    go: Callable[..., dict[str, Any]], tmp_path: Path, attack: str, reason: str
) -> None:
    with pytest.raises(UsageError) as error:
        go(attacks=["mi", attack])
    assert str(error.value) == f"attack {attack!r} contradicts itself: {reason}"
    assert not (tmp_path / "run").exists()


def test_what_an_attack_asks_of_images_and_models_in_vain_leaves_the_others(go: Callable[..., dict[str, Any]]) -> None:
    patch, hiding = "bim + patch(side=22)", "bim + allas(index=9)"
    result = go(targets=["a:1"], attacks=["mi", patch, hiding, "balancedcrossentropy(pixels=(1, 2))"])
    assert {c["attack"]: c["images"] for c in result["cells"]} == {"mi": 6, patch: 3}
    assert {failure.reason: sorted(failure.images) for failure in failures(result)} == {
        f"attack {patch!r} cannot be made on 'a:0': Patch side is 22; images are only 20×28": ["0", "2", "4"],
        f"attack {hiding!r} cannot be made on 'a:0': labels contain 9; the surrogate has 4 classes, so allowed are 0 "
        "to 3 and 255 (void)": [*"012345"],
        "attack 'balancedcrossentropy(pixels=(1, 2))' cannot be made on 'a:0': BalancedCrossEntropy pixels has 2 "
        "numbers; the surrogate has 4 classes": [*"012345"],
    }


class Fussy(nn.Module):
    """Cannot take an image whose first pixel is as red as that."""

    def __init__(self, inner: nn.Module, red: float) -> None:
        super().__init__()
        self.inner, self.red = inner, red

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and (x[:, 0, 0, 0] == self.red).any():
            raise ImageSizeError("it is too red")
        return self.inner(x)


@pytest.mark.parametrize("batch", [1, 6])
def test_an_image_that_cannot_be_attacked_takes_no_other_along(go: Callable[..., dict[str, Any]], batch: int) -> None:
    own = SegModel(Fussy(network(0), 1.0), CLASSES, preprocessing=BARE, name="fussy")
    result = go(surrogates=["own"], targets=["a:1"], models={"own": own}, attacks=["mi"], batch=batch)
    assert [(f["image"], f["reason"]) for f in result["failures"]] == [
        ("5", "attack 'mi' cannot be made on 'own': it is too red")
    ]
    assert [cell["images"] for cell in result["cells"]] == [5]


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError("no room")])
def test_what_the_system_cannot_read_now_is_read_another_time(
    go: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def refuse(file: Any, *arguments: Any, **options: Any) -> Any:
        if file.name.endswith("images/2.png"):
            raise error
        return opened(file, *arguments, **options)

    opened, values = Image.open, {"targets": ["a:1"], "attacks": ["mi"], "pictures": 0}
    with monkeypatch.context() as patched:
        patched.setattr(Image, "open", refuse)
        first = go(**values)
    assert {failure["image"] for failure in first["failures"]} == {"2"}
    assert all("not a readable image at this time" in failure["reason"] for failure in first["failures"])
    again = go(**values)
    assert again["failures"] == []
    assert again["cells"] == go(**values, out=tmp_path / "fresh")["cells"]


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


def test_a_plan_times_what_memory_suffices_for(go: Callable[..., dict[str, Any]], data: Path, tmp_path: Path) -> None:
    def left(own: SegModel) -> Estimate:
        values: dict[str, Any] = {"surrogates": ["own"], "targets": ["own"], "attacks": ["mi"], "size": 24, "batch": 6}
        values |= {"data": f"folder:{data}?classes={CLASSES}", "out": tmp_path / "planned"}
        return estimate(planning.make_plan(make_config(values), models={"own": own}))

    assert left(narrow(1, 1)).seconds > 0
    first = resize(load_data(f"folder:{data}?classes={CLASSES}")[5], 24)
    fussy, seen = Fussy(network(0), float(to_tensor(first.image)[0, 0, 0])), list[int]()
    fussy.inner.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0]) * inputs[0].requires_grad))
    plan = left(SegModel(fussy, CLASSES, preprocessing=BARE, name="fussy"))
    assert plan.gradient_evaluations == 6 * 10
    assert [count for count in seen if count] == 2 * 5 * 2 * [1], "five images, one by one, by two steps, twice"


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
