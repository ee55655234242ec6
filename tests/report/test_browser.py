"""The page in a browser: no error, no request, slider, sorting and copies work."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from typing import Any

import pytest
from synthetic_run import make_run

from segtrans.report import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

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
