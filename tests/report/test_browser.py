"""The page in a browser: no error, no request, slider, sorting and copies work."""

import base64
import hashlib
import html
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import PROGRAM as BROWSER
from browser import Browser
from synthetic_run import make_run

from segtrans.io import write_json
from segtrans.report import write_page, write_report

PROBE = """
const copied = [], click = (table, text) =>
  [...table.querySelectorAll("button")].find(b => b.textContent.replace(/\\s+/g, " ").trim() === text).click();
Object.defineProperty(navigator, "clipboard", {value: {writeText: async text => { copied.push(text); }}});
const ranking = document.querySelector("#ranking table");
const first = table => [...table.tBodies[0].rows].map(r => r.cells[1].textContent);
const says = {order: first(ranking)};
click(ranking, "attack");
says.up = [first(ranking), ranking.tHead.rows[0].cells[1].getAttribute("aria-sort")];
click(ranking, "attack");
says.down = [first(ranking), ranking.tHead.rows[0].cells[1].getAttribute("aria-sort")];
click(ranking, "#");
says.number = [first(ranking), ranking.querySelectorAll("[aria-sort]").length];
for (const copy of ranking.parentNode.nextElementSibling.querySelectorAll("button")) copy.click();
const figure = document.querySelector(".example"), range = figure.querySelector("input[type=range]");
const clip = () => getComputedStyle(figure.querySelector(".tiles .image")).clipPath;
says.before = clip();
range.value = 20;
range.dispatchEvent(new Event("input"));
says.after = clip();
const tile = figure.querySelector(".pair"), box = tile.getBoundingClientRect();
tile.dispatchEvent(new PointerEvent("pointerdown", {bubbles: true, buttons: 1, clientX: box.left + 0.75 * box.width}));
says.dragged = range.value;
const grids = () => [...figure.querySelectorAll(".tiles")].map(tiles => getComputedStyle(tiles).display);
says.grids = grids();
figure.querySelectorAll("label[for]")[1].click();
says.chosen = grids();
says.width = [document.documentElement.scrollWidth, innerWidth];
says.unreachable = [...document.querySelectorAll("button, input, summary, a, .box")].filter(e => e.tabIndex < 0).length;
says.requests = performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length;
setTimeout(() => {
  const output = document.createElement("output");
  output.textContent = JSON.stringify({...says, copied});
  document.body.append(output);
}, 50);
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the probe found, run by the page's own policy, and what the browser's console said."""
    if BROWSER is None:
        pytest.skip("there is no Chromium here")
    root = tmp_path_factory.mktemp("run")
    attacks = ["noise", "mi", "=<script>document.title = 'lost'</script>"]
    make_run(root, attacks=attacks, labelled=True, surrogates=["zoo:a_1&b"], targets=["zoo:a_1&b", "zoo:c"])
    page = write_report(root)[0]
    text = page.read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()
    assert text.count("script-src ") == 1
    text = text.replace("script-src ", f"script-src 'sha256-{allowed}' ").replace(
        "</body>", f"<script>{PROBE}</script></body>"
    )
    page.write_text(text, encoding="utf-8")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=500,900")
    profile = f"--user-data-dir={root / 'profile'}"
    command = (BROWSER, *options, profile, "--virtual-time-budget=3000", "--dump-dom", page.as_uri())
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    (found,) = re.findall(r"<output>(.*)</output>", done.stdout)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {
        **json.loads(html.unescape(found)),
        "console": console,
        "title": re.findall("<title>(.*)</title>", done.stdout),
    }


def test_nothing_is_fetched_and_nothing_goes_wrong(seen: dict[str, Any]) -> None:
    assert (seen["console"], seen["requests"]) == ([], 0)
    assert seen["title"][0] == "Transfer of adversarial examples on made up – segtrans"
    assert seen["width"][0] <= seen["width"][1]  # nothing sticks out to the right
    assert seen["unreachable"] == 0


