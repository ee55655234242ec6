"""The page: self-contained, escaped, complete, small, legible."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console
from synthetic_run import make_run, replicates

from segtrans.bench.summary import summary
from segtrans.io import write_json
from segtrans.report import heat, write_page, write_report
from segtrans.report.costs import costs
from segtrans.report.gallery import GALLERY_BYTES
from segtrans.report.html import heat_class
from segtrans.report.origin import command, sentence
from segtrans.report.ranking import headline, ranking
from segtrans.report.table import print_tables
from segtrans.report.words import ends, percent, seconds, signed

VOID_TAGS = {"meta", "link", "input", "img", "br", "wbr"}
FETCHING = {"src", "srcset", "data", "poster", "action", "background", "href"}


class Checker(HTMLParser):
    """Collects tags, addresses and text, and insists that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in FETCHING]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & {*self.open}:
            self.words += data


def read(path: Path) -> Checker:
    return Checker(path.read_text(encoding="utf-8"))


def test_page_holds_everything_and_fetches_nothing(tmp_path: Path) -> None:
    make_run(tmp_path, labelled=True)
    written, *folders = write_report(tmp_path)
    assert [written, *folders] == [tmp_path / name for name in ("report.html", "pictures", "figures")]
    text = written.read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\((?!data:)|@import|//\w+\.", text)
    found = read(written)
    assert found.tags.count("figure") == 2
    assert all(a.startswith(("#", "data:")) for a in found.addresses)
    assert {a[1:] for a in found.addresses if a.startswith("#")} <= {*found.ids}
    for words in (
        "2 attacks on 2 surrogates, scored on 3 targets over 7 images of made up; budget L-inf 8/255; 10 iterations; ",
        "Scored against ground-truth masks.",
        "reconstruction from the abstract",
        "control: uniform noise within the budget",
        "arXiv:1710.06081",
        "mobilenet",
        "70.0",  # clean mIoU
        "segtrans run \\\n    --surrogate zoo:voc/one \\\n    --surrogate zoo:voc/two \\\n    --target zoo:voc/one",
        "--seed 0 \\\n    --seed 1",
        "--out runs/made-up",
        "torch 2.13.0",
        "d" * 64,
        '"step_size": null',
    ):
        assert words in found.words


def test_names_are_inert(tmp_path: Path) -> None:
    evil = "zoo:<script>alert(1)</script>\"'&"
    document = make_run(tmp_path, surrogates=[evil], targets=[evil, "zoo:b"], images={"<img onerror=x>": (20, 20)})
    document["failures"] = [{"image": "<b>x</b>", "where": "<i>", "reason": "</table><script>"}]
    document["data"]["name"] = "</title><script>"
    document["attacks"]["mi"]["title"] = "<svg onload=x>"
    write_json(tmp_path / "result.json", document)
    found = read(write_report(tmp_path)[0])
    # What is ours; and the policy lets no other script run, were it to get in.
    assert (found.tags.count("script"), found.tags.count("svg"), found.tags.count("img")) == (1, 2, 0)
    for words in ("<script>alert(1)</script>\"'&", "<b>x</b>", "</table><script>", "<svg onload=x>", "<img onerror=x>"):
        assert words in found.words
    assert "1 failure:" in found.words


def test_white_box_and_blocks_are_told_apart(tmp_path: Path) -> None:
    document = make_run(tmp_path, images={})
    text = write_page(tmp_path, document).read_text(encoding="utf-8")
    # 3 attacks, 2 measures; on each of 2 surrogates 1 cell is white box and 1 has the same backbone.
    assert len(re.findall(r'<td class="h\d+ white-box"', text)) == 12
    assert len(re.findall(r'<td class="h\d+ same-backbone"', text)) == 12
    assert len(re.findall(r'<td class="h\d+ other-backbone"', text)) == 12
    assert "other backbone<br>asr_miou</th>" in text
    assert "same backbone<br>asr_miou</th>" in text
    assert "pictures" not in read(tmp_path / "report.html").ids


def test_ranking_orders_by_other_backbones_and_puts_controls_last(tmp_path: Path) -> None:
    document = make_run(tmp_path, images={}, attacks=["noise", "mi", "di", "segtrans"])
    means = {"noise": 0.99, "mi": 0.2, "di": 0.4, "segtrans": None}
    for entry in document["summary"]:
        if entry["block"] == "other backbone":
            entry["asr_miou"] = means[entry["attack"]]
    ranked = ranking(document)
    assert [(r.attack, r.place) for r in ranked] == [("di", 1), ("mi", 2), ("segtrans", 3), ("noise", None)]
    assert ranked[0].seconds_per_image == pytest.approx(12.5 / 7)
    assert [r.gradients for r in ranked] == ["1", "1", "1", "0"]
    said = "di takes 40.0 % of the clean mIoU away on average over 2 pairs of models with other backbones (mi 20.0 %)."
    assert headline(document) == f"{said} noise alone takes 99.0 %, no less than di and mi."
    for entry in document["summary"]:
        if entry["attack"] == "noise":
            entry["asr_miou"] = 0.1
    assert headline(document) == f"{said} noise alone takes 10.0 %."
    for entry in document["summary"]:
        if entry["attack"] == "noise":
            entry["asr_miou"] = 0.0
    assert headline(document) == said


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (1, "Only 1 image: there is no interval over one image; do not read them as 95 %."),
        (19, "Only 19 images: intervals over so few are too narrow; do not read them as 95 %."),
        (20, ""),
    ],
)
def test_few_images_are_no_ground_for_intervals(tmp_path: Path, images: int, words: str) -> None:
    document = make_run(tmp_path, images={}, attacks=["mi"])
    document["data"]["images"] = images
    for cell in document["cells"]:
        cell["images"] = images
    found = read(write_page(tmp_path, document)).words
    assert ("Only" in found) == bool(words)
    assert words in found
    document["cells"][0]["images"] = 5
    assert ("Only 5 images in some results:" in read(write_page(tmp_path, document)).words) == (images > 5)


