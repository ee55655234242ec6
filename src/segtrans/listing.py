"""What `segtrans list` shows: one dict per row, the same for people and for machines."""

import re
from collections.abc import Callable
from dataclasses import fields
from inspect import getdoc
from typing import Any

from segtrans.catalogue import ENTRIES, PARTS
from segtrans.data import READERS
from segtrans.models import load_model
from segtrans.threat import in_grey_levels
from segtrans.zoo import cards, read_card

Row = dict[str, Any]


def attacks() -> list[Row]:
    """The catalogue."""
    return [
        {
            "name": entry.name,
            "family": entry.family,
            "gradients per iteration": entry.attack.evaluations_per_iteration if entry.attack.iterations else 0,
            "preparation": entry.attack.preparation,
            "iterations": entry.attack.iterations,
            "step": ", ".join(dict.fromkeys(str(a.step_size) for a in entry.attack.attacks if a.iterations)),
            "eps": in_grey_levels(entry.attack.threat.radius),
            "provenance": entry.provenance,
            "paper": entry.paper,
            "venue": entry.venue,
            "title": entry.title,
        }
        for entry in ENTRIES.values()
    ]


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
    zoo = [(f"zoo:{name}", read_card(path)) for name, path in cards().items()]
    rows = [
        {"name": name, "mIoU": f"{card.miou:.1f}", "classes": len(card.classes), "what": card.training_data}
        for name, card in zoo
    ]
    table = [line.replace("``", "") for line in (getdoc(load_model) or "").splitlines() if line.startswith("``")]
    sources = [re.split(r"\s{2,}", line, maxsplit=1) for line in table]
    return rows + [{"name": name, "mIoU": "", "classes": "", "what": what} for name, what in sources]


def datasets() -> list[Row]:
    """The readers."""
    return [{"name": name, "what": _sentence(reader)} for name, reader in READERS.items()]


def _sentence(thing: Any) -> str:
    """The first sentence of a docstring."""
    return " ".join((getdoc(thing) or "").split("\n\n")[0].replace("``", "").split()).partition(". ")[0].rstrip(".")


LISTINGS: dict[str, Callable[[], list[Row]]] = {
    "attacks": attacks,
    "parts": parts,
    "models": models,
    "datasets": datasets,
}