def test_headers_sort(seen: dict[str, Any]) -> None:
    assert seen["up"] == [sorted(seen["order"]), "ascending"]
    assert seen["down"] == [seen["up"][0][::-1], "descending"]
    # The second comes before the first, and the control without a place stays last.
    assert seen["number"] == [[seen["order"][1], seen["order"][0], seen["order"][2]], 1]


def test_tables_are_copied(seen: dict[str, Any]) -> None:
    csv, latex = seen["copied"]
    head, *rows = csv.splitlines()
    assert head.startswith('"#","attack","same backbone asr_miou","same backbone asr_miou low",')
    assert len(rows) == 3
    assert {line.count('","') for line in (head, *rows)} == {9}
    assert re.search(r'"noise \(control: uniform noise within the budget\)","2.0","[-\d.]+","[\d.]+"', rows[-1])
    assert any(""","'=<script>document.title = 'lost'</script>",""" in row for row in rows), "no formula"
    assert " & =<script>document.title = 'lost'</script> & " in latex
    assert latex.startswith("\\begin{tabular}{rlrrrr}\n\\toprule\n\\# & attack & same backbone asr\\_miou & ")
    assert re.search(
        r"2\.0 \{\\scriptsize \[\$-\$[\d.]+, [\d.]+\]\} & .* \\\\\n\\bottomrule\n\\end\{tabular\}\n$", latex
    )


def test_the_line_between_clean_and_attacked_moves(seen: dict[str, Any]) -> None:
    assert (seen["before"], seen["after"]) == ("inset(0px 0px 0px 50%)", "inset(0px 0px 0px 20%)")
    assert seen["dragged"] == "75"
    assert (seen["grids"], seen["chosen"]) == (["grid", "none", "none"], ["none", "grid", "none"])


EVIL = "zoo:</title></style>/<script>document.title = 'lost'\"'"
CONTRASTS = """
(() => {
  const rgba = text => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const ratio = (a, b) => { const [x, y] = [light(a.slice(0, 3)), light(b.slice(0, 3))].sort((p, q) => p - q);
    return (y + .05) / (x + .05); };
  const papers = start => { const found = [];
    for (let e = start; e; e = e.parentElement) {
      const style = getComputedStyle(e), colour = rgba(style.backgroundColor);
      for (const stop of style.backgroundImage.match(/rgb\\([^)]*\\)/g) || []) found.push(rgba(stop));
      if (colour.length < 4 || colour[3] === 1) return [...found, colour];
    }
    return [...found, [255, 255, 255]];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), poor = [];
  let count = 0;
  while (texts.nextNode()) {
    const node = texts.currentNode, e = node.parentElement;
    if (!node.textContent.trim() || !e.getClientRects().length || e.closest("script, style, title")) continue;
    const style = getComputedStyle(e), ink = rgba(e.closest("svg") ? style.fill : style.color);
    count += 1;
    for (const paper of papers(e)) if (ratio(ink, paper) < 4.5) poor.push([node.textContent.trim(), ratio(ink, paper)]);
  }
  return {count, poor, paper: getComputedStyle(document.body).backgroundColor, title: document.title};
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if BROWSER is None:
        pytest.skip("there is no Chromium here")
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a page may hold: curves, leads, a failure, masks, a comparison, names that mean ill."""
    root = tmp_path_factory.mktemp("run")
    attacks = ["noise", "mi", "linf(eps=4/255) + mi", "segtrans"]
    document = make_run(root, attacks=attacks, labelled=True, baseline="mi", surrogates=[EVIL, "zoo:b"],
                        targets=[EVIL, "zoo:b", "zoo:<img src=x onerror=alert(1)>"])  # fmt: skip
    document["attacks"]["mi"] |= {"value": "Attack(threat=LInf('8/255'))"}
    document["attacks"][attacks[2]] |= {"value": "Attack(threat=LInf('4/255'))", "eps": "4/255"}
    document["failures"] = [{"image": "<b>x</b>", "where": EVIL, "reason": "damaged"}]
    write_json(root / "result.json", document)
    written = write_report(root, root)[0]
    assert 'id="curves"' in written.read_text(encoding="utf-8")
    return written


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1300])
def test_every_word_stands_out_from_what_is_behind_it(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width=width, dark=dark)
    browser.run("for (const d of document.querySelectorAll('details')) d.open = true")
    found = browser.run(CONTRASTS)
    assert found["count"] > 300
    assert found["poor"] == []
    # The scheme is in force.
    assert (found["paper"] == "rgb(253, 253, 251)") is not dark


