"""Names of all kinds go through a run into its files, and do nothing there."""

import csv
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_run import make_run
from torch import nn

from segtrans import bench
from segtrans.attack import Attack
from segtrans.bench.tables import as_csv
from segtrans.models import SegModel
from segtrans.report import write_figures

MARKUP = "<script>alert(1)</script>\"'&amp;]]>-->"
NAMES = (MARKUP, "=cmd|' /C calc'!A0", "two\nlines", "\x1b[31m\x00\x08", "-- x", "\udce9 no text", "[red]$x_1^2~\\")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A run whose data, classes, images, models and attacks have such names."""
    root = tmp_path_factory.mktemp("names") / "=1+1 <b>"
    random = np.random.default_rng(0)
    for i, name in enumerate(n.replace("/", "|").replace("\0", "") for n in NAMES):
        for folder, channels in (("images", (3,)), ("masks", ())):
            (root / folder).mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 3, (16, 20, *channels), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / "x.png")
            (root / folder / "x.png").rename(root / folder / f"{name}.png")
        if i in (0, 5):  # read as broken
            (root / "images" / f"{name}.png").write_bytes(b"")
    (root / "classes.txt").write_text(f"{MARKUP}\n=2+2\n-3\n", encoding="utf-8")
    torch.manual_seed(0)
    models = {name: SegModel(nn.Conv2d(3, 3, 3, padding=1), 3, name=name, backbone=name) for name in NAMES[:2]}
    out = root.parent / "out"
    document = bench.run(
        surrogates=[*models][:1],
        targets=[*models],
        models=models,
        attacks={name: Attack(iterations=1) for name in NAMES},
        data=f"folder:{root}",
        pictures=3,
        out=out,
        quiet=True,
    )
    write_figures(out, document)
    return document, out


def test_results_are_read_back_as_they_were(ran: tuple[dict[str, Any], Path]) -> None:
    document, out = ran
    found = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(document))
    assert [failure["image"] for failure in found["failures"]] == [MARKUP.replace("/", "|"), "\udce9 no text"]
    assert {picture["name"] for picture in found["pictures"]} == {"\x1b[31m\x08", "-- x"}
    assert len(found["cells"]) == 2 * len(NAMES)


def test_files_stay_in_their_folder_under_plain_names(ran: tuple[dict[str, Any], Path]) -> None:
    _, out = ran
    for path in out.parent.rglob("*"):
        if out in path.parents:
            assert re.fullmatch(r"[\w.()=+, -]+", path.name, re.ASCII), path
    assert {path.name for path in out.parent.iterdir()} == {"out", "=1+1 <b>"}


@pytest.mark.parametrize("name", ["cells", "costs"])
def test_tables_hold_no_formulas(ran: tuple[dict[str, Any], Path], name: str) -> None:
    document, out = ran
    with (out / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(document[name])
    for row, entry in zip(rows, document[name], strict=True):
        for key in ("surrogate", "attack"):
            plain = " ".join(entry[key].encode("utf-8", "backslashreplace").decode().split())
            assert row[key] == (f"'{plain}" if plain[0] in "=-" else plain)
        for value in row.values():
            assert not re.match(r"[=+@]|-(?![\d.]+(e-?\d+)?$)", value)


def test_numbers_below_zero_stay_numbers() -> None:
    text = as_csv([{"attack": "-x", "drop": -0.5, "asr_miou_interval": [-1.0, 2.0], "block": "a", "miou": None}])
    assert text == "attack,drop,asr_miou_interval_low,asr_miou_interval_high,block,miou\n'-x,-0.5,-1.0,2.0,a,\n"


@pytest.mark.parametrize("name", ["=1", "+1", "-1", "@x", "\t=1", "\r\n=1", " =1"])
def test_every_beginning_of_a_formula_is_marked(name: str) -> None:
    assert as_csv([{"attack": name, "n": 1}]) == f"attack,n\n'{name.strip()},1\n"


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\r\nb", "a b"])
def test_a_row_is_a_line(name: str) -> None:
    assert as_csv([{"attack": name}]) == "attack\na b\n"


def test_figures_are_well_formed_and_hold_names_as_text(ran: tuple[dict[str, Any], Path]) -> None:
    _, out = ran
    figures = sorted((out / "figures").glob("*.svg"))
    assert len(figures) == len(NAMES) + 2
    words: list[str] = []
    for path in figures:
        root = ElementTree.fromstring(path.read_bytes())
        assert {e.tag.removeprefix(SVG) for e in root.iter()} <= {
            "svg",
            "style",
            "text",
            "rect",
            "path",
            "g",
            "title",
            "circle",
        }
        assert not [name for e in root.iter() for name in e.attrib if name.startswith("on") or "href" in name]
        words += [e.text or "" for e in root.iter(f"{SVG}text")]
    assert f"{MARKUP}, asr_miou in %" in words
    assert MARKUP in words, "a class"


def test_control_characters_do_not_break_figures(tmp_path: Path) -> None:
    document = make_run(tmp_path, attacks=["mi", "a\x00\x08\x1b\ufffe\udce9b"], images={})
    folder = write_figures(tmp_path, document)
    assert folder is not None
    texts = [path.read_bytes() for path in folder.iterdir()]
    assert all(ElementTree.fromstring(text).tag == f"{SVG}svg" for text in texts)
    assert any("a\ufffd\ufffd\ufffd\ufffd\ufffdb, asr_miou in %".encode() in text for text in texts)
