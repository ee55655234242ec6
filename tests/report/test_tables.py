"""The tables in the terminal."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from synthetic_run import make_run

from segtrans.report.table import print_tables


def printed(document: dict[str, Any], **settings: Any) -> str:
    stream = io.StringIO()
    print_tables(document, Console(file=stream, width=80, **settings))
    return stream.getvalue()


def test_ranking_and_pairs_fit_into_80_columns(tmp_path: Path) -> None:
    targets = [f"zoo:voc/deeplabv3plus-efficientnetlite{i}" for i in range(6)]
    attacks = ["noise", "mi", "segpgd + remap(grid=2) + mi(decay=0.9)"]
    text = printed(make_run(tmp_path, surrogates=targets[:2], targets=targets, attacks=attacks, images={}))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "\x1b" not in text
    for words in ("other", "same", "noise (control)", "asr_pixel", "per image", "1.79", "(6)", "90.0*", "* white box"):
        assert words in text
    assert "made on deeplabv3plus-efficientnetlite1" in text


HEADERS = {
    *("attack", "in", "asr_miou", "asr_pixel", "other", "same", "backbone", "grads", "per", "it", "seconds", "image"),
    *("lead", "over", "mi", "points", "interval", "ahead", "on", "surrogates", "scored"),
}


@pytest.mark.parametrize("width", [40, 50, 60, 70, 80, 200])
def test_narrow_terminals_get_fewer_columns(tmp_path: Path, width: int) -> None:
    targets = [f"zoo:voc/deeplabv3plus-efficientnetlite{i}" for i in range(6)]
    attacks = ["noise", "mi", "segpgd + remap(grid=2) + mi(decay=0.9)"]
    made = {"surrogates": targets[:2], "targets": targets, "attacks": attacks, "images": {}, "baseline": "mi"}
    document = make_run(tmp_path, **made)
    stream = io.StringIO()
    print_tables(document, Console(file=stream, width=width))
    text = stream.getvalue()
    tables = [line for line in text.splitlines() if not line.startswith(("made on", "(", "*"))]
    assert max(map(len, tables)) <= width
    assert "…" not in text
    names = "".join(line if width == 200 else line[:17] for line in tables).replace(" ", "")
    assert all("".join(attack.split()) in names for attack in attacks)
    heads = re.findall(r"(?:^ .*\n){1,3}(?=^ ─)", text, re.MULTILINE)
    assert heads
    assert {word for head in heads for word in re.findall("[a-z_]+", head)} <= HEADERS
    assert text.count(" to ") == (2 if "interval" in text else 0)
    assert text.count("scored on") == 2 * {40: 3, 50: 2, 60: 2}.get(width, 1)
    assert all(f"({i})" in text for i in range(1, 7))
    assert ("per image" in text) == (width >= 80)


def test_gradients_before_the_first_iteration_are_shown_apart(tmp_path: Path) -> None:
    names = [f"zoo:voc/deeplabv3plus-efficientnetlite{i}" for i in range(2)]
    made = {"surrogates": names, "targets": names, "images": {}}
    text = printed(make_run(tmp_path, attacks=["noise", "fia", "segpgd + remap(grid=2) + mi(decay=0.9)"], **made))
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"fia +[\d. ]+ 1 \+30 +1\.79", text)
    assert "+ gradients that are spent once" in text
    assert "+" not in printed(make_run(tmp_path, attacks=["noise", "mi"], **made))


def test_many_targets_leave_the_pairs_to_the_page(tmp_path: Path) -> None:
    targets = [f"zoo:{i}" for i in range(7)]
    text = printed(make_run(tmp_path, surrogates=targets[:1], targets=targets, images={}))
    assert "segtrans" in text
    assert "made on" not in text


def test_colours_only_where_they_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = make_run(tmp_path, images={})
    assert "\x1b[" in printed(document, force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in printed(document, force_terminal=True).replace("\x1b[3m", "")  # italics are no colour


def test_markup_in_names_stays_as_it_is(tmp_path: Path) -> None:
    text = printed(make_run(tmp_path, surrogates=["zoo:[red]x[/red]"], targets=["zoo:[bold]"], images={}))
    assert "made on red]" in text  # the last part of its name
    assert "[bold]" in text


@pytest.mark.parametrize("baseline", ["mi [bold]", "mi [/] x"])
def test_the_baseline_is_no_markup(tmp_path: Path, baseline: str) -> None:
    document = make_run(tmp_path, attacks=["noise", "mi"], images={}, baseline="mi")
    document["config"]["baseline"] = baseline
    assert baseline.split()[1] in printed(document)


def test_several_budgets_are_said(tmp_path: Path) -> None:
    document = make_run(tmp_path, attacks=["noise", "mi", "pdpgd"], images={})
    assert "budget" not in printed(document)
    document["attacks"]["pdpgd"]["eps"] = "1"
    words = " ".join(re.sub(r"[ \d.–]{9,}", " ", printed(document)).split())
    assert "pdpgd (budget none)" in words


def test_undefined_and_unfinished(tmp_path: Path) -> None:
    document = make_run(tmp_path, images={}, surrogates=["zoo:a"], targets=["zoo:a"], attacks=["mi"])
    assert "white" in printed(document)
    for entry in (*document["cells"], *document["summary"]):
        entry["asr_miou"] = None
    assert "–" in printed(document)
    assert "no attack has a result" in printed({**document, "cells": [], "summary": []})
