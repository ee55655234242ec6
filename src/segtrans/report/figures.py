"""The page's figures as SVG files fit for a paper: no style sheet beside them, plain colours, light."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segtrans.bench.store import slug
from segtrans.bench.summary import SAME_BACKBONE, WHITE_BOX
from segtrans.io import write_text
from segtrans.report.content import Document, pairs, short_names, surrogates, targets
from segtrans.report.curves import KINDS, curves
from segtrans.report.heat import LIGHT_HEAT, heat, heat_step
from segtrans.report.html import environment
from segtrans.report.plot import cost_plot
from segtrans.report.ranking import class_drops
from segtrans.report.words import percent

_COLOURS = {"ink": "#1c2025", "quiet": "#585f69", "rule": "#dcdfe3", "accent": "#a3392b", "paper": "#fff",
            "sans": "Helvetica, Arial, sans-serif"}  # fmt: skip
_NAMES = ("cost", "classes", "transfer-*", *(f"{kind}-*" for kind in KINDS))
_DASHES = {WHITE_BOX: "none", SAME_BACKBONE: "3 2"}


@dataclass(frozen=True)
class Square:
    """A cell of a heat map; ``dash`` is that of its frame, None for none."""

    value: str
    background: str
    ink: str
    dash: str | None


def write_figures(run: Path, document: Document) -> Path | None:
    """Write cost against success, curves over budget and iterations, ``asr_miou`` of every attack on all pairs, and
    drops per class to ``RUN/figures``; returns the folder, or None where there is nothing to show. Further figures of
    such names, which an earlier run of the folder left, are removed.
    """
    files: dict[str, str] = {}
    plot = cost_plot(document, 760, 440, "wide")
    if plot is not None:
        files["cost"] = environment().get_template("plot.svg.jinja").render(plot=plot)
    for kind, drawn in curves(document).items():
        files |= {
            f"{kind}-{slug(each.title)}": environment().get_template("plot.svg.jinja").render(plot=each)
            for each in drawn
        }
    found, names = pairs(document), short_names(document)
    models = targets(document)
    for attack in dict.fromkeys(attack for attack, _, _ in found):
        rows: list[tuple[str, list[Square]]] = []
        for surrogate in surrogates(document):
            cells = [found.get((attack, surrogate, target)) for target in models]
            rows.append(
                (names[surrogate], [_square(c and c.asr_miou, 1, _DASHES.get(c.block) if c else None) for c in cells])
            )
        files[f"transfer-{slug(attack)}"] = _grid(f"{attack}, asr_miou in %", [names[m] for m in models], rows)
    drops = class_drops(document)
    if drops:
        lost = [(each.attack, [_square(drop, 0) for drop in each.drops]) for each in drops]
        files["classes"] = _grid("IoU lost per class, in points", document["data"]["classes"], lost)
    folder = run / "figures"
    ours = {folder / f"{name}.svg": _alone(text) for name, text in files.items()}
    for stale in {path for name in _NAMES for path in folder.glob(f"{name}.svg")} - {*ours}:
        stale.unlink(missing_ok=True)
    for path, text in ours.items():
        write_text(path, text)
    return folder if files else None


def _square(value: float | None, digits: int, dash: str | None = None) -> Square:
    if value is None:
        return Square(percent(value), "none", _COLOURS["quiet"], dash)
    colour = heat(LIGHT_HEAT)[heat_step(value)]
    return Square(percent(value, digits), colour.background, colour.ink, dash)


def _grid(title: str, columns: Sequence[str], rows: Sequence[tuple[str, list[Square]]]) -> str:
    left = 20 + 7 * max(len(name) for name, _ in rows)
    # Columns' names are turned by 45 degrees.
    right = 5 * max(len(name) for name in columns)
    template = environment().get_template("grid.svg.jinja")
    return template.render(title=title, columns=columns, rows=rows, left=left, right=right, top=40 + right)


def _alone(svg: str) -> str:
    """With its style inside, and without characters that XML has no place for; what draws papers knows no custom
    properties, so their values stand in their place.
    """
    svg = re.sub(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", svg)
    css = (Path(__file__).parent / "plot.css").read_text(encoding="utf-8")
    style = re.sub(r"var\(--(\w+)\)", lambda found: _COLOURS[found[1]], css)
    width, height = re.findall(r'viewBox="0 0 (\d+) (\d+)"', svg)[0]
    start = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    return re.sub(">", f"><style>{style}</style>", svg.replace("<svg ", start, 1), count=1)
