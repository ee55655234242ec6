"""The configurations in `configs/` resolve, every model, attack and key, and editors are told so."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from segtrans.bench import make_plan
from segtrans.catalogue import ENTRIES, attack
from segtrans.config import RunConfig, json_schema, make_config, read_config
from segtrans.data import load_data
from segtrans.errors import UsageError
from segtrans.goals import Towards
from segtrans.zoo import cards

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize("name", ["paper-voc", "paper-cityscapes"])
def test_the_papers_grid_resolves(name: str, tmp_path: Path) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    config = make_config(yaml.safe_load(re.sub(r"weights=[\w/{}.-]+", "weights=random", text)) | {"out": tmp_path})
    assert len(config.surrogates) == 12
    # The photographs have no masks, so only the models' own classes are checked.
    plan = make_plan(config, load_data("photos?side=32"))
    assert len(plan.trials) == 12 * len(config.attacks) * 3
    # What draws nothing is made once for the three seeds.
    assert len(plan.units) == 444
    assert {model.backbone for model in plan.models.values()} == {"mobilenet_v2", "resnet50", "resnet101"}
    assert len({*plan.hashes.values()}) == 12, "no two models are the same"


def test_the_catalogues_table_has_every_attack() -> None:
    """But attacks towards a map, which a run has none of."""
    listed: set[str] = set()
    for path in CONFIGS.glob("catalogue*.yaml"):
        config = make_config(read_config(path))
        listed |= {*config.attacks}
        for text in config.attacks:
            attack(text)
    left_out = {name for name, e in ENTRIES.items() if any(isinstance(a.goal, Towards) for a in e.attack.attacks)}
    assert ENTRIES.keys() - listed == left_out


@pytest.mark.parametrize("path", sorted((CONFIGS / "study").glob("*.yaml")), ids=lambda path: path.stem)
def test_studies_resolve(path: Path) -> None:
    config = make_config(read_config(path))
    assert len({attack(text) for text in config.attacks}) == len(config.attacks), "no attack is there twice"
    assert {f"zoo:{name}" for name in cards()} >= {*config.surrogates}


SCHEMA = json.loads((CONFIGS / "schema.json").read_text(encoding="utf-8"))


def valid(values: Any) -> bool:
    return Draft202012Validator(SCHEMA).is_valid(values)


def test_the_schema_is_that_of_this_version() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert json_schema() == SCHEMA, "write it again: segtrans schema > configs/schema.json"
    assert {*RunConfig.model_fields, "vary"} == {key for key in SCHEMA["properties"] if "-" not in key}
    assert all(len(value["description"]) > 20 for value in SCHEMA["properties"].values() if "$ref" not in value)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_editors_find_the_schema_and_no_fault(path: Path) -> None:
    first, _, _ = path.read_text(encoding="utf-8").partition("\n")
    _, _, named = first.partition("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve() == CONFIGS / "schema.json"
    assert [error.message for error in Draft202012Validator(SCHEMA).iter_errors(read_config(path))] == []


@pytest.mark.parametrize(
    "values",
    [
        {"surrogates": "a", "attacks": "mi", "seeds": 1, "targets": None},
        {"surrogates": ["a"], "targets": [], "seeds": [1, 2], "eps": "8/255", "step_size": "eps/T"},
        {"surrogates": "a", "eps": 0.03, "step-size": "2/255", "save-images": False, "limit": None},
        {"surrogates": "{m}", "vary": {"m": ["a", 1, [0.5, 1.0]]}},
    ],
)
def test_the_schema_allows_every_form_that_is_read(values: dict[str, Any]) -> None:
    make_config(values)
    assert valid(values)


@pytest.mark.parametrize(
    "values",
    [
        {"atacks": "mi"},
        {"iterations": 0},
        {"iterations": True},
        {"size": 8},
        {"seeds": []},
        {"seeds": ["x"]},
        {"surrogates": []},
        {"surrogates": None},
        {"attacks": {"mi": 1}},
        {"eps": [1]},
        {"save-images": "maybe"},
        {"vary": {"m": []}},
        {"vary": ["m"]},
    ],
)
def test_the_schema_refuses_what_is_not_read(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        make_config({"surrogates": "a"} | values)
    assert not valid(values)
