"""What makes finished work another's: everything that decides numbers does, and nothing else."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import segtrans
from segtrans.bench import identity, make_plan
from segtrans.bench import plan as planning
from segtrans.bench.plan import Plan
from segtrans.bench.store import fingerprint
from segtrans.composition import PARTS, compose
from segtrans.config import make_config, read_config
from segtrans.data import Dataset, load_data
from segtrans.gradients import Smooth
from segtrans.models import Ensemble, Preprocessing, SegModel
from segtrans.threat import L2, LInf, Threat

CLASSES = 3


def network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = (nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, CLASSES, 1))
    inner = nn.Sequential(*layers)
    inner.register_buffer("shift", torch.zeros(1), persistent=False)
    return inner


def model(seed: int, inner: nn.Module | None = None, **options: Any) -> SegModel:
    return SegModel(inner or network(seed), CLASSES, name=f"toy {seed}", **options)


@dataclass
class Setup:
    """What a plan is made of, to be changed."""

    root: Path
    config: dict[str, Any]
    models: dict[str, SegModel] = field(default_factory=lambda: {"s": model(0), "t": model(1)})
    changed_data: Callable[[Dataset], Dataset] = lambda data: data

    def plan(self) -> Plan:
        config = make_config({"out": self.root / "run", **self.config})
        return make_plan(config, self.changed_data(load_data(config.data)), self.models)


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    random = np.random.default_rng(0)
    for folder, channels, most in (("images", (3,), 256), ("masks", (), CLASSES)):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "bank").mkdir(exist_ok=True)
        for name in "abc":
            pixels = random.integers(0, most, (16, 18, *channels), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / folder / f"{name}.png")
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(tmp_path / "bank" / "x.png")
    config = {
        "surrogates": ["s"],
        "targets": ["t"],
        "attacks": [f"segpgd + admix(bank='{tmp_path}/bank') + mi"],
        "data": f"folder:{tmp_path}/data?classes={CLASSES}",
        "slice": 2,
        "device": "cpu",
    }
    return Setup(tmp_path, config)


def identities(plan: Plan) -> tuple[str, str]:
    """Of the first unit and of its score on the first target."""
    unit = plan.units[0]
    return plan.unit_identity(unit), plan.score_identity(unit, plan.targets[0])


def configured(**values: Any) -> Callable[[Setup], None]:
    return lambda setup: setup.config.update(values)


def flip_a_bit(path: Path) -> None:
    """Of a pixel, in whatever way the file is written."""
    pixels = np.array(Image.open(path))
    pixels.flat[0] ^= 1
    Image.fromarray(pixels).save(path)


def pixel(folder: str, name: str) -> Callable[[Setup], None]:
    return lambda setup: flip_a_bit(setup.root / "data" / folder / f"{name}.png")


def weight(name: str, key: str) -> Callable[[Setup], None]:
    """The lowest bit of one number of a model."""

    def change(setup: Setup) -> None:
        tensors = {**setup.models[name].state_dict(), **dict(setup.models[name].named_buffers())}
        tensors[f"network.{key}"].flatten().view(torch.uint8)[0] ^= 1

    return change


def remade(name: str, seed: int, **options: Any) -> Callable[[Setup], None]:
    return lambda setup: setup.models.update({name: model(seed, **options)})


def reactivated(name: str, seed: int) -> Callable[[Setup], None]:
    inner = network(seed)
    inner[2] = nn.Sigmoid()
    return remade(name, seed, inner=inner)


def data(change: Callable[[Dataset], Dataset]) -> Callable[[Setup], None]:
    return lambda setup: setattr(setup, "changed_data", change)


def renamed(item: str) -> Callable[[Setup], None]:
    def change(setup: Setup) -> None:
        for folder in ("images", "masks"):
            path = setup.root / "data" / folder / f"{item}.png"
            path.rename(path.with_name(f"{item}0.png"))

    return change


def library(name: str) -> Callable[[Setup, pytest.MonkeyPatch], None]:
    def change(_: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
        before = identity.version
        monkeypatch.setattr(identity, "version", lambda one: "0" if one == name else before(one))

    return change


def source(file: str) -> Callable[[Setup, pytest.MonkeyPatch], None]:
    """One more line in one file of a copy of the package."""

    def change(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
        copy = setup.root / "segtrans"
        shutil.copytree(Path(segtrans.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__", "weights"))
        monkeypatch.setattr(identity.segtrans, "__file__", str(copy / "__init__.py"))
        (copy / file).write_text((copy / file).read_text(encoding="utf-8") + "#\n", encoding="utf-8")

    return change


def values(*changes: tuple[int, int]) -> Callable[[Dataset], Dataset]:
    def change(data: Dataset) -> Dataset:
        table = list(data.values)
        for value, meaning in changes:
            table[value] = meaning
        return replace(data, values=tuple(table))

    return change


TOY = Preprocessing()
OTHERS_WORK: dict[str, Any] = {
    "eps": configured(eps="4/255"),
    "iterations": configured(iterations=3),
    "step size": configured(step_size="1/255"),
    "seed": configured(seeds=[1]),
    "size": configured(size=17),
    "one image less in the slice": configured(slice=1),
    "other images in the slice": configured(skip=1),
    "images from farther apart": configured(every=2),
    "one more image in the slice": configured(slice=3),
    "device kind": configured(engine="slurm", gpus=1, device="auto"),
    "side": lambda setup: configured(data=setup.config["data"] + "&side=17")(setup),
    "surrogate weight": weight("s", "0.weight"),
    "surrogate bias": weight("s", "3.bias"),
    "surrogate running mean": weight("s", "1.running_mean"),
    "surrogate buffer that checkpoints lack": weight("s", "shift"),
    "surrogate activation": reactivated("s", 0),
    "surrogate precision": remade("s", 0, inner=network(0).double()),
    "surrogate mean": remade("s", 0, preprocessing=replace(TOY, mean=(0.485, 0.456, 0.407))),
    "surrogate std": remade("s", 0, preprocessing=replace(TOY, std=(0.229, 0.224, 0.226))),
    "surrogate channels": remade("s", 0, preprocessing=replace(TOY, bgr=True)),
    "surrogate multiple": remade("s", 0, preprocessing=replace(TOY, multiple=8)),
    "surrogate remainder": remade("s", 0, preprocessing=replace(TOY, multiple=8, remainder=1)),
    "surrogate side": remade("s", 0, preprocessing=replace(TOY, max_side=17)),
    "surrogate fixed size": remade("s", 0, preprocessing=replace(TOY, fixed_size=(16, 18))),
    "surrogate corners": remade("s", 0, preprocessing=replace(TOY, align_corners=True)),
    "surrogate label map": remade("s", 0, label_map=(0, 2, 1)),
    "surrogate ensemble": lambda setup: setup.models.update(s=Ensemble([model(0), model(2)])),
    "pixel of an image": pixel("images", "a"),
    "pixel of another image": pixel("images", "b"),
    "pixel of a mask": pixel("masks", "b"),
    "name of an image": renamed("b"),
    "photograph that is mixed in": lambda setup: flip_a_bit(setup.root / "bank" / "x.png"),
    "meaning of a mask value": data(values((200, 0))),
    "void": data(values((254, 255))),
    "names of classes": data(lambda data: replace(data, classes=("x", "y", "z"))),
    "mask lost": lambda setup: (setup.root / "data" / "masks" / "a.png").write_bytes(b""),
    **{f"version of {name}": library(name) for name in ("torch", "torchvision", "numpy", "pillow", "timm")},
    **{
        f"source of {file}": source(file)
        for file in ("attack.py", "random.py", "bench/work.py", "bench/predictions.py", "transforms/mixing.py")
    },
}
ANOTHER_SCORE: dict[str, Any] = {
    "target weight": weight("t", "0.weight"),
    "target variance": weight("t", "1.running_var"),
    "target buffer that checkpoints lack": weight("t", "shift"),
    "target activation": reactivated("t", 1),
    "target mean": remade("t", 1, preprocessing=replace(TOY, mean=(0.485, 0.456, 0.407))),
    "target side": remade("t", 1, preprocessing=replace(TOY, max_side=17)),
    "target label map": remade("t", 1, label_map=(0, 2, 1)),
}


def respelled(setup: Setup) -> None:
    (text,) = setup.config["attacks"]
    setup.config["attacks"] = [text.replace(" + ", "  +\t").replace("(", "( ").replace(")", " )")]


def from_yaml(setup: Setup) -> None:
    """The same from a file, its keys the other way round and with remarks between them."""
    lines = [f"{key}: {json.dumps(value)}  # {key}\n\n" for key, value in reversed(setup.config.items())]
    (setup.root / "run.yaml").write_text("# a study\n" + "".join(lines))
    setup.config = read_config(setup.root / "run.yaml")


def moved(setup: Setup) -> None:
    (setup.root / "data").rename(setup.root / "elsewhere")
    setup.config["data"] = setup.config["data"].replace("/data?", "/elsewhere?")


def one_more_image(setup: Setup) -> None:
    """In another slice."""
    for folder in ("images", "masks"):
        shutil.copy(setup.root / "data" / folder / "a.png", setup.root / "data" / folder / "d.png")


SAME_WORK: dict[str, Any] = {
    "nothing": lambda _: None,
    "batch": configured(batch=1),
    "workers": configured(workers=3),
    "engine": configured(engine="slurm", device="auto"),
    "pictures": configured(pictures=0),
    "images kept": configured(save_images=False),
    "more targets": configured(targets=["t", "s"]),
    "more surrogates": configured(surrogates=["s", "t"]),
    "more seeds": configured(seeds=[0, 1]),
    "more attacks": lambda setup: setup.config["attacks"].append("noise"),
    "limit": configured(limit=2),
    "keys and remarks": from_yaml,
    "spaces in attacks": respelled,
    "another image elsewhere": pixel("images", "c"),
    "one more image elsewhere": one_more_image,
    "place of the data": moved,
    "name of a model": lambda setup: setattr(setup.models["s"], "name", "another"),
    "backbone of a model": lambda setup: setattr(setup.models["s"], "backbone", "resnet50"),
    "colours": data(lambda data: replace(data, palette=tuple((c, c, c) for c in range(CLASSES)))),
    "name of the data": data(lambda data: replace(data, name="another")),
    "copy of a model": remade("s", 0),
    "source of the report": source("report/html.py"),
    "source of the command line": source("cli/options.py"),
    "source of the configuration": source("config.py"),
    "source of what is refused": source("bench/checks.py"),
    "source of training": source("zoo/train.py"),
    "source of the checks": source("testing/attacks.py"),
    "place of the results": lambda setup: setup.config.update(out=setup.root / "elsewhere"),
}


def after(change: Any, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    change(setup, monkeypatch) if change.__code__.co_argcount == 2 else change(setup)
    return identities(setup.plan())


@pytest.mark.parametrize("name", OTHERS_WORK)
def test_what_decides_adversarial_images(name: str, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    unit, score = identities(setup.plan())
    other_unit, other_score = after(OTHERS_WORK[name], setup, monkeypatch)
    assert other_unit != unit
    assert other_score != score


@pytest.mark.parametrize("name", ANOTHER_SCORE)
def test_what_decides_scores_alone(name: str, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    unit, score = identities(setup.plan())
    other_unit, other_score = after(ANOTHER_SCORE[name], setup, monkeypatch)
    assert other_unit == unit
    assert other_score != score


@pytest.mark.parametrize("name", SAME_WORK)
def test_what_decides_nothing(name: str, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identities(setup.plan())
    assert after(SAME_WORK[name], setup, monkeypatch) == before


@pytest.mark.parametrize("name", sorted(identity.NOT_DECIDING))
def test_what_decides_nothing_is_part_of_the_package(name: str) -> None:
    assert (Path(segtrans.__file__).parent / name).exists()


@dataclass(frozen=True, kw_only=True)
class Shaped(Smooth):
    """A part of one's own, of which printing does not tell everything."""

    shape: torch.Tensor = field(default_factory=lambda: torch.zeros(2), repr=False)
    rule: Callable[[int], int] | None = field(default=None, repr=False)


