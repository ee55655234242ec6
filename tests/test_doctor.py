"""Ten faults are planted and ten found by name, each alone; sound models get a clean bill; nothing is changed."""

import json
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from segtrans.cli import main
from segtrans.data import VOID, batch
from segtrans.doctor import examine
from segtrans.models import Ensemble, SegModel, load_model, wrap

ZOO = "zoo:voc/pspnet-mobilenetv3s"
CLASSES = 5
IMAGES, _ = batch(size=48)
RAW: dict[str, Any] = {"mean": (0, 0, 0), "std": (1, 1, 1)}
SOUND: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def network(*more: nn.Module) -> nn.Sequential:
    """A small network whose batch normalisation has seen photographs, normalised as ImageNet is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Tanh(),
            nn.Dropout(0.2),
            nn.Conv2d(8, CLASSES, 1),
            *more,
        )
        body[1].momentum = None  # an average over all batches
        mean, std = (torch.tensor(SOUND[name]).view(3, 1, 1) for name in ("mean", "std"))
        body.train()((IMAGES - mean) / std)
    return body.eval()


class After(nn.Module):
    """A model with something done to its images and logits."""

    def __init__(
        self, logits: Callable[[Tensor], Tensor] = lambda z: z, images: Callable[[Tensor], Tensor] = lambda x: x
    ) -> None:
        super().__init__()
        self.model = wrap(network(), CLASSES, **SOUND)
        self.logits, self.images = logits, images
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.model(self.images(x)))


def forgetful() -> nn.Module:
    """With a batch normalisation that keeps no statistics."""
    return nn.Sequential(network()[0], nn.BatchNorm2d(8, track_running_stats=False), nn.Tanh(), network()[4])


def training() -> nn.Module:
    model = wrap(network(), CLASSES, **SOUND)
    model.train()
    return model


def half_dropout() -> nn.Module:
    model = wrap(network(), CLASSES, **SOUND)
    model.network[3].train()
    return model


def left_half(x: Tensor) -> Tensor:
    return torch.cat([x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :].detach()], -1)


def first_nan(z: Tensor) -> Tensor:
    return torch.cat([z[:1] * torch.nan, z[1:]])


PLANTED: list[tuple[str, Callable[[], nn.Module], str]] = [
    ("probabilities", lambda: After(lambda z: z.softmax(1)), "leave out the last softmax or sigmoid"),
    ("probabilities", lambda: After(torch.sigmoid), "leave out the last softmax or sigmoid"),
    ("resolution", lambda: After(lambda z: F.avg_pool2d(z, 4)), r"logits are \(12, 12\) for images \(48, 48\)"),
    ("training mode", training, r"7 module\(s\) are in training mode, 'SegModel' first; call model.eval\(\)"),
    ("training mode", half_dropout, r"1 module\(s\) .* 'network.3' first"),
    ("randomness", lambda: After(lambda z: F.dropout(z, 0.1)), "two passes over the same images differ by up to"),
    ("randomness", lambda: After(images=lambda x: x + 0.01 * torch.randn_like(x)), "two passes"),
    ("batch", lambda: After(lambda z: z - z.mean(0)), "when it is alone in its batch; look for batch normalisation"),
    ("batch", lambda: wrap(forgetful(), CLASSES, **SOUND), "without running statistics"),
    ("batch", lambda: After(lambda z: z if len(z) > 1 else {"out": z}), "returned dict for one image alone"),  # type: ignore[arg-type,return-value]
    ("batch", lambda: After(torch.squeeze), r"returned \(5, 48, 48\) for one image alone, \(1, 3, 48, 48\), and not"),
    (
        "batch",
        lambda: After(lambda z: z.view(len(IMAGES), *z.shape[1:])),
        r"fails on one image alone, \(1, 3, 48, 48\)",
    ),
    ("zero gradient", lambda: After(images=lambda x: (x * 255).round() / 255), "exactly zero at 100% of the pixels"),
    ("zero gradient", lambda: After(images=left_half), "exactly zero at 50% of the pixels"),
    ("zero gradient", lambda: After(lambda z: 1e4 * z), r"exactly zero at \d+% of the pixels"),
    (
        "probabilities",
        lambda: wrap(network(nn.Softmax(1)), CLASSES, **SOUND, label_map=[0, 1, 2, 2, 3], data_classes=CLASSES),
        "leave out the last softmax",
    ),
    ("class count", lambda: After(lambda z: torch.cat([z, z], 1)), "the model has 10 classes and the data 5"),
    ("not differentiable", lambda: After(images=lambda x: x.detach()), "no gradient reaches the image"),
    ("not differentiable", lambda: After(lambda z: F.one_hot(z.argmax(1)).movedim(-1, 1) - 0.5), "no gradient"),
    ("not differentiable", lambda: After(lambda z: torch.from_numpy(z.numpy())), "no gradient reaches .*numpy"),
    ("normalisation", lambda: wrap(network(), CLASSES, **RAW), "the mean and std of ImageNet"),
    ("normalisation", lambda: wrap(network(), CLASSES, mean=(0, 0, 0), std=(1 / 255,) * 3), "std of ImageNet"),
    ("not finite", lambda: After(first_nan), r"logits of image\(s\) \[0\] are NaN or infinite"),
    ("not finite", lambda: After(lambda z: z + (z.detach() - z).sqrt()), "the gradient is NaN or infinite"),
]


@pytest.mark.parametrize(("fault", "plant", "advice"), PLANTED, ids=[f"{n} {p[0]}" for n, p in enumerate(PLANTED)])
def test_planted_faults_are_found_and_no_others(fault: str, plant: Callable[[], nn.Module], advice: str) -> None:
    findings = examine(plant(), IMAGES, classes=CLASSES)
    assert [finding.fault for finding in findings] == [fault], findings
    assert "\n" not in findings[0].advice
    assert re.search(advice, findings[0].advice), findings[0].advice


def test_ten_faults_are_planted() -> None:
    assert len({fault for fault, _, _ in PLANTED}) == 10


def untrained() -> SegModel:
    return wrap(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, CLASSES, 1)), CLASSES)


def ensemble() -> Ensemble:
    return Ensemble([wrap(network(), CLASSES, **SOUND, name=name) for name in ("one", "two")], "probabilities")


SOUNDS: dict[str, Callable[[], Any]] = {
    "wrapped": lambda: wrap(network(), CLASSES, **SOUND),
    "module": After,
    "function": lambda: wrap(network(), CLASSES, **SOUND).forward,
    "log probabilities": lambda: After(lambda z: z.log_softmax(1)),
    "shrunk": lambda: wrap(network(), CLASSES, **SOUND, max_side=24),
    "untrained": untrained,
    "ensemble": ensemble,
}


@pytest.mark.parametrize("make", SOUNDS.values(), ids=SOUNDS)
def test_sound_models_get_a_clean_bill(make: Callable[[], Any]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    assert examine(model, IMAGES, classes=CLASSES) == []
    assert examine(model, IMAGES, torch.full((len(IMAGES), 48, 48), VOID), classes=CLASSES) == []


@pytest.mark.parametrize("name", ["voc/pspnet-mobilenetv3s", "voc/pspnet-efficientnetlite0"])
def test_embedded_models_get_a_clean_bill_and_lose_it_without_normalisation(name: str) -> None:
    model = load_model(f"zoo:{name}")
    images, _ = batch(size=64)
    assert examine(model, images, classes=21) == []
    (finding,) = examine(wrap(model.network, 21, **RAW, multiple=32), images)
    assert finding.fault == "normalisation"
    assert ("ImageNet" if "mobilenet" in name else "[-1, 1]") in finding.advice


class Grey(nn.Module):
    """With a batch normalisation that remembers nothing, and right about what is dark if images are in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return torch.cat([-x.mean(1, keepdim=True), x.mean(1, keepdim=True)], 1)