def test_names_that_mean_ill_stay_words(browser: Browser, page: Path) -> None:
    browser.open(page, width=1300)
    assert browser.run("document.title") == "Transfer of adversarial examples on made up – segtrans"
    assert browser.run("[document.scripts.length, document.images.length, document.querySelectorAll('b').length]") == [
        1, 0, browser.run("document.querySelectorAll('.heat td b').length"),
    ]  # fmt: skip
    # What is rendered, so not what became a script that the page's policy then stopped.
    words = browser.run("document.body.innerText")
    assert words.count("<script>document.title = 'lost'\"'") > 10


@pytest.mark.parametrize("width", [390, 600, 1300])
def test_the_page_never_scrolls_sideways(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    browser.run("for (const d of document.querySelectorAll('details')) d.open = true")
    assert browser.run("document.documentElement.scrollWidth") <= width
    # Nor is anything cut off: what sticks out lies in a box that scrolls.
    out = "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
    assert browser.run(f"{out} && !e.closest('.box, pre, .tile')).map(e => e.outerHTML.slice(0, 80))") == []
    box = "[...document.querySelectorAll('.box')].filter(e => e.scrollWidth > e.clientWidth)"
    assert browser.run(f"{box}.every(e => getComputedStyle(e).overflowX === 'auto')")


def test_everything_is_reached_and_used_with_the_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page, width=1300)
    here = "(e => [e.tagName, e.type || '', e.getAttribute('aria-label') || e.textContent])(document.activeElement)"
    seen: list[list[str]] = []
    for _ in range(400):
        browser.press("Tab", 9)
        now = browser.run(here)
        if now[0] == "BODY" or (seen and now == seen[0]):
            break
        outline = browser.run("(e => getComputedStyle(e.matches('.switch') ? e.nextElementSibling : e).outlineStyle)"
                              "(document.activeElement)")  # fmt: skip
        assert outline != "none", now
        seen.append(now)
        if now == ["BUTTON", "button", "attack"]:
            browser.press("Enter", 13, "\r")
            assert browser.run("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"
        if now[1] == "range":
            browser.press("ArrowRight", 39)
            assert browser.run("document.activeElement.closest('.example').style.getPropertyValue('--cut')") == "51%"
            browser.press("ArrowLeft", 37)
    kinds = {tuple(each[:2]) for each in seen}
    assert {("A", ""), ("BUTTON", "button"), ("INPUT", "radio"), ("INPUT", "range"), ("SUMMARY", "")} <= kinds
    assert "Copy Ranking of attacks as CSV" in {each[2] for each in seen}
    assert len(seen) > 50


def test_a_large_run_opens_at_once(browser: Browser, tmp_path: Path) -> None:
    models = [f"zoo:voc/deeplabv3plus-efficientnetlite{i}" for i in range(25)]
    attacks = ["clean", "noise", "fgsm", "bim", "pgd", "mi", "ni", "di", "segpgd", "segtrans"]
    images = {"cat": (240, 320), "dog": (320, 240)}
    run = {"surrogates": models[:4], "targets": models, "attacks": attacks, "seeds": [0], "images": images}
    written = write_page(tmp_path, make_run(tmp_path, **run, labelled=True))
    assert written.stat().st_size < 5_000_000
    browser.open(written, width=1300)
    assert browser.run("document.querySelectorAll('#transfer .matrix').length") == 20
    # Milliseconds, its script included; a busy machine gets some more.
    assert browser.run("performance.timing.loadEventEnd - performance.timing.navigationStart") < 5000
