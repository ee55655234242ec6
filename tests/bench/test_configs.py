"""The configurations in `configs/` resolve: every model, attack and key."""

import re
from pathlib import Path

import pytest
import yaml

from segtrans.bench import make_plan
from segtrans.catalogue import ENTRIES, attack
from segtrans.data import load_data
from segtrans.goals import Towards
from segtrans.spec import make_config, read_config
from segtrans.zoo import cards

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize("name", ["paper-voc", "paper-cityscapes"])
def test_the_papers_grid_resolves(name: str, tmp_path: Path) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    config = make_config(yaml.safe_load(re.sub(r"weights=[\w/{}.-]+", "weights=random", text)) | {"out": tmp_path})
    assert len(config.surrogates) == 12
    # The photographs have no masks, so only the models' own classes are checked.
    plan = make_plan(config, load_data("photos?side=32"))
    assert len(plan.units) == 12 * len(config.attacks) * 3
    assert {model.backbone for model in plan.models.values()} == {"mobilenet_v2", "resnet50", "resnet101"}
    assert len({*plan.hashes.values()}) == 12, "no two models are the same"


def test_the_catalogues_table_has_every_attack() -> None:
    """But attacks towards a map, which a run has none of, and OPS, whose 9,010 gradients nobody waits for."""
    listed: set[str] = set()
    for name in ("catalogue", "catalogue-many"):
        config = make_config(read_config(CONFIGS / f"{name}.yaml"))
        listed |= {*config.attacks}
        for text in config.attacks:
            attack(text)
    left_out = {name for name, e in ENTRIES.items() if any(isinstance(a.goal, Towards) for a in e.attack.attacks)}
    assert ENTRIES.keys() - listed == left_out | {"ops"}


@pytest.mark.parametrize("path", sorted((CONFIGS / "study").glob("*.yaml")), ids=lambda path: path.stem)
def test_studies_resolve(path: Path) -> None:
    config = make_config(read_config(path))
    assert len({attack(text) for text in config.attacks}) == len(config.attacks), "no attack is there twice"
    assert {f"zoo:{name}" for name in cards()} >= {*config.surrogates}