@pytest.mark.parametrize(("mean", "std", "faults"), [(0.0, 1.0, ["normalisation"]), (0.5, 0.5, [])])
def test_masks_tell_normalisation_where_there_are_no_statistics(mean: float, std: float, faults: list[str]) -> None:
    model, truth = wrap(Grey(), 2, mean=(mean,) * 3, std=(std,) * 3), (IMAGES.mean(1) > 0.5).long()
    assert [finding.fault for finding in examine(model, IMAGES, truth)] == faults
    assert examine(model, IMAGES) == [], "without masks it cannot be told"


def test_labels_of_unknown_classes_are_found() -> None:
    labels = torch.full((len(IMAGES), 48, 48), VOID)
    labels[0, 0, 0] = CLASSES
    (finding,) = examine(wrap(network(), CLASSES, **SOUND), IMAGES, labels)
    assert finding.fault == "class count"
    assert finding.advice.startswith("labels contain class 5, but the model has 5 classes; ")


def test_classes_in_another_order_are_found() -> None:
    names = [*"abcde"]
    assert examine(wrap(network(), names, **SOUND), IMAGES, classes=names) == []
    (finding,) = examine(wrap(network(), [*"acbde"], **SOUND), IMAGES, classes=names)
    assert finding.fault == "class count"
    assert finding.advice == (
        "the model has the data's classes in another order (class 1 is 'c' instead of 'b'); give a label map"
    )


