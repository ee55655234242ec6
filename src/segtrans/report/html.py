"""The page of a run: one file that needs no network and no other file, and says everything without its script."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import jinja2
from markupsafe import Markup, escape

from segtrans.bench.summary import WHITE_BOX
from segtrans.data.base import Colour
from segtrans.io import write_text
from segtrans.report.compare import Comparison, compare
from segtrans.report.content import (
    Document,
    Pair,
    clean_miou,
    is_control,
    pairs,
    read_document,
    short_names,
    surrogates,
    targets,
)
from segtrans.report.costs import costs, failures
from segtrans.report.curves import curves
from segtrans.report.gallery import MOST_ATTACKS, Example, examples
from segtrans.report.origin import command, provenance, sentence
from segtrans.report.plot import Plot, cost_plot
from segtrans.report.ranking import class_drops, headline, incomplete, lead_blocks, leads, ranked_blocks, ranking
from segtrans.report.words import counted, ends, percent, seconds, signed

MOST_DROPS = 8
"""Attacks whose drops per class are seen at once; the others' unfold."""

HEAT_STEPS = 20
# From nothing to everything, for a white and for a dark page.
LIGHT_HEAT: tuple[Colour, ...] = ((244, 242, 236), (246, 219, 176), (236, 158, 96), (200, 80, 58), (122, 28, 44))
DARK_HEAT: tuple[Colour, ...] = ((36, 39, 44), (84, 44, 52), (160, 62, 52), (228, 128, 70), (252, 218, 150))


@dataclass(frozen=True)
class Cell:
    """One cell of a matrix: what it says, and how it looks."""

    value: str
    detail: str
    title: str
    style: str


@dataclass(frozen=True)
class MatrixRow:
    surrogate: str
    cells: list[Cell]


FEW_IMAGES = 20
"""Bootstrap intervals over fewer are noticeably too narrow, which docs/limits.md measures."""


@dataclass(frozen=True)
class Matrix:
    """One attack and one measure: rows are surrogates, columns targets."""

    attack: str
    note: str
    measure: str
    rows: list[MatrixRow]


@dataclass(frozen=True)
class Heat:
    """A colour of the scale and the letters that can be read on it, as CSS."""

    step: int
    background: str
    ink: str


def write_page(run: Path, against: Path | None = None) -> Path:
    """Write ``RUN/report.html`` from the run's ``result.json`` and its pictured images, and compare it with the run in
    ``against``.

    Raises:
        DataError: a folder holds no result, or an image in it is damaged.
    """
    document = read_document(run)
    comparison = None if against is None else compare(document, read_document(against), str(against))
    path = run / "report.html"
    write_text(path, render(document, examples(run, document), comparison))
    return path