def test_gradients_before_the_first_iteration_are_shown_apart(tmp_path: Path) -> None:
    document = make_run(tmp_path, images={}, attacks=["mi", "naa"])
    assert {r.attack: r.gradients for r in ranking(document)} == {"mi": "1", "naa": "1 +30"}
    assert [(c.attack, c.gradient_evaluations) for c in costs(document)][:2] == [("mi", 10), ("naa", 40)]
    text = write_page(tmp_path, document).read_text(encoding="utf-8")
    assert '<td class="number">1 +30</td>' in text
    assert '<td class="number">40</td><td class="number">1</td><td class="number">30</td>' in text
    assert "A number after a plus" in text
    document = make_run(tmp_path, images={}, attacks=["mi"])
    assert "A number after a plus" not in write_page(tmp_path, document).read_text(encoding="utf-8")


def test_one_surrogate_that_is_its_own_target(tmp_path: Path) -> None:
    document = make_run(tmp_path, surrogates=["zoo:a"], targets=["zoo:a"], attacks=["mi"], seeds=[0])
    found = read(write_report(tmp_path)[0])
    assert "these are white-box results, not transfer" in found.words
    assert "90.0" in found.words
    assert headline(document) == "mi takes 90.0 % of the clean mIoU away on average on the surrogate itself."
    assert "1 attack on 1 surrogate, scored on 1 target over 7 images" in sentence(document)


def test_undefined_measures_are_dashes(tmp_path: Path) -> None:
    document = make_run(tmp_path, images={})
    for cell in document["cells"]:
        cell |= {"asr_miou": None, "asr_pixel": None, "miou": None, "miou_clean": None}
        cell |= {"asr_miou_interval": [None, None], "asr_pixel_interval": [None, None]}
    for entry in document["summary"]:
        entry |= {"asr_miou": None, "asr_pixel": None}
        entry |= {"asr_miou_interval": [None, None], "asr_pixel_interval": [None, None]}
    found = read(write_page(tmp_path, document))
    assert "–" in found.words
    assert not re.search(r"\b(nan|None|null%)\b", found.words, re.IGNORECASE)
    assert headline(document) == ""