def test_several_faults_are_all_found() -> None:
    model = After(lambda z: F.avg_pool2d(F.dropout(z, 0.1).softmax(1), 2), lambda x: (x * 255).round() / 255)
    model.model.network.train()
    names = {finding.fault for finding in examine(model, IMAGES, classes=3)}
    assert names == {"probabilities", "randomness", "training mode", "resolution", "class count", "zero gradient"}


@pytest.mark.parametrize(
    ("model", "advice"),
    [
        (wrap(network(), 7, name="mine"), "the model fails on images .*model 'mine' returned .* for its 7 classes"),
        (lambda x: {"out": x}, "the model returned dict instead of logits .* segtrans.models.wrap makes them"),
        (lambda x: x.mean((2, 3)), r"the model returned \(6, 3\) instead of logits"),
        (nn.Linear(3, 2).eval(), "the model fails on images"),
        (wrap(network().double(), CLASSES), "the model fails on images"),
        (wrap(network().half(), CLASSES), "the model fails on images"),
    ],
)
def test_models_that_return_no_logits_are_found(model: Any, advice: str) -> None:
    (finding,) = examine(model, IMAGES)
    assert finding.fault == "no logits"
    assert re.match(advice, finding.advice), finding.advice


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, MemoryError])
@pytest.mark.parametrize("graph", [False, True], ids=["forwards", "backwards"])
def test_a_lack_of_memory_is_no_fault_of_the_model(graph: bool, kind: type[Exception]) -> None:
    def greedy(x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad == graph:
            raise kind("CUDA ran full")
        return x

    (finding,) = examine(After(images=greedy), IMAGES)
    assert finding.fault == "memory"
    assert finding.advice == "there is not enough of it for images (6, 3, 48, 48) (CUDA ran full); try smaller ones"


def test_members_of_an_ensemble_are_named() -> None:
    models = [wrap(network(), CLASSES, **kind, name=name) for name, kind in (("good", SOUND), ("raw", RAW))]
    (finding,) = examine(Ensemble(models), IMAGES)
    assert finding.advice.startswith("raw: the first batch normalisation")


def test_nothing_is_changed() -> None:
    model = After(lambda z: F.dropout(z, 0.1))
    model.model.network[3].train()
    modes = [m.training for m in model.modules()]
    state, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    images = IMAGES.clone()
    assert examine(model, images)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(images, IMAGES)


def called(*arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    monkeypatch.setattr(sys, "argv", ["segtrans", "doctor", *arguments])
    with pytest.raises(SystemExit) as done:
        main()
    return done.value.code or 0, capsys.readouterr().out


def test_the_command_shows_the_surroundings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = called(monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    for word in ("python: 3.", "'torch': ", "threads: 1", "devices: ['cpu'", "deterministic algorithms: ", "tf32"):
        assert word in out


def test_the_command_examines_models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    models = "--model", ZOO, "--size", "64", "--device", "cpu"
    code, out = called(*models, monkeypatch=monkeypatch, capsys=capsys)
    assert (code, out.splitlines()[-1]) == (0, f"{ZOO}: sound")
    raw = f"{ZOO}?mean=0,0,0&std=1,1,1"
    code, out = called(*models, "-m", raw, "--json", monkeypatch=monkeypatch, capsys=capsys)
    document = json.loads(out)
    assert code == 2
    assert document["models"][ZOO] == []
    assert [finding["fault"] for finding in document["models"][raw]] == ["normalisation"]
    assert set(document["models"][raw][0]) == {"fault", "advice"}
    assert document["environment"]["libraries"]["torch"] == torch.__version__.partition("+")[0]


def test_the_command_compares_with_the_classes_of_data(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, mode in (("images", "RGB"), ("masks", "L")):
        (tmp_path / folder).mkdir()
        Image.new(mode, (40, 30)).save(tmp_path / folder / "one.png")
    data = f"folder:{tmp_path}/images?masks={tmp_path}/masks&classes=4"
    code, out = called("-m", ZOO, "--data", data, "--size", "64", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert f"{ZOO}: class count: the model has 21 classes and the data 4; " in out
