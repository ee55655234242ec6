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
from segtrans.data.folder import FILES
from segtrans.io import write_text
from segtrans.metrics import HEADLINES
from segtrans.report.compare import Comparison, compare
from segtrans.report.content import (
    LEAST_CLEAN_MIOU,
    Document,
    Pair,
    budget,
    clean_miou,
    is_control,
    mixed_budgets,
    pairs,
    poor,
    read_document,
    short_names,
    surrogates,
    targets,
)
from segtrans.report.costs import costs, failures
from segtrans.report.curves import curves
from segtrans.report.gallery import MOST_ATTACKS, Example, examples
from segtrans.report.heat import DARK_HEAT, LIGHT_HEAT, heat, heat_step
from segtrans.report.origin import command, provenance, sentence
from segtrans.report.pictures import picture_path
from segtrans.report.plot import Plot, cost_plot
from segtrans.report.ranking import (
    class_drops,
    clean_iou,
    headline,
    incomplete,
    lead_blocks,
    leads,
    ranked_blocks,
    ranking,
)
from segtrans.report.words import counted, ends, percent, seconds, signed

MOST_DROPS = 8
"""Attacks whose drops per class are seen at once; the others' unfold."""

FEW_IMAGES = 20
"""Bootstrap intervals over fewer are noticeably too narrow, which docs/limits.md measures."""


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


@dataclass(frozen=True)
class Matrix:
    """One attack and one measure: rows are surrogates, columns targets."""

    attack: str
    note: str
    measure: str
    rows: list[MatrixRow]


def write_page(run: Path, document: Document, against: Path | None = None) -> Path:
    """Write ``RUN/report.html`` from the run's document and its pictured images, and compare it with the run in
    ``against``.

    Raises:
        DataError: ``against`` holds no result, or an image in the run's folder is damaged.
    """
    comparison = None if against is None else compare(document, read_document(against), str(against))
    shown = examples(run, document)
    drawn = [path for entry in document["pictures"] if (path := picture_path(run, entry)).is_file()]
    left_out = {path.relative_to(run).as_posix() for path in drawn} - {example.file for example in shown}
    path = run / "report.html"
    write_text(path, render(document, shown, comparison, len(left_out)))
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


def render(
    document: Document, shown: Sequence[Example] = (), comparison: Comparison | None = None, left_out: int = 0
) -> str:
    """The page as text, with these of the pictured images inside it, and a comparison with another run; ``left_out`` is
    the number of further pictures in the run's folder.
    """
    names = short_names(document)
    values: dict[str, Any] = {
        "document": document,
        "names": names,
        "headline": headline(document),
        "sentence": sentence(document),
        "blocks": ranked_blocks(document),
        "ranking": ranking(document),
        "mixed_budgets": mixed_budgets(document),
        "incomplete": incomplete(document),
        "leads": leads(document),
        "lead_blocks": lead_blocks(document),
        "plots": plots(document),
        "curves": curves(document),
        "targets": targets(document),
        "matrices": matrices(document),
        "drops": class_drops(document),
        "clean_iou": clean_iou(document),
        "most_drops": MOST_DROPS,
        "most_examples": MOST_ATTACKS,
        "heat": {"light": heat(LIGHT_HEAT), "dark": heat(DARK_HEAT)},
        "examples": shown,
        "comparison": comparison,
        "left_out": left_out,
        "script_hash": base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode(),
        "script": Markup(_script()),
        "costs": costs(document),
        "failures": failures(document),
        "trials": len(document["costs"]),
        "planned": len(document["attacks"]) * len(surrogates(document)) * len(document["config"]["seeds"]),
        "budget": {attack: budget(document, attack) for attack in document["attacks"]},
        "provenance": {attack: provenance(document, attack) for attack in document["attacks"]},
        "clean_miou": {model: clean_miou(document, model) for model in document["models"]},
        "command": command(document),
        "unnamed": [name for name in document["objects"] if name != FILES],
        "poor": poor(document),
        "least_clean_miou": LEAST_CLEAN_MIOU,
        "configuration": json.dumps(document["config"], indent=2, ensure_ascii=False),
        "white_box": WHITE_BOX,
        "few": FEW_IMAGES,
        "fewest": min((cell["images"] for cell in document["cells"]), default=document["data"]["images"]),
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
        for measure in HEADLINES:
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
    value, interval = getattr(pair, measure), getattr(pair, f"{measure}_interval")
    title = (
        f"{pair.block}: asr_miou {percent(pair.asr_miou)}, asr_pixel {percent(pair.asr_pixel)}, "
        f"mIoU {percent(pair.miou_clean)} → {percent(pair.miou)}; "
        f"{counted(pair.images, 'image')}, {counted(pair.seeds, 'seed')}"
    )
    return Cell(percent(value), ends(interval), title, f"{heat_class(value)} {pair.block.replace(' ', '-')}")


def heat_class(value: float | None) -> str:
    """The CSS class of a fraction's colour."""
    return "" if value is None else f"h{heat_step(value)}"
