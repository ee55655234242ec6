"""Models, data and attacks of other packages: a real one, installed in a folder, and ones that are broken."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from segtrans import listing, plugins
from segtrans.bench.plan import make_plan
from segtrans.catalogue import attack
from segtrans.config import make_config
from segtrans.data import load_data
from segtrans.errors import MissingError, ModelError, SegtransError, UsageError
from segtrans.models import load_model
from segtrans.testing import check_attack, check_model

CODE = '''
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from segtrans.catalogue import Entry, compose
from segtrans.data import Dataset, Item
from segtrans.data.folder import folder
from segtrans.gradients import Momentum
from segtrans.models import SegModel, wrap
from segtrans.transforms import Transform


def model(name: str, classes: int, hidden: "int | None" = 6) -> SegModel:
    """Small networks of Acme.

    Not trained."""
    network = nn.Sequential(nn.Conv2d(3, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, classes, 1))
    return wrap(network, classes, name=f"acme-{name}")


class Negative(SegModel):
    """Sees every image as its negative."""

    def __init__(self, network):
        super().__init__(network, 3, name="negative")

    def forward(self, x):
        return super().forward(1 - x)


def reader(root: Path, take: int = 2) -> Dataset:
    """Acme's photographs."""
    return folder(root, classes=21).take(take)


@dataclass(frozen=True, kw_only=True)
class Darker(Transform):
    """Darkens every image at random."""

    moves: ClassVar[bool] = False
    least: float = 0.8

    def __call__(self, x, y, draw):
        return x * draw.uniform(1, 1, 1, low=self.least, high=1), y


