"""What `segtrans list` shows: one dict per row, the same for people and for machines."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from inspect import getdoc
from typing import Any

from segtrans.catalogue import ENTRIES, PARTS, Entry
from segtrans.composition import spell
from segtrans.data import READERS
from segtrans.errors import SegtransError
from segtrans.interop.foreign import Foreign
from segtrans.models import load_model
from segtrans.models.load import SOURCES
from segtrans.steps import Adaptive
from segtrans.threat import LInf, in_grey_levels
from segtrans.worst import AnyAttack

Row = dict[str, Any]


def _rows(things: Mapping[str, Any], row: Callable[[str, Any], Row], names: Iterable[str] | None = None) -> list[Row]:
    """A row for each, or each of these names; the last column says why where a name cannot be used."""
    rows: list[Row] = []
    for name in things if names is None else names:
        try:
            rows.append(row(name, things[name]))
        except SegtransError as error:
            rows.append({"name": name, "": f"unusable: {error}"})
    columns = next((list(row) for row in rows if "" not in row), ["name", "what"])
    return [
        row if "" not in row else {**dict.fromkeys(columns, ""), "name": row["name"], columns[-1]: row[""]}
        for row in rows
    ]


def attacks() -> list[Row]:
    """The catalogue."""

    def row(name: str, entry: Entry) -> Row:
        return {
            "name": name,
            "family": entry.family,
            "gradients per iteration": entry.attack.evaluations_per_iteration if entry.attack.iterations else 0,
            "preparation": entry.attack.preparation,
            "iterations": entry.attack.iterations,
            "step": step(entry.attack),
            "eps": in_grey_levels(entry.attack.threat.radius) if entry.attack.threat != LInf(1) else "none",
            "composition": " | ".join(map(spell, entry.attack.attacks)),
            "defaults": " | ".join(spell(attack, defaults=True) for attack in entry.attack.attacks),
            "provenance": entry.provenance,
            "paper": entry.paper,
            "venue": entry.venue,
            "title": entry.title,
        }

    return _rows(ENTRIES, row)


def step(attack: AnyAttack) -> str:
    """The length of an attack's steps as it was said, ``found`` where it finds them itself, nothing where it takes none
    or another library's attack has no such setting; several for attacks that are made of others.
    """
    if isinstance(attack, Foreign):
        return _length(attack.step_size)
    parts = [part for part in attack.attacks if part.iterations]
    return ", ".join(
        dict.fromkeys("found" if isinstance(part.step, Adaptive) else _length(part.step_size) for part in parts)
    )


def _length(said: float | str | None) -> str:
    return in_grey_levels(said) if isinstance(said, float | int) else said or ""


def parts() -> list[Row]:
    """What compositions are made of."""
    return [
        {
            "name": name,
            "settings": ", ".join(f"{f.name}={f.default!r}" for f in fields(cls)),
            "what": _sentence(cls),
        }
        for name, cls in PARTS.items()
    ]


def models() -> list[Row]:
    """The embedded zoo, then the other sources."""
    from segtrans.zoo import cards, read_card  # builds networks, for which libraries are imported for seconds

    zoo = [(f"zoo:{name}", read_card(path)) for name, path in cards().items()]
    rows = [
        {"name": name, "mIoU": f"{card.miou:.1f}", "classes": len(card.classes), "what": card.training_data}
        for name, card in zoo
    ]
    table = [line.replace("``", "") for line in (getdoc(load_model) or "").splitlines() if line.startswith("``")]
    sources = [re.split(r"\s{2,}", line, maxsplit=1) for line in table]
    sources += [[f"{row['name']}:…", row["what"]] for row in _rows(SOURCES, _described, SOURCES.added)]
    return rows + [{"name": name, "mIoU": "", "classes": "", "what": what} for name, what in sources]


def datasets() -> list[Row]:
    """The readers."""
    return _rows(READERS, _described)


def _described(name: str, thing: Any) -> Row:
    return {"name": name, "what": _sentence(thing)}


def _sentence(thing: Any) -> str:
    """The first sentence of a docstring."""
    return " ".join((getdoc(thing) or "").split("\n\n")[0].replace("``", "").split()).partition(". ")[0].rstrip(".")


LISTINGS: dict[str, Callable[[], list[Row]]] = {
    "attacks": attacks,
    "parts": parts,
    "models": models,
    "datasets": datasets,
}
