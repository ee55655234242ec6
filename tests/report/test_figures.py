"""Figures for papers: complete, well-formed, without anything a drawing program might not know."""

import re
from pathlib import Path
from xml.etree import ElementTree

from synthetic_run import CLASSES, make_run

from segtrans.report import write_figures
from segtrans.report.content import pairs
from segtrans.report.words import percent

SVG = "{http://www.w3.org/2000/svg}"


def test_figures_stand_alone(tmp_path: Path) -> None:
    attack = "mi(decay=0.5) & <b>"
    document = make_run(tmp_path, attacks=["noise", attack], images={}, labelled=True)
    folder = write_figures(tmp_path, document)
    assert folder == tmp_path / "figures"
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert len(found) == 4
    assert {"cost.svg", "transfer-noise.svg", "classes.svg"} <= {*found}
    for text in found.values():
        root = ElementTree.fromstring(text)
        assert root.tag == f"{SVG}svg"
        assert root[0].tag == f"{SVG}style"
        assert not re.search(r"var\(|url\(|href|<script", text)
    (transfer,) = (text for name, text in found.items() if name.startswith("transfer-mi"))
    words = [text.text for text in ElementTree.fromstring(transfer).iter(f"{SVG}text")]
    cells = pairs(document)
    models = ("zoo:voc/one", "zoo:voc/two", "zoo:voc/three")
    rows = [[percent(cells[attack, s, t].asr_miou) for t in models] for s in models[:2]]
    assert words == [f"{attack}, asr_miou in %", "one", "two", "three", "one", *rows[0], "two", *rows[1]]
    frames = [r.get("stroke-dasharray") for r in ElementTree.fromstring(transfer).iter(f"{SVG}rect")]
    assert frames == ["none", "3 2", None, "3 2", "none", None]
    assert [*CLASSES] == [text.text for text in ElementTree.fromstring(found["classes.svg"]).iter(f"{SVG}text")][1:7]


def test_figures_of_an_earlier_run_do_not_stay(tmp_path: Path) -> None:
    document = make_run(tmp_path, attacks=["di", "mi", "mi(eps=4/255)"], images={}, labelled=True)
    for name, eps in (("mi", "8/255"), ("mi(eps=4/255)", "4/255")):
        document["attacks"][name] |= {"value": f"threat=LInf({eps})", "eps": eps}
    folder = write_figures(tmp_path, document)
    assert folder is not None
    assert {path.name.partition("-")[0] for path in folder.iterdir()} == {"cost.svg", "classes.svg", "eps", "transfer"}
    for name in ("mine.svg", "transfer-notes.txt"):
        (folder / name).touch()
    write_figures(tmp_path, make_run(tmp_path, attacks=["di"], images={}))
    assert {path.name for path in folder.iterdir()} == {"cost.svg", "transfer-di.svg", "mine.svg", "transfer-notes.txt"}


def test_nothing_to_show_leaves_no_folder(tmp_path: Path) -> None:
    document = make_run(tmp_path, images={})
    assert write_figures(tmp_path, {**document, "cells": [], "costs": [], "summary": []}) is None
    assert not (tmp_path / "figures").exists()