def test_values_that_are_not_printed_tell_attacks_apart() -> None:
    parts = [
        Shaped(),
        Shaped(shape=torch.ones(2)),
        Shaped(shape=torch.ones(2, dtype=torch.int64)),
        Shaped(rule=lambda x: x),
        Shaped(rule=lambda x: x + 1),
    ]
    found = [identity.attack_identity(compose(part)) for part in parts]
    assert len({repr(part) for part in parts}) == 1
    assert len(set(found)) == len(parts)
    assert identity.attack_identity(compose(Shaped())) == found[0]
    assert identity.attack_identity(compose(Shaped(shape=torch.eye(2).to_sparse())))


def test_there_are_fifty_of_them() -> None:
    assert len(OTHERS_WORK) + len(ANOTHER_SCORE) >= 50


ATTACKS = (
    "mi",
    "mi(iterations=11)",
    "mi(step_size='eps/5')",
    "mi(random_start=True)",
    "momentum(decay=0.5)",
    "mi + l2",
    "mi + l2(eps=4)",
    "mi + linf(eps=0.03)",
    "mi + patch",
    "mi + patch(side=0.5)",
    "mi + patch(row=0.1)",
    "mi + classes(classes=(1,))",
    "mi + classes(classes=(1,), inside=False)",
    "mi + leastlikely",
    "mi + allas(index=1)",
    "mi + margin",
    "mi + margin(confidence=1.0)",
    "segpgd + mi",
    "cospgd + mi",
    "mi + twostage(gamma=0.2)",
    "mi + resize",
    "mi + resize(probability=0.4)",
    "mi + resize(scale=(0.8, 1.0))",
    "mi + resize(copies=2)",
    "mi + resize(labels='keep')",
    "mi + resize + scale",
    "mi + scale + resize",
    "mi + remap",
    "mi + remap(grid=3)",
    "mi + admix(share=0.3)",
    "mi + skipgradient",
    "mi + skipgradient(factor=0.4)",
    "fgsm",
    "noise",
    "noise(random_start=False)",
)