def test_a_run_that_was_stopped_says_so(tmp_path: Path) -> None:
    document = make_run(tmp_path, images={})
    document |= {"interrupted": True, "cells": document["cells"][:3], "costs": document["costs"][:1]}
    document["summary"] = summary(document["cells"], replicates(document["cells"]))
    assert "1 of 12 trials finished" in read(write_page(tmp_path, document)).words
    document |= {"cells": [], "costs": [], "summary": []}
    assert "There is no result yet." in read(write_page(tmp_path, document)).words


def test_large_runs_stay_below_five_megabytes(tmp_path: Path) -> None:
    models = [f"zoo:voc/deeplabv3plus-efficientnetlite{i}" for i in range(25)]
    attacks = ["clean", "noise", "fgsm", "bim", "pgd", "mi", "ni", "di", "segpgd", "segtrans"]
    run = {"surrogates": models[:4], "targets": models, "attacks": attacks, "seeds": [0], "images": {}}
    document = make_run(tmp_path, **run, labelled=True)
    # Pictures keep to their own budget, and base64 adds a third.
    assert write_page(tmp_path, document).stat().st_size + GALLERY_BYTES * 4 / 3 < 5_000_000


def test_the_same_folder_gives_the_same_page(tmp_path: Path) -> None:
    make_run(tmp_path)
    first = write_report(tmp_path)[0].read_bytes()
    assert write_report(tmp_path)[0].read_bytes() == first


@pytest.mark.parametrize("anchors", [heat.LIGHT_HEAT, heat.DARK_HEAT])
def test_heat_cells_can_be_read(anchors: tuple[tuple[int, int, int], ...]) -> None:
    scale = heat.heat(anchors)
    assert [h.step for h in scale] == list(range(heat.HEAT_STEPS + 1))
    for h in scale:
        background, ink = (
            (int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)) for colour in (h.background, h.ink)
        )
        assert heat.contrast(background, ink) >= 4.5


def test_words_can_be_read_in_both_colour_schemes(tmp_path: Path) -> None:
    document = make_run(tmp_path, images={})
    text = write_page(tmp_path, document).read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--([a-z]+): (#[0-9a-f]+)", block)) for block in re.findall(r":root {(.*?)}", text, re.S)[:2]
    )
    for scheme in (light, dark):
        short = {k: v if len(v) == 7 else "#" + "".join(2 * c for c in v[1:]) for k, v in scheme.items()}
        rgb = {k: (int(v[1:3], 16), int(v[3:5], 16), int(v[5:7], 16)) for k, v in short.items()}
        for words in ("ink paper", "quiet paper", "quiet faint", "accent paper", "ink bar", "ink warn"):
            ink, paper = words.split()
            assert heat.contrast(rgb[ink], rgb[paper]) >= 4.5


def test_contrast_is_that_of_the_standard() -> None:
    assert heat.contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert heat.contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)
    assert [heat_class(v) for v in (-0.2, 0.0, 0.5, 1.0, 1.7, None)] == ["h0", "h0", "h10", "h20", "h20", ""]