darker = Entry(
    name="acme-darker", attack=compose(Darker(), Momentum()), title="darker, by Acme",
    paper="", venue="", family="input", provenance="control",
)
network, number = lambda name: nn.Conv2d(3, 2, 1), 7
negative = lambda name: Negative(nn.Conv2d(3, 3, 1))
'''

ACME = """
[segtrans.models]
acme = acme:model
bare = acme:network
negative = acme:negative
[segtrans.data]
acme = acme:reader
[segtrans.attacks]
acme-darker = acme:darker
"""

OTHERS = """
[segtrans.models]
broken = nowhere_at_all:model
number = acme:number
zoo = acme:model
acme-twice = acme:model
[segtrans.data]
broken = acme:no_such_reader
[segtrans.attacks]
broken = acme:model
mi = acme:darker
remap = acme:darker
"""


def install(site: Path, package: str, points: str, code: str = "") -> None:
    """What an installer leaves of a package."""
    (site / f"{package}.py").write_text(code, encoding="utf-8")
    info = site / f"{package}_segtrans-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}-segtrans\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "acme", ACME, CODE)
    monkeypatch.syspath_prepend(site)
    plugins._installed.cache_clear()
    yield site
    plugins._installed.cache_clear()
    sys.modules.pop("acme", None)


@pytest.fixture
def others(site: Path) -> None:
    """Further packages: some of their names are broken, some are ours, one is in two of them."""
    install(site, "others", OTHERS)
    install(site, "twins", "[segtrans.models]\nacme-twice = acme:model\n")


def test_what_a_package_adds_keeps_the_laws(site: Path) -> None:
    model = load_model("acme:small?classes=3&mean=0,0,0")
    assert (model.name, len(model.classes), model.preprocessing.mean) == ("acme-small", 3, (0, 0, 0))
    check_model(model)
    check_attack(attack("Acme-Darker"))
    assert attack("acme-darker(iterations=3) + smooth").iterations == 3
    assert load_model("mean:acme:a?classes=2,acme:b?classes=2").name == "mean:acme-a,acme-b"


def test_a_class_of_its_own_takes_the_options_of_every_model(site: Path) -> None:
    model, x = load_model("negative:x?std=1,1,1&mean=0,0,0&label_map=1,0,-"), torch.linspace(0, 1, 192).view(1, 3, 8, 8)
    assert (type(model).__name__, len(model.classes)) == ("Negative", 2)
    torch.testing.assert_close(model(x), model.network(1 - x)[:, [1, 0]])


def test_a_package_is_imported_when_its_name_is_used(site: Path) -> None:
    attack("mi")
    load_data("photos")
    with pytest.raises(UsageError, match="unknown model source 'acne'; did you mean acme"):
        load_model("acne:small")
    with pytest.raises(UsageError, match="unknown data set 'acne'; did you mean acme"):
        load_data("acne:x")
    with pytest.raises(UsageError, match="unknown attack or part 'acme-dark'; did you mean acme-darker"):
        attack("acme-dark")
    assert "acme" not in sys.modules


def test_what_only_type_checkers_import_is_not_looked_for(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
from __future__ import annotations
from typing import TYPE_CHECKING
import torch
from segtrans.data import load_data
from segtrans.models import wrap
if TYPE_CHECKING:
    from pathlib import Path
    from segtrans.data import Dataset
    from segtrans.models import SegModel
def model(name: str, classes: int | None = 3) -> SegModel:
    return wrap(torch.nn.Conv2d(3, classes, 1), classes, name=name)
def reader(root: Path, side: int = 9, other: Path | None = None) -> Dataset:
    return load_data(f"folder:{root}?side={side}&masks={other.resolve()}&classes=2")
"""
    install(site, "lazy", "[segtrans.models]\nlazy = lazy:model\n[segtrans.data]\nlazy = lazy:reader\n", code)
    assert len(load_model("lazy:x?classes=4").classes) == 4
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.new("L", (24, 16)).save(tmp_path / folder / "1.png")
    data = load_data(f"lazy:{tmp_path}/images?side=8&other={tmp_path}/masks")
    assert (data.max_side, len(data)) == (8, 1)


@pytest.mark.usefixtures("others")
def test_listings_show_them_and_say_what_is_broken() -> None:
    attacks = {row["name"]: row for row in listing.attacks()}
    assert attacks["acme-darker"]["title"] == "darker, by Acme"
    assert attacks["mi"]["title"].startswith("unusable: attack 'mi' is segtrans's own")
    assert attacks["broken"].keys() == attacks["pgd"].keys()
    models = {row["name"]: row["what"] for row in listing.models()}
    assert models["acme:…"] == "Small networks of Acme"
    assert models["broken:…"].startswith("unusable: model source 'broken': entry point 'broken' (nowhere_at_all:model)")
    assert {row["name"]: row["what"] for row in listing.datasets()}["acme"] == "Acme's photographs"


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(
    ("read", "name", "kind", "message"),
    [
        (load_model, "broken:x", MissingError, "'broken': entry point 'broken' (nowhere_at_all:model) of package "
         "others-segtrans cannot be imported (No module named 'nowhere_at_all')"),
        (load_model, "number:x", UsageError, "of package others-segtrans is int; expected a function"),
        (load_model, "acme-twice:x", UsageError, "is ambiguous: entry point 'acme-twice' (acme:model) of package"),
        (load_model, "bare:x", ModelError, "'bare' made a Conv2d; expected a SegModel, as segtrans.models.wrap makes"),
        (load_model, "zoo:voc/x", UsageError, "'zoo' is segtrans's own, and entry point 'zoo' (acme:model) of package "
         "others-segtrans may not replace it"),
        (load_data, "broken:x", MissingError, "has no attribute 'no_such_reader'"),
        (attack, "broken", UsageError, "is function; expected a segtrans.catalogue.Entry"),
        (attack, "mi", UsageError, "attack 'mi' is segtrans's own"),
        (attack, "di + remap", UsageError, "attack 'remap' is segtrans's own"),
    ],
)  # fmt: skip
def test_a_broken_package_is_one_sentence(read: object, name: str, kind: type[SegtransError], message: str) -> None:
    assert callable(read)
    with pytest.raises(kind) as error:
        read(name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("others")
def test_other_names_go_on_working() -> None:
    assert attack("pgd + di").iterations == 10
    assert len(load_data("photos")) == 6
    assert load_model("acme:small?classes=2").name == "acme-small"


def test_an_attack_that_was_changed_is_another(site: Path, tmp_path: Path) -> None:
    """Its settings are the same, but results on disk are those of the old code."""

    def identity(name: str) -> str:
        config = make_config({"surrogates": ["acme:a?classes=2"], "attacks": [name], "out": tmp_path / "run"})
        plan = make_plan(config)
        return plan.unit_identity(plan.units[0])

    names = "acme-darker + di", "mi"
    before = [identity(name) for name in names]
    assert [identity(name) for name in names] == before
    file = site / "acme.py"
    file.write_text(file.read_text().replace("return x * draw", "return 0.5 * x * draw"))
    sys.modules.pop("acme")
    after = [identity(name) for name in names]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_a_run_with_nothing_of_ours(site: Path, tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for i in range(3):
        Image.linear_gradient("L").resize((24, 16)).rotate(90 * i).convert("RGB").save(
            tmp_path / "data" / "images" / f"{i}.png"
        )
        Image.new("L", (24, 16), i).save(tmp_path / "data" / "masks" / f"{i}.png")
    done = subprocess.run(
        [
            sys.executable, "-W", "error", "-c", "from segtrans.cli import main; main()", "run", "--quiet", "--json",
            "-s", "acme:a?classes=21", "-t", "acme:b?classes=21", "-a", "acme-darker", "--iterations", "2",
            "--data", f"acme:{tmp_path / 'data'}", "-o", "workers=2", "--out", str(tmp_path / "run"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)])},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (cell,) = document["cells"]
    assert (cell["surrogate"], cell["attack"], cell["images"]) == ("acme:a?classes=21", "acme-darker", 2)
    assert document["attacks"]["acme-darker"]["title"] == "darker, by Acme"
