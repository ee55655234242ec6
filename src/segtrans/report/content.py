"""What a finished run's document says, shaped for tables and pages: names, colours, cells over seeds."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from segtrans.bench.results import FORMAT
from segtrans.data.base import Colour, colours
from segtrans.errors import DataError
from segtrans.models.load import ENSEMBLES
from segtrans.report.words import Interval, as_interval

Document = dict[str, Any]
"""What :func:`segtrans.bench.results.document` makes."""

LEAST_CLEAN_MIOU = 0.1
"""Below it a model is rather loaded wrongly, or has other classes, than bad."""

CLEAN = "clean"
"""The row that every table and picture starts from."""

_KEYS: dict[type, tuple[str, ...]] = {
    str: ("segtrans",),
    bool: ("interrupted",),
    dict: ("config", "data", "models", "attacks", "environment"),
    list: ("cells", "pictures", "costs", "summary", "comparison", "class_iou", "failures", "objects"),
}


def read_document(run: Path) -> Document:
    """The ``result.json`` of a run's folder.

    Raises:
        DataError: there is none, or it is no such document, or one of another version's.
    """
    path = run / "result.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such file; a finished run leaves one in its folder") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable result ({error})") from None
    if not isinstance(document, dict) or not {"config", "cells", "comparison"} <= {*document}:
        raise DataError(f"{path}: not the result of a run")
    result: Document = document
    found = result.get("format", 0)
    if not isinstance(found, int):
        raise DataError(f"{path}: has format {found!r}; allowed are whole numbers")
    if found != FORMAT:
        cure = "the run has to be made again, since other code made it" if found < FORMAT else "a newer one is needed"
        raise DataError(f"{path}: has format {found}, this version of segtrans reads format {FORMAT}; {cure}")
    if not all(isinstance(result.get(key), kind) for kind, keys in _KEYS.items() for key in keys):
        raise DataError(f"{path}: not the result of a run")
    return result


def short_names(document: Document) -> dict[str, str]:
    """For each model the last part of its name (of each of its members' names, for an ensemble), or as much of its
    specification as tells it from the others.
    """

    def last(path: str) -> str:
        fuse, _, members = path.partition(":")
        if fuse in ENSEMBLES and "," in members:
            return f"{fuse}:{','.join(map(last, members.split(',')))}"
        return re.split(r"[/\\:]", path.rstrip("/\\"))[-1] or path

    short = {key: last(str(model["name"])) for key, model in document["models"].items()}
    with_options = {key: "?".join((last(key.partition("?")[0]), *key.split("?")[1:])) for key in short}
    for longer in (with_options, {key: key for key in short}):
        twice = {name for name in short.values() if [*short.values()].count(name) > 1}
        short = {key: longer[key] if name in twice else name for key, name in short.items()}
    return short


def surrogates(document: Document) -> list[str]:
    return list(document["config"]["surrogates"])


def targets(document: Document) -> list[str]:
    """The models that were scored: the surrogates themselves where the configuration names no targets."""
    return list(document["config"]["targets"] or document["config"]["surrogates"])


def is_control(document: Document, attack: str) -> bool:
    return document["attacks"][attack]["provenance"] == "control"


def budget(document: Document, attack: str) -> str:
    """``L-inf 8/255``, or ``none`` where every image is within it."""
    entry = document["attacks"][attack]
    return "none" if (entry["norm"], entry["eps"]) == ("L-inf", "1") else f"{entry['norm']} {entry['eps']}"


def mixed_budgets(document: Document) -> dict[str, str]:
    """The budget of each attack, where a run has several; empty where all have the same."""
    found = {attack: budget(document, attack) for attack in document["attacks"]}
    return found if len({*found.values()}) > 1 else {}


def class_colours(document: Document) -> list[tuple[str, Colour]]:
    """Name and colour of each class: the data's, or what the models call them where the data have no masks."""
    data = document["data"]
    palette: list[Colour] = [(int(r), int(g), int(b)) for r, g, b in data["palette"]]
    names: list[str] = list(data["classes"])
    if not names:
        # Models without names of their own count their classes; one that has names knows better.
        candidates = [list(model["class_names"]) for model in document["models"].values()]
        names = next((c for c in candidates if c[:1] != ["class 0"]), candidates[0])
        palette = list(colours(len(names)))
    return list(zip(names, palette, strict=True))


@dataclass(frozen=True)
class Pair:
    """An attack made on one model and scored on another, means over seeds."""

    block: str
    seeds: int
    images: int
    miou_clean: float | None
    miou: float | None
    asr_miou: float | None
    asr_pixel: float | None
    asr_miou_interval: Interval | None
    asr_pixel_interval: Interval | None


def pairs(document: Document) -> dict[tuple[str, str, str], Pair]:
    """The cells by (attack, surrogate, target), means over seeds; intervals are the means of their ends."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for cell in document["cells"]:
        groups.setdefault((cell["attack"], cell["surrogate"], cell["target"]), []).append(cell)
    return {
        key: Pair(
            block=group[0]["block"],
            seeds=len(group),
            images=min(cell["images"] for cell in group),
            miou_clean=_mean(cell["miou_clean"] for cell in group),
            miou=_mean(cell["miou"] for cell in group),
            asr_miou=_mean(cell["asr_miou"] for cell in group),
            asr_pixel=_mean(cell["asr_pixel"] for cell in group),
            asr_miou_interval=_interval(group, "asr_miou_interval"),
            asr_pixel_interval=_interval(group, "asr_pixel_interval"),
        )
        for key, group in groups.items()
    }


def clean_miou(document: Document, model: str) -> float | None:
    """A target's mIoU on the clean images, on the most that an attack was scored on; None where its own predictions are
    the reference, or it was no target.
    """
    if document["data"]["reference"] != "masks":
        return None
    cells = [cell for cell in document["cells"] if cell["target"] == model]
    return max(cells, key=lambda cell: cell["images"])["miou_clean"] if cells else None


def poor(document: Document) -> list[str]:
    """Short names of targets that are wrong nearly everywhere before any attack, of whose ratios little can be read."""
    names, clean = short_names(document), {target: clean_miou(document, target) for target in targets(document)}
    return [names[target] for target, value in clean.items() if value is not None and value < LEAST_CLEAN_MIOU]


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is defined, as in the document's own summary."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _interval(cells: Sequence[dict[str, Any]], name: str) -> Interval | None:
    return as_interval((_mean(cell[name][0] for cell in cells), _mean(cell[name][1] for cell in cells)))
