"""Configurations: one sentence for whatever is wrong with them."""

import re
from pathlib import Path
from typing import Any

import pytest

from segtrans.config import RunConfig, make_config, read_config
from segtrans.errors import DataError, UsageError


def test_one_name_stands_for_a_list_and_repetitions_count_once() -> None:
    config = make_config({"surrogates": "a", "attacks": ["mi", "segpgd + mi", "mi"], "seeds": [1, 2, 1]})
    assert config.surrogates == ("a",)
    assert config.attacks == ("mi", "segpgd + mi")
    assert config.seeds == (1, 2)
    assert config == make_config({"surrogates": ["a", "a"], "attacks": ("mi", "segpgd + mi"), "seeds": (1, 2)})


def test_seeds_count_once_however_they_are_spelled() -> None:
    assert make_config({"surrogates": "a", "seeds": ["0", 0, 1]}).seeds == (0, 1)


def test_nothing_is_no_name_beside_values_to_vary() -> None:
    config = make_config({"surrogates": "a", "targets": None, "attacks": "remap(grid={g}) + mi", "vary": {"g": [1, 2]}})
    assert config.targets == ()
    assert config.attacks == ("remap(grid=1) + mi", "remap(grid=2) + mi")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attacks: [bim]\nattacks: [mi]\n", "key 'attacks' is there twice"),
        ("step-size: 1\nstep_size: 2\n", "key 'step_size' is there twice"),
        ("out: 2024-02-30\n", "not readable as YAML"),
    ],
)
def test_files_say_everything_once(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_config(tmp_path / "c.yaml")


def test_anchors_and_merges_are_no_repetitions(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: &a {x: 1}\nb: &b {<<: *a, y: 1}\nc: {<<: *b, x: 3}\n")
    assert read_config(tmp_path / "c.yaml")["c"] == {"x": 3, "y": 1}


def test_defaults_leave_attacks_their_own_settings() -> None:
    config = make_config({"surrogates": ["a"]})
    assert (config.eps, config.iterations, config.step_size) == (None, None, None)
    assert config.attacks == ("segtrans",)


@pytest.mark.parametrize("eps", ["8/255", 8 / 255, 0, 1, "0.03"])
def test_budgets(eps: float | str) -> None:
    assert make_config({"surrogates": "a", "eps": eps}).eps == eps


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "configuration lacks 'surrogates'"),
        ({"surrogate": "a"}, "unknown configuration key 'surrogate'; did you mean surrogates?"),
        ({"surrogates": "a", "epsilon": 1}, "unknown configuration key 'epsilon'; did you mean"),
        ({"surrogates": []}, "configuration key 'surrogates' is "),
        ({"surrogates": "a", "attacks": [{"mi": 1}]}, "configuration key 'attacks.0' is {'mi': 1}: "),
        ({"surrogates": "a", "iterations": 0}, "configuration key 'iterations' is 0: "),
        ({"surrogates": "a", "iterations": "many"}, "configuration key 'iterations' is 'many': "),
        ({"surrogates": "a", "limit": 0}, "configuration key 'limit' is 0: "),
        ({"surrogates": "a", "every": 0}, "configuration key 'every' is 0: "),
        (
            {"surrogates": "a", "every": True},
            "every is True; allowed are no truth values, which YAML makes of yes, no, on and off",
        ),
        ({"surrogates": "a", "batch": 0}, "configuration key 'batch' is 0: "),
        ({"surrogates": "a", "seeds": ["x"]}, "configuration key 'seeds.0' is 'x': "),
        ({"surrogates": "a", "eps": 8}, "; images are in [0, 1], so write 8/255 for 8 grey levels"),
        ({"surrogates": "a", "eps": "8"}, "so write 8/255"),
        ({"surrogates": "a", "eps": "-1/255"}, "eps is '-1/255'; allowed are numbers"),
    ],
)
def test_mistakes_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        make_config(values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", [key for key in RunConfig.model_fields if key != "save_images"])
def test_what_yaml_reads_as_true_is_no_number_and_no_name(key: str) -> None:
    for value in (True, [False]):
        with pytest.raises(UsageError, match=re.escape(f"{key} is {value}; allowed are no truth values")):
            make_config({"surrogates": "a", key: value})
    assert not make_config({"surrogates": "a", "save_images": False, "slurm": {"exclusive": True}}).save_images


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("surrogates: [a, b]\nattacks: segpgd + remap(grid=2) + mi\neps: 8/255\n", encoding="utf-8")
    config = make_config(read_config(path))
    assert config.surrogates == ("a", "b")
    assert config.attacks == ("segpgd + remap(grid=2) + mi",)
    assert config.eps == "8/255"
    assert isinstance(config, RunConfig)


@pytest.mark.parametrize(
    ("content", "message"),
    [("- a\n- b\n", "holds list; expected keys"), ("", "holds NoneType"), ("a: [b", "not readable as YAML")],
)
def test_files_that_are_no_configuration(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        read_config(path)
    with pytest.raises(DataError, match="no such configuration file"):
        read_config(tmp_path / "other.yaml")


def test_vary_multiplies_what_asks_for_it() -> None:
    config = make_config(
        {
            "surrogates": ["smp:{head}/resnet50"],
            "attacks": ["mi", "remap(grid={grid}, window={scale}) + mi", "ti(iterations={grid})"],
            "vary": {"grid": [1, 2], "scale": [[0.5, 1], "(1, 2)"], "head": ["pspnet", "deeplabv3"]},
        }
    )
    assert config.surrogates == ("smp:pspnet/resnet50", "smp:deeplabv3/resnet50")
    assert config.attacks == (
        "mi",
        "remap(grid=1, window=(0.5, 1)) + mi",
        "remap(grid=1, window=(1, 2)) + mi",
        "remap(grid=2, window=(0.5, 1)) + mi",
        "remap(grid=2, window=(1, 2)) + mi",
        "ti(iterations=1)",
        "ti(iterations=2)",
    )


@pytest.mark.parametrize(
    ("attacks", "vary", "message"),
    [
        ("remap(grid={gird})", {"grid": [1]}, r"unknown blank in .* 'gird'; did you mean grid\?"),
        ("mi", {"grid": [1]}, r"vary lists 'grid', but no attack or model says \{grid\}"),
        ("mi", {"grid": 1}, "vary is .*expected names with lists"),
        ("mi", ["grid"], "vary is .*expected names with lists"),
        ("mi", {"grid": []}, "vary is .*expected names with lists"),
    ],
)
def test_bad_variations_are_refused(attacks: str, vary: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_config({"surrogates": ["a"], "attacks": attacks, "vary": vary})
