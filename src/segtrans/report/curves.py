"""Success over the budget and over the number of iterations, where a run has an attack with several of them."""

import re
from collections.abc import Mapping
from dataclasses import replace

from segtrans.report.content import Document
from segtrans.report.plot import Plot, Point, curve_plot, points
from segtrans.report.ranking import ranked_blocks

KINDS = {"eps": ("budget in grey levels", "grey levels"), "iterations": ("iterations", "iterations")}
"""What an axis says, and the unit of a point."""

# What the value of an attack says of them; parts may have settings of the same names.
_SAID = {"eps": r"(?<=threat=LInf\()[^)]*(?=\))", "iterations": r"(?<=\biterations=)\d+(?=, step_size=)"}


def series(document: Document, kind: str) -> dict[str, list[Point]]:
    """For each attack of which the run has several that differ in ``kind`` alone, by what is common to their names:
    its points, from the smallest on, with that number as the cost.
    """
    groups: dict[str, list[Point]] = {}
    for point in points(document):
        entry = document["attacks"][point.attack]
        if re.search(_SAID[kind], entry["value"]) and (number := _number(entry, kind)):
            rest = re.sub(_SAID[kind], "", entry["value"])
            spent = f"{number:g} {KINDS[kind][1]}"
            groups.setdefault(rest, []).append(replace(point, cost=number, spent=spent, front=False))
    found = [sorted(g, key=lambda p: p.cost) for g in groups.values() if len({point.cost for point in g}) > 1]
    names = [_common(group[0].attack, kind) for group in found]
    return {
        name if names.count(name) == 1 else group[0].attack: group for name, group in zip(names, found, strict=True)
    }


def curves(document: Document) -> dict[str, list[Plot]]:
    """For ``eps`` and ``iterations`` a plot per attack, all on the same axes, the strongest attack first."""
    block, found = ranked_blocks(document)[0], {}
    for kind, (axis, _) in KINDS.items():
        lines = series(document, kind)
        if lines:
            found[kind] = [curve_plot(lines, name, axis, block) for name in lines]
    return found


def _number(entry: Mapping[str, object], kind: str) -> float:
    """A budget in grey levels, or the iterations."""
    top, _, bottom = str(entry[kind]).partition("/")
    return float(top) if kind == "iterations" else 255 * float(top) / float(bottom or 1)


def _common(name: str, kind: str) -> str:
    """An attack's name without what it says of ``kind``."""
    shorter = re.sub(rf"(?<=\()\s*{kind}=[^,()]+(?:,\s*|(?=\)))|,\s*{kind}=[^,()]+(?=[,)])", "", name)
    return re.sub(r"^linf\(\) \+ | \+ linf\(\)|\(\)", "", shorter)