def test_images_are_told_once_in_all_names(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, told = setup.plan(), []

    def counted(values: Any) -> str:
        told.extend(v for v in values if isinstance(v, tuple))
        return fingerprint(values)

    monkeypatch.setattr(planning, "fingerprint", counted)
    names = [plan.score_name(unit, "t") for _ in range(2) for unit in plan.units]
    assert [plan.clean_name(model, images) for model in "st" for images in plan.slices]
    assert len(set(names)) == 2
    assert told == [plan.image_hashes[:2], plan.image_hashes[2:]]


def test_attacks_that_differ_in_anything_are_kept_apart(setup: Setup) -> None:
    setup.config["attacks"] = list(ATTACKS)
    plan = setup.plan()
    found = {unit.trial.attack: plan.unit_identity(unit) for unit in reversed(plan.units)}
    assert len(found) == len(ATTACKS)
    for one, other in combinations(ATTACKS, 2):
        assert found[one] != found[other], (one, other)


@pytest.mark.parametrize("name", [name for name, part in PARTS.items() if not issubclass(part, Threat)])
def test_no_setting_of_a_part_is_left_out_of_its_identity(name: str) -> None:
    """Attacks are told apart by what they print, so all fields have to be in there; budgets print theirs exactly."""
    assert [*re.findall(r"(\w+)=", repr(PARTS[name]()))] == [f.name for f in fields(PARTS[name])]


@pytest.mark.parametrize("eps", ["8/255", 0.03, 8 / 255 + 1e-12, 0.1 + 0.2])
def test_budgets_are_told_apart_exactly(eps: float | str) -> None:
    for kind in (LInf, L2):
        assert eval(repr(kind(eps))).radius == kind(eps).radius