@cache
def environment() -> jinja2.Environment:
    """Templates that escape what they are given."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {
        "percent": percent,
        "seconds": seconds,
        "count": counted,
        "breakable": breakable,
        "heat": heat_class,
    }
    filters |= {"signed": signed, "ends": ends}
    cast(dict[str, Any], environment.filters).update(filters)
    return environment


def plots(document: Document) -> list[Plot]:
    """Cost against success for wide and for narrow screens, since letters must not shrink with the page."""
    sizes = ((760, 440, "wide"), (350, 400, "narrow"))
    return [plot for size in sizes if (plot := cost_plot(document, *size)) is not None]


def render(document: Document, shown: Sequence[Example] = (), comparison: Comparison | None = None) -> str:
    """The page as text, with these of the pictured images inside it, and a comparison with another run."""
    names = short_names(document)
    values: dict[str, Any] = {
        "document": document,
        "names": names,
        "headline": headline(document),
        "sentence": sentence(document),
        "blocks": ranked_blocks(document),
        "ranking": ranking(document),
        "incomplete": incomplete(document),
        "leads": leads(document),
        "lead_blocks": lead_blocks(document),
        "plots": plots(document),
        "curves": curves(document),
        "targets": targets(document),
        "matrices": matrices(document),
        "drops": class_drops(document),
        "most_drops": MOST_DROPS,
        "most_examples": MOST_ATTACKS,
        "heat": {"light": heat(LIGHT_HEAT), "dark": heat(DARK_HEAT)},
        "examples": shown,
        "comparison": comparison,
        "left_out": len(document.get("pictures", [])) - len(shown),
        "script_hash": base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode(),
        "script": Markup(_script()),
        "costs": costs(document),
        "failures": failures(document),
        "units": len(document["costs"]),
        "planned": len(document["attacks"]) * len(surrogates(document)) * len(document["config"]["seeds"]),
        "provenance": {attack: provenance(document, attack) for attack in document["attacks"]},
        "clean_miou": {model: clean_miou(document, model) for model in document["models"]},
        "command": command(document),
        "configuration": json.dumps(document["config"], indent=2, ensure_ascii=False),
        "white_box": WHITE_BOX,
        "few": FEW_IMAGES,
    }
    return environment().get_template("page.html.jinja").render(values)


@cache
def _script() -> str:
    return (Path(__file__).parent / "page.js").read_text(encoding="utf-8")


def breakable(name: str) -> Markup:
    """A name that may be broken after its separators rather than anywhere."""
    return Markup("<wbr>").join(escape(part) for part in re.findall(r"[^\-_/+,?&]*[\-_/+,?&]*", name))


def matrices(document: Document) -> list[Matrix]:
    """For every attack the two headline measures over all pairs; attacks without a finished pair are left out."""
    found, names = pairs(document), short_names(document)
    result: list[Matrix] = []
    for attack in document["attacks"]:
        if not any(a == attack for a, _, _ in found):
            continue
        for measure in ("asr_miou", "asr_pixel"):
            rows = [
                MatrixRow(names[s], [_cell(found.get((attack, s, t)), measure) for t in targets(document)])
                for s in surrogates(document)
            ]
            note = "control" if is_control(document, attack) else ""
            result.append(Matrix(attack, note, measure, rows))
    return result


def _cell(pair: Pair | None, measure: str) -> Cell:
    if pair is None:
        return Cell("–", "", "not done", "")
    value, interval = (
        (pair.asr_miou, pair.asr_miou_interval) if measure == "asr_miou" else (pair.asr_pixel, pair.asr_pixel_interval)
    )
    title = (
        f"{pair.block}: asr_miou {percent(pair.asr_miou)}, asr_pixel {percent(pair.asr_pixel)}, "
        f"mIoU {percent(pair.miou_clean)} → {percent(pair.miou)}; "
        f"{counted(pair.images, 'image')}, {counted(pair.seeds, 'seed')}"
    )
    return Cell(percent(value), ends(interval), title, f"{heat_class(value)} {pair.block.replace(' ', '-')}")


def heat_class(value: float | None) -> str:
    """The step of the colour scale for a fraction; values outside 0 … 1 take the ends."""
    return "" if value is None else f"h{round(HEAT_STEPS * min(max(value, 0), 1))}"


def heat(anchors: Sequence[Colour]) -> list[Heat]:
    """The colour scale between ``anchors``, each step with black or white letters, whichever stand out more."""
    scale: list[Heat] = []
    for step in range(HEAT_STEPS + 1):
        place = step / HEAT_STEPS * (len(anchors) - 1)
        first = min(int(place), len(anchors) - 2)
        r, g, b = (
            round(a + (place - first) * (c - a)) for a, c in zip(anchors[first], anchors[first + 1], strict=True)
        )
        scale.append(Heat(step, _css((r, g, b)), _css(ink_on((r, g, b)))))
    return scale


def ink_on(background: Colour) -> Colour:
    """Black or white; one of the two always reaches a contrast of 4.5 (WCAG AA)."""
    black, white = (0, 0, 0), (255, 255, 255)
    return max(black, white, key=lambda ink: contrast(ink, background))


def contrast(one: Colour, other: Colour) -> float:
    """Contrast ratio by WCAG 2."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: Colour) -> float:
    r, g, b = (c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def _css(colour: Colour) -> str:
    return f"#{colour[0]:02x}{colour[1]:02x}{colour[2]:02x}"
