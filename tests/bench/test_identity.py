"""What makes finished work another's: everything that decides numbers does, and nothing else."""

import copy
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
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
from segtrans.composition import PARTS
from segtrans.data import Dataset, load_data
from segtrans.ensembles import Ensemble
from segtrans.models import Preprocessing, SegModel
from segtrans.spec import make_config, read_config
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


def times(k: int) -> Callable[[int], int]:
    return lambda x: x * k


def test_what_a_network_does_beside_its_weights_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from torch import nn\n\nclass Net(nn.Conv2d):\n    def forward(self, x):\n        return {} * x\n"
    monkeypatch.syspath_prepend(tmp_path)

    def hash_of(factor: int, **attributes: object) -> str:
        (tmp_path / "elsewhere.py").write_text(source.format(factor))
        monkeypatch.delitem(sys.modules, "elsewhere", raising=False)
        importlib.invalidate_caches()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = importlib.import_module("elsewhere").Net(3, 2, 1)
        for name, value in attributes.items():
            setattr(network, name, value)
        return identity.model_hash(SegModel(network, 2))

    assert hash_of(10) == hash_of(10)
    assert hash_of(10) != hash_of(20)
    assert hash_of(10, scale=1.0) != hash_of(10, scale=2.0)
    assert hash_of(10, call=print) != hash_of(10, call=len)
    assert hash_of(10, call=object()) == hash_of(10, call=object()), "what prints its address tells nothing"
    for one, other in (
        ([1.0, 2.0], [1.0, 3.0]),
        ({"a": 1}, {"a": 2}),
        (torch.ones(2), torch.zeros(2)),
        (lambda x: x + 1, lambda x: x + 2),
        (torch.nn.functional.relu, torch.nn.functional.gelu),
        (lambda x: torch.relu(x), lambda x: torch.tanh(x)),
        (times(1), times(2)),
        (lambda x, k=1: x, lambda x, k=2: x),
        (partial(max, 1), partial(max, 2)),
        (np.ones(2), np.zeros(2)),
        (np.float32(1), np.float32(2)),
        ({"a", "b"}, {"a", "c"}),
        (torch.float16, torch.bfloat16),
        ([object(), 1], [object(), 2]),
    ):
        assert hash_of(10, setting=one) == hash_of(10, setting=copy.deepcopy(one))
        assert hash_of(10, setting=one) != hash_of(10, setting=other)


def test_settings_that_cannot_be_read_are_left_out() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for setting in (endless, torch.eye(3).to_sparse(), torch.empty(2, device="meta")):
        network: Any = nn.Conv2d(3, 2, 1)
        network.setting = setting
        assert len(identity.model_hash(SegModel(network, 2))) == 64


SCRIPT = """
import multiprocessing, sys, torch
from segtrans.bench.identity import model_hash
from segtrans.models import wrap

def act(x):
    return x.relu()

class Norm(torch.nn.Module):
    pass

def hashed(_):
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 2, 1)
    network.act, network.norm = act, Norm
    return model_hash(wrap(network, 2))

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(*pool.map(hashed, [0]), hashed(0))
"""


def test_workers_find_the_same_for_what_a_script_defines(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=True)
    theirs, ours = done.stdout.split()
    assert theirs == ours


def test_a_defence_around_a_model_is_another_model() -> None:
    class Defended(SegModel):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward((x * self.levels).round() / self.levels)

    def hash_of(kind: type[SegModel], levels: int, name: str = "m") -> str:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = kind(torch.nn.Conv2d(3, 2, 1), 2, name=name)
        model.levels = levels
        return identity.model_hash(model)

    assert hash_of(Defended, 8) == hash_of(Defended, 8, "other")
    assert len({hash_of(SegModel, 8), hash_of(Defended, 8), hash_of(Defended, 4)}) == 3