@pytest.mark.parametrize(
    ("value", "text"), [(0.12345, "12.3"), (1.0, "100.0"), (-0.05, "−5.0"), (-0.0001, "0.0"), (None, "–")]
)
def test_percent(value: float | None, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.123, "0.12"), (12.34, "12.3"), (1234.5, "1,234"), (None, "–")])
def test_seconds(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_command_quotes_and_names_what_differs_from_the_defaults(tmp_path: Path) -> None:
    document = make_run(
        tmp_path, surrogates=["zoo:a"], targets=[], attacks=["mi + remap(grid=2)"], images={}, seeds=[0],
        data="voc:/my data", eps="4/255", save_images=False,
    )  # fmt: skip
    assert command(document) == [
        "segtrans run",
        "--surrogate zoo:a",
        "--attack 'mi + remap(grid=2)'",
        "--data 'voc:/my data'",
        "--eps 4/255",
        "-o save_images=false",
        "--out runs/made-up",
    ]
    document["config"]["data"] = "images"
    assert command(document)[0] == "segtrans attack IMAGE…"


def test_a_baseline_gets_a_table_of_leads(tmp_path: Path) -> None:
    document = make_run(tmp_path, attacks=["noise", "mi", "segtrans"], baseline="mi", images={})
    words = read(write_page(tmp_path, document)).words
    assert "Lead over mi" in words
    ours = next(row for row in document["comparison"] if row["attack"] == "segtrans")
    assert signed(ours["asr_miou"]) in words
    assert f"{ours['ahead']} of 2" in words
    for block in ("other backbone", "same backbone"):
        low, high = ours["blocks"][block]["asr_miou_interval"]
        assert f"{signed(ours['blocks'][block]['asr_miou'])}{ends((low, high))}" in words
    document = make_run(tmp_path, images={})
    assert "Lead over" not in read(write_page(tmp_path, document)).words


def test_classes_show_what_they_lose(tmp_path: Path) -> None:
    attacks = ["noise", *(f"mi(decay=0.{i})" for i in range(9))]
    document = make_run(tmp_path, attacks=attacks, labelled=True, images={}, seeds=[0])
    text = write_page(tmp_path, document).read_text(encoding="utf-8")
    found = read(tmp_path / "report.html")
    assert "classes" in found.ids
    assert text.count('<td class="h12" title="aeroplane: IoU 60.0 → 0.0">60</td>') == 10
    assert text.count('<td class="" title="bicycle: IoU – → –">–</td>') == 10
    assert text.count('<td class="h0" title="boat: IoU 40.0 → 41.0">−1</td>') == 10
    assert "2 more attacks" in found.words
    document = make_run(tmp_path, images={})
    assert "classes" not in read(write_page(tmp_path, document)).ids


def test_what_is_clean_is_that_of_the_most_images(tmp_path: Path) -> None:
    document = make_run(tmp_path, attacks=["mi", "di"], labelled=True, images={}, seeds=[0])
    for cell in document["cells"]:
        if cell["attack"] == "mi":
            cell |= {"images": 2, "miou_clean": 0.123}
    document["class_iou"][0]["iou_clean"] = [0.11] * 6
    text = write_page(tmp_path, document).read_text(encoding="utf-8")
    assert text.count('<td class="number">70.0</td>') == 3
    assert '<th scope="row">clean IoU</th><td>80</td><td>60</td>' in text


def test_steps_are_said_as_the_attack_says_them(tmp_path: Path) -> None:
    document = make_run(tmp_path, attacks=["noise", "mi", "apgd"], images={})
    document["attacks"]["apgd"]["step"] = "found"
    text = write_page(tmp_path, document).read_text(encoding="utf-8")
    assert '<th scope="col" class="number">step</th>' in text
    rows = re.findall(r'<td>L-inf 8/255</td><td class="number">(\d+)</td><td class="number">(.*?)</td>', text)
    assert rows == [("0", "–"), ("10", "eps/4"), ("10", "found")]


@pytest.mark.parametrize(("value", "text"), [(0.0855, "+8.6"), (-0.02, "−2.0"), (0.0001, "0.0"), (None, "–")])
def test_differences_carry_their_sign(value: float | None, text: str) -> None:
    assert signed(value) == text


def test_models_that_were_wrong_before_any_attack_are_named(tmp_path: Path) -> None:
    document = make_run(tmp_path, labelled=True)
    assert "Wrong before any attack" not in read(write_page(tmp_path, document)).words
    for cell in document["cells"]:
        if cell["target"] == "zoo:voc/three":
            cell["miou_clean"] = 0.05
    words = read(write_page(tmp_path, document)).words
    assert "Wrong before any attack: three, with a clean mIoU below 10.0 %." in words
    printed = Console(file=io.StringIO(), width=100)
    print_tables(document, printed)
    assert "wrong before any attack, so that ratios say little: three" in printed.file.getvalue()  # type: ignore[attr-defined]


def test_objects_of_a_program_are_no_part_of_a_command(tmp_path: Path) -> None:
    assert "From Python" not in read(write_page(tmp_path, make_run(tmp_path))).words
    document = make_run(tmp_path, targets=("zoo:voc/one", "mine"))
    document["objects"] = ["mine", "images"]
    assert "From Python: mine was an object of a program" in read(write_page(tmp_path, document)).words
